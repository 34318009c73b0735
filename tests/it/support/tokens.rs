//! Makes tokens, good and bad ones, with the cryptography of ring and nothing of what checks them. The tests beside the
//! code and the benchmarks use it, too.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

/// What signs tokens.
pub(crate) struct Signer {
    key: Key,
    /// What the server is configured with.
    public: String,
}

enum Key {
    Secret(String),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    /// HS256 with this secret.
    pub(crate) fn secret(secret: &str) -> Self {
        Self {
            key: Key::Secret(secret.to_owned()),
            public: secret.to_owned(),
        }
    }

    /// RS256, always with the same key.
    pub(crate) fn rsa() -> Self {
        let key = rcgen::KeyPair::from_pem(include_str!("../../keys/rsa.pem")).expect("a key");
        Self {
            key: Key::Rsa(RsaKeyPair::from_pkcs8(&key.serialize_der()).expect("a key")),
            public: include_str!("../../keys/rsa.pub.pem").to_owned(),
        }
    }

    /// ES256 with a new key.
    pub(crate) fn ec() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random);
        Self {
            key: Key::Ec(pair.expect("a key")),
            public: key.public_key_pem(),
        }
    }

    /// EdDSA with a new key.
    pub(crate) fn ed() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        Self {
            key: Key::Ed(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key.serialize_der()).expect("a key")),
            public: key.public_key_pem(),
        }
    }

    /// The secret, or the public key as PEM.
    pub(crate) fn public(&self) -> &str {
        &self.public
    }

    /// What the public key is, without its wrapping.
    pub(crate) fn raw_public(&self) -> Vec<u8> {
        match &self.key {
            Key::Secret(secret) => secret.clone().into_bytes(),
            Key::Rsa(key) => key.public_key().as_ref().to_vec(),
            Key::Ec(key) => key.public_key().as_ref().to_vec(),
            Key::Ed(key) => key.public_key().as_ref().to_vec(),
        }
    }

    /// The setting that makes a node check such tokens.
    pub(crate) fn setting(&self) -> (&'static str, &str) {
        let variable = match self.key {
            Key::Secret(_) => "ROOMCAST_JWT_SECRET",
            _ => "ROOMCAST_JWT_PUBLIC_KEY",
        };
        (variable, &self.public)
    }

    /// The algorithm of the key.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self.key {
            Key::Secret(_) => "HS256",
            Key::Rsa(_) => "RS256",
            Key::Ec(_) => "ES256",
            Key::Ed(_) => "EdDSA",
        }
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "typ": "JWT"});
        self.sign_texts(&header.to_string(), &claims.to_string())
    }

    /// One whose header says something else.
    pub(crate) fn sign_texts(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Secret(secret) => hmac(secret.as_bytes(), message),
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .expect("signed");
                signature
            }
            Key::Ec(key) => key.sign(&random, message).expect("signed").as_ref().to_vec(),
            Key::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

/// A token of HS256 with this secret, whatever bytes that is.
pub(crate) fn hs256(secret: &[u8], claims: &Value) -> String {
    let header = json!({"alg": "HS256"}).to_string();
    let signed = format!("{}.{}", encode(header), encode(claims.to_string()));
    let signature = hmac(secret, signed.as_bytes());
    format!("{signed}.{}", encode(signature))
}

fn hmac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    ring::hmac::sign(&key, message).as_ref().to_vec()
}

/// Base64url without padding.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
