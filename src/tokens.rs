//! Tokens (JWT, RFC 7519): who shows one, until when, and what it allows. Pure; time is an argument.
//!
//! - The configured key fixes the algorithm; what a token says of itself is only compared with it. So there is no `none`,
//!   and no secret made of a public key's text.
//! - The signature is checked before anything of the claims is read; then in this order: the claims' types, `exp`, `nbf`,
//!   `iss`, `aud`. There is no leeway.
//! - Nothing here shows anything of a token: no error, no `Debug`.
//!
//! `keys` are the keys and their cryptography, `rights` what a token allows. What a session does with a token is its own
//! matter.

mod keys;
mod rights;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, TokenData, Validation, decode, decode_header};
use serde_json::{Map, Number, Value};

use self::keys::Key;
pub use self::rights::Rights;
use crate::config::{TokenKeyKind, TokenKeys};
use crate::metrics::labels::TokenProblem;
use crate::protocol::user_name;

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// What a good token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who shows it (`sub`).
    pub user: Option<Arc<str>>,
    /// When it ends (`exp`), in Unix milliseconds; `None` if it does not.
    pub expires: Option<u64>,
    /// What it allows.
    pub rights: Arc<Rights>,
}

/// Why a token is refused. The texts are for whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error(
        "this server lets nobody in without a token: append ?token= and a JWT, or offer the subprotocol \
             roomcast.token.<JWT> beside roomcast.v1"
    )]
    Missing,
    /// It is too long to be looked at.
    #[error("a token has at most {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// It is no JWT.
    #[error(
        "the token is no signed JWT: that is header, claims and signature in base64url, with points between"
    )]
    Malformed,
    /// It is signed in another way than the key's.
    #[error("the token is not signed with the algorithm of this server's key, {0}")]
    Algorithm(&'static str),
    /// The key did not sign it.
    #[error("the token's signature is not that of this server's key")]
    Signature,
    /// A claim has the wrong type.
    #[error("the token's claim \"{0}\" must be {1}")]
    Claim(&'static str, &'static str),
    /// Its time is over.
    #[error("the token has expired (exp); get a new one")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet (nbf)")]
    NotYetValid,
    /// Somebody else issued it.
    #[error("the token is not from the issuer (iss) that this server trusts")]
    Issuer,
    /// It is for somebody else.
    #[error("the token is not meant for this server (aud)")]
    Audience,
}

impl TokenError {
    /// The label that it is counted under.
    #[must_use]
    pub fn problem(self) -> TokenProblem {
        match self {
            Self::Missing => TokenProblem::Missing,
            Self::TooLong | Self::Malformed => TokenProblem::Malformed,
            Self::Algorithm(_) => TokenProblem::Algorithm,
            Self::Signature => TokenProblem::Signature,
            Self::Claim(..) | Self::Issuer | Self::Audience => TokenProblem::Claims,
            Self::Expired | Self::NotYetValid => TokenProblem::Time,
        }
    }
}

/// A configured key that no token can be checked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{variable}: the key cannot be used: {problem}; allowed is a public key in PEM form: RSA of 2048 to 8192 bits, \
     EC on the curve P-256, or Ed25519"
)]
pub struct KeyError {
    /// Where it was configured.
    pub variable: &'static str,
    problem: &'static str,
}

/// Checks tokens with the keys of one node.
pub struct Verifier {
    /// The current one first. Two may be of two kinds.
    keys: Vec<(Key, Validation)>,
    issuer: Option<String>,
    audience: Option<String>,
}

impl Verifier {
    /// One for these keys.
    ///
    /// # Errors
    /// [`KeyError`] if one of them cannot be used.
    pub fn new(config: &TokenKeys) -> Result<Self, KeyError> {
        keys::install();
        let variables = match config.kind {
            TokenKeyKind::Shared => ["ROOMCAST_JWT_SECRET", "ROOMCAST_JWT_SECRET_PREVIOUS"],
            TokenKeyKind::Public => ["ROOMCAST_JWT_PUBLIC_KEY", "ROOMCAST_JWT_PUBLIC_KEY_PREVIOUS"],
        };
        let texts = [Some(&config.current), config.previous.as_ref()];
        let mut keys = Vec::new();
        for (variable, text) in variables.into_iter().zip(texts) {
            let Some(text) = text else { continue };
            let key = match config.kind {
                TokenKeyKind::Shared => Key::shared(text.reveal()),
                TokenKeyKind::Public => {
                    Key::public(text.reveal()).map_err(|problem| KeyError { variable, problem })?
                }
            };
            let validation = signature_only(key.algorithm);
            keys.push((key, validation));
        }
        Ok(Self {
            keys,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
        })
    }

