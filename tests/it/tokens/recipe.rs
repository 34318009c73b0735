//! The recipe for Rust of docs/tokens.md, compiled; [`super::recipes`] compares the two.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::json;

pub(super) fn token(secret: &str, user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let claims = json!({"sub": user, "exp": now.as_secs() + 600, "rooms": ["lobby", "team-7-*"]});
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let signed = [header, claims]
        .map(|part| encode(part.to_string().as_bytes()))
        .join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}
