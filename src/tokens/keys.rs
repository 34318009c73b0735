//! Keys that tokens are checked with, and the cryptography behind the `jsonwebtoken` crate: that of `ring`, which TLS
//! needs anyway. The crate's own choices are a library in C and an RSA implementation with an open advisory.
//!
//! A key fixes its algorithm. It is checked when it is read: one that could never verify anything must stop the start, and
//! not refuse every token.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, new_error};
use jsonwebtoken::signature;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use ring::{agreement, hmac, rand};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{SubjectPublicKeyInfoDer, alg_id};

/// Bits of an RSA modulus that can be used.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A key and the one algorithm that it is used with.
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

impl Key {
    /// The secret of HS256 tokens.
    pub(super) fn shared(secret: &str) -> Self {
        Self {
            algorithm: Algorithm::HS256,
            decoding: DecodingKey::from_secret(secret.as_bytes()),
        }
    }

    /// A public key in PEM form. `Err` says what is wrong with it, with nothing of it.
    pub(super) fn public(pem: &str) -> Result<Self, &'static str> {
        let info = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "what is between BEGIN PUBLIC KEY and END PUBLIC KEY is not base64")?;
        let (identifier, key) = parts(&info).ok_or("it has not the form of a public key")?;
        if identifier == alg_id::RSA_ENCRYPTION.as_ref() {
            check_rsa(key)?;
            return Ok(Self {
                algorithm: Algorithm::RS256,
                decoding: DecodingKey::from_rsa_der(key),
            });
        }
        if identifier == alg_id::ECDSA_P256.as_ref() {
            check_point(key)?;
            return Ok(Self {
                algorithm: Algorithm::ES256,
                decoding: DecodingKey::from_ec_der(key),
            });
        }
        if identifier == alg_id::ED25519.as_ref() && key.len() == ring::signature::ED25519_PUBLIC_KEY_LEN {
            return Ok(Self {
                algorithm: Algorithm::EdDSA,
                decoding: DecodingKey::from_ed_der(key),
            });
        }
        Err("it is of a kind that is not supported")
    }
}

/// The algorithm and the key itself in a `SubjectPublicKeyInfo` (RFC 5280 section 4.1).
fn parts<'a>(info: &'a SubjectPublicKeyInfoDer<'_>) -> Option<(&'a [u8], &'a [u8])> {
    let mut rest = info.as_ref();
    let mut fields = element(&mut rest, SEQUENCE)?;
    let identifier = element(&mut fields, SEQUENCE)?;
    let (unused_bits, key) = element(&mut fields, BIT_STRING)?.split_first()?;
    (rest.is_empty() && fields.is_empty() && *unused_bits == 0).then_some((identifier, key))
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// Takes an element of this kind off DER-encoded bytes.
fn element<'a>(from: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let rest = from.strip_prefix(&[tag])?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short @ 0..=0x7f => (usize::from(*short), rest),
        // A key of the largest size has a length of two bytes.
        0x81..=0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0, |length, byte| (length << 8) | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some(content)
}

/// An `RSAPublicKey` (RFC 8017 appendix A.1.1).
fn check_rsa(key: &[u8]) -> Result<(), &'static str> {
    let numbers = || {
        let mut rest = key;
        let mut fields = element(&mut rest, SEQUENCE)?;
        Some((element(&mut fields, INTEGER)?, element(&mut fields, INTEGER)?))
    };
    let (modulus, exponent) = numbers().ok_or("it has not the form of an RSA key")?;
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err("an RSA key has 2048 to 8192 bits");
    }
    match exponent {
        [.., last] if last % 2 == 1 && exponent != [1] => Ok(()),
        _ => Err("its exponent is none of an RSA key"),
    }
}

/// Whether these bytes are a point of P-256. Only a use of it tells.
fn check_point(point: &[u8]) -> Result<(), &'static str> {
    let ours = agreement::EphemeralPrivateKey::generate(&agreement::ECDH_P256, &rand::SystemRandom::new())
        .map_err(|_| "it could not be checked, because the system gives no random numbers")?;
    let theirs = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, point);
    agreement::agree_ephemeral(ours, &theirs, |_| ()).map_err(|_| "it is no point of the curve P-256")
}

/// Makes `jsonwebtoken` use what is here. It takes one for the whole process, and this is the only one.
pub(super) fn install() {
    // Fails if that has been done before.
    let _ = RING.install_default();
}

static RING: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

fn no_signer(_: &Algorithm, _: &EncodingKey) -> jsonwebtoken::errors::Result<Box<dyn JwtSigner>> {
    Err(new_error(ErrorKind::UnsupportedAlgorithm))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> jsonwebtoken::errors::Result<Box<dyn JwtVerifier>> {
    match algorithm {
        Algorithm::HS256 | Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA => {
            Ok(Box::new(RingVerifier {
                algorithm: *algorithm,
                key: key.try_get_as_bytes()?.into(),
            }))
        }
        _ => Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    }
}

struct RingVerifier {
    algorithm: Algorithm,
    key: Box<[u8]>,
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl signature::Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let outcome = match self.algorithm {
            Algorithm::HS256 => {
                hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &self.key), message, signature)
            }
            Algorithm::RS256 => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.key).verify(message, signature)
            }
            Algorithm::ES256 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.key).verify(message, signature)
            }
            Algorithm::EdDSA => UnparsedPublicKey::new(&ED25519, &self.key).verify(message, signature),
            _ => return Err(signature::Error::new()),
        };
        outcome.map_err(|_| signature::Error::new())
    }
}