    /// What this token grants at this time.
    ///
    /// # Errors
    /// [`TokenError`] says why it grants nothing.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Grant, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        self.grant(&self.claims(token)?, unix_millis(now))
    }

    /// The claims of a token that one of the keys has signed.
    fn claims(&self, token: &str) -> Result<Map<String, Value>, TokenError> {
        // An algorithm that the crate does not know, "none" among them, is no header to it.
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        // Extensions that have to be understood (RFC 7515 section 4.1.11); none is.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let mut problem = TokenError::Algorithm(name(self.keys[0].0.algorithm));
        for (key, validation) in &self.keys {
            if key.algorithm != header.alg {
                continue;
            }
            match decode(token, &key.decoding, validation) {
                Ok(TokenData { claims, .. }) => return Ok(claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => problem = TokenError::Signature,
                Err(_) => return Err(TokenError::Malformed),
            }
        }
        Err(problem)
    }

    fn grant(&self, claims: &Map<String, Value>, now: u64) -> Result<Grant, TokenError> {
        let time = |name| match claims.get(name) {
            None => Ok(None),
            Some(Value::Number(seconds)) => Ok(Some(millis(seconds))),
            Some(_) => Err(TokenError::Claim(name, "a number of seconds since 1970")),
        };
        let (expires, not_before) = (time("exp")?, time("nbf")?);
        let user = match claims.get("sub") {
            None => None,
            Some(sub) => {
                let user = sub.as_str().and_then(user_name);
                let form = "a string of 1 to 128 bytes without control characters";
                Some(user.ok_or(TokenError::Claim("sub", form))?)
            }
        };
        let rights = Rights::new(list("rooms", claims)?, list("publish", claims)?);
        if expires.is_some_and(|expires| expires <= now) {
            return Err(TokenError::Expired);
        }
        if not_before.is_some_and(|not_before| not_before > now) {
            return Err(TokenError::NotYetValid);
        }
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(TokenError::Issuer);
        }
        if let Some(audience) = &self.audience {
            let is_meant = match claims.get("aud") {
                Some(Value::String(one)) => one == audience,
                Some(Value::Array(several)) => several.iter().any(|one| one == audience.as_str()),
                _ => false,
            };
            if !is_meant {
                return Err(TokenError::Audience);
            }
        }
        Ok(Grant {
            user,
            expires,
            rights: Arc::new(rights),
        })
    }
}

/// What the crate is to check: nothing beside the signature. It takes a token at its very `exp`, rounds times, and is
/// content with claims of a wrong type.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::RS256 => "RS256",
        Algorithm::ES256 => "ES256",
        _ => "EdDSA",
    }
}

/// The names that a claim lists, if it is there.
fn list<'a>(name: &'static str, claims: &'a Map<String, Value>) -> Result<Option<Vec<&'a str>>, TokenError> {
    let names = match claims.get(name) {
        None => return Ok(None),
        Some(Value::Array(names)) => names.iter().map(Value::as_str).collect(),
        Some(_) => None,
    };
    let form = "a list of room names, or of prefixes that end in *";
    names.map(Some).ok_or(TokenError::Claim(name, form))
}

/// Seconds, which may have a fraction, as milliseconds; what is out of range becomes the nearest that is not.
fn millis(seconds: &Number) -> u64 {
    if let Some(seconds) = seconds.as_u64() {
        return seconds.saturating_mul(1_000);
    }
    let seconds = seconds.as_f64().unwrap_or(0.0).max(0.0);
    Duration::try_from_secs_f64(seconds).map_or(u64::MAX, whole_millis)
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_millis(time: SystemTime) -> u64 {
    whole_millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "../tests/it/support/tokens.rs"]
pub(crate) mod signing;

#[cfg(test)]
pub(crate) mod tests;
