//! Every way in which a token is good, and every way in which it is not.

use std::ffi::OsString;

use proptest::prelude::*;
use serde_json::json;

use super::signing::{Signer, encode, hs256};
use super::*;
use crate::config::Config;

/// The time of the tests, in seconds.
const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn keys(variables: &[(&str, &str)]) -> TokenKeys {
    let lookup = |name: &str| {
        let variable = variables.iter().find(|(variable, _)| *variable == name);
        variable.map(|(_, value)| OsString::from(value))
    };
    let config = Config::load(["roomcast"], &lookup).expect("good settings");
    config.token_keys.expect("a key")
}

/// A verifier with these settings.
pub(crate) fn verifier(variables: &[(&str, &str)]) -> Verifier {
    Verifier::new(&keys(variables)).expect("good keys")
}

fn of(signer: &Signer) -> Verifier {
    verifier(&[signer.setting()])
}

fn signers() -> [Signer; 4] {
    [
        Signer::secret("s3cret"),
        Signer::rsa(),
        Signer::ec(),
        Signer::ed(),
    ]
}

#[test]
fn each_algorithm_is_the_one_of_its_key() {
    for signer in signers() {
        let token =
            signer.sign(&json!({"sub": "ann", "exp": NOW + 1, "rooms": ["a", "b-*"], "publish": ["a"]}));
        let grant = of(&signer).verify(&token, now()).expect("a good token");
        assert_eq!(grant.user.as_deref(), Some("ann"));
        assert_eq!(grant.expires, Some((NOW + 1) * 1_000));
        assert!(grant.rights.may_join("b-1") && !grant.rights.may_publish("b-1"));
    }
}

#[test]
fn a_token_without_claims_allows_everything_for_ever_to_nobody() {
    let signer = Signer::secret("s");
    let grant = of(&signer)
        .verify(&signer.sign(&json!({})), now())
        .expect("a good token");
    assert_eq!((grant.user, grant.expires), (None, None));
    assert!(grant.rights.may_join("any") && grant.rights.may_publish("any"));
}

#[test]
fn a_signature_of_another_key_is_none() {
    for (signer, other) in [
        (Signer::secret("s3cret"), Signer::secret("s3cret2")),
        (Signer::ec(), Signer::ec()),
        (Signer::ed(), Signer::ed()),
    ] {
        let token = other.sign(&json!({}));
        assert_eq!(of(&signer).verify(&token, now()), Err(TokenError::Signature));
    }
}

#[test]
fn whatever_is_changed_in_a_token_its_signature_is_wrong() {
    for signer in signers() {
        let verifier = of(&signer);
        let token = signer.sign(&json!({"sub": "ann", "exp": NOW + 100}));
        let (signed, signature) = token.rsplit_once('.').expect("a signature");
        let (header, _) = signed.split_once('.').expect("a header");
        let claims = encode(json!({"sub": "root", "exp": NOW + 100}).to_string());
        let first = if signature.starts_with('A') { "B" } else { "A" };
        for forged in [
            format!("{header}.{claims}.{signature}"),
            format!("{signed}.{first}{}", &signature[1..]),
            format!("{signed}.{}", &signature[..signature.len() / 4 * 4 - 4]),
            format!("{signed}."),
        ] {
            assert_eq!(
                verifier.verify(&forged, now()),
                Err(TokenError::Signature),
                "{forged}"
            );
        }
    }
}

#[test]
fn the_algorithm_comes_from_the_key_and_not_from_the_token() {
    let claims = json!({"sub": "root"});
    for signer in signers() {
        let verifier = of(&signer);
        let refused = |header: &Value, why: &str| {
            let token = signer.sign_texts(&header.to_string(), &claims.to_string());
            assert!(verifier.verify(&token, now()).is_err(), "{why}: {header}");
            let (unsigned, _) = token.rsplit_once('.').expect("a signature");
            assert!(
                verifier.verify(&format!("{unsigned}."), now()).is_err(),
                "{why}, unsigned: {header}"
            );
        };
        for algorithm in ["none", "None", "NONE", "nOnE", "", "hs256", "HS1", "ES256K"] {
            refused(&json!({"alg": algorithm}), "no algorithm of ours");
        }
        for algorithm in [
            "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
            "ES384", "EdDSA",
        ] {
            if algorithm != signer.algorithm() {
                let token = signer.sign_texts(&json!({"alg": algorithm}).to_string(), "{}");
                let expected = Err(TokenError::Algorithm(signer.algorithm()));
                assert_eq!(verifier.verify(&token, now()), expected, "{algorithm}");
            }
        }
        refused(&json!({"typ": "JWT"}), "no algorithm");
        refused(&json!({"alg": null}), "no algorithm");
        refused(&json!({"alg": [signer.algorithm()]}), "a list");
        refused(
            &json!({"alg": signer.algorithm(), "crit": ["exp"]}),
            "an extension",
        );
        refused(
            &json!({"alg": signer.algorithm(), "crit": ["b64"], "b64": false}),
            "an extension",
        );
    }
}

#[test]
fn a_public_key_is_no_secret() {
    for signer in [Signer::rsa(), Signer::ec(), Signer::ed()] {
        let verifier = of(&signer);
        let pem = signer.public();
        for secret in [
            pem.as_bytes(),
            pem.trim_end().as_bytes(),
            pem.replace('\n', "").as_bytes(),
            &signer.raw_public(),
            b"",
        ] {
            let token = hs256(secret, &json!({"sub": "root"}));
            let expected = Err(TokenError::Algorithm(signer.algorithm()));
            assert_eq!(verifier.verify(&token, now()), expected);
        }
    }
}

#[test]
fn a_token_of_another_kind_of_key_is_refused() {
    for signer in signers() {
        for other in signers() {
            if signer.algorithm() != other.algorithm() {
                let expected = Err(TokenError::Algorithm(signer.algorithm()));
                assert_eq!(of(&signer).verify(&other.sign(&json!({})), now()), expected);
            }
        }
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let signer = Signer::secret("s");
    let verifier = of(&signer);
    let good = signer.sign(&json!({}));
    let header = json!({"alg": "HS256"}).to_string();
    for garbage in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        "\u{0}.\u{ff}.é".to_owned(),
        format!("{good}."),
        format!("{good}.x"),
        format!(".{good}"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{good}="),
        good.replacen('.', "=.", 1),
        good.rsplit_once('.').expect("a signature").0.to_owned(),
        signer.sign_texts("[]", "{}"),
        signer.sign_texts(&header, "[]"),
        signer.sign_texts(&header, "null"),
        signer.sign_texts(&header, "{"),
        signer.sign_texts(&header, "{} {}"),
        signer.sign_texts(&header, "{\"exp\":1e999}"),
        signer.sign_texts(&header, ""),
    ] {
        assert_eq!(
            verifier.verify(&garbage, now()),
            Err(TokenError::Malformed),
            "{garbage:?}"
        );
    }
}

#[test]
fn a_token_that_is_too_long_is_not_looked_at() {
    let signer = Signer::secret("s");
    let verifier = of(&signer);
    let token = |length: usize| signer.sign(&json!({"rooms": ["x".repeat(length)]}));
    let longest = (0..MAX_TOKEN_BYTES)
        .rev()
        .map(token)
        .find(|token| token.len() <= MAX_TOKEN_BYTES);
    assert!(verifier.verify(&longest.expect("one that fits"), now()).is_ok());
    for long in [
        token(MAX_TOKEN_BYTES),
        "x".repeat(MAX_TOKEN_BYTES + 1),
        "x".repeat(1 << 20),
    ] {
        assert_eq!(verifier.verify(&long, now()), Err(TokenError::TooLong));
    }
}

#[test]
fn times_are_exact() {
    let signer = Signer::secret("s");
    let verifier = of(&signer);
    let check = |claims: Value| verifier.verify(&signer.sign(&claims), now());
    let expires = |claims| check(claims).expect("a good token").expires;
    for over in [
        json!(NOW),
        json!(NOW - 1),
        json!(0),
        json!(-5),
        json!(-0.5),
        json!(NOW as f64 - 0.5),
    ] {
        assert_eq!(check(json!({"exp": over})), Err(TokenError::Expired), "{over}");
    }
    assert_eq!(expires(json!({"exp": NOW + 1})), Some((NOW + 1) * 1_000));
    assert_eq!(
        expires(json!({"exp": NOW as f64 + 0.25})),
        Some(NOW * 1_000 + 250)
    );
    for never in [json!(u64::MAX), json!(1e30), json!(f64::MAX)] {
        assert_eq!(expires(json!({"exp": never})), Some(u64::MAX), "{never}");
    }
    for early in [json!(NOW + 1), json!(NOW as f64 + 0.25), json!(u64::MAX)] {
        assert_eq!(
            check(json!({"nbf": early})),
            Err(TokenError::NotYetValid),
            "{early}"
        );
    }
    for past in [json!(NOW), json!(NOW - 1), json!(0), json!(-1)] {
        assert!(check(json!({"nbf": past})).is_ok(), "{past}");
    }
}

#[test]
fn a_signature_is_looked_at_before_a_time() {
    let signer = Signer::secret("s");
    let forged = Signer::secret("other").sign(&json!({"exp": 1}));
    assert_eq!(of(&signer).verify(&forged, now()), Err(TokenError::Signature));
}

#[test]
fn a_claim_of_a_wrong_type_refuses_the_token() {
    let signer = Signer::secret("s");
    let verifier = of(&signer);
    let later = (NOW + 10).to_string();
    for (name, wrong) in [
        (
            "exp",
            vec![
                json!(later),
                json!(null),
                json!([NOW + 10]),
                json!(true),
                json!({}),
            ],
        ),
        ("nbf", vec![json!("1"), json!(null), json!(false)]),
        (
            "sub",
            vec![
                json!(7),
                json!(null),
                json!(""),
                json!("x".repeat(129)),
                json!("a\nb"),
                json!("a\u{85}b"),
                json!(["a"]),
            ],
        ),
        (
            "rooms",
            vec![
                json!("a"),
                json!(null),
                json!(["a", 1]),
                json!({"a": 1}),
                json!([["a"]]),
                json!([null]),
            ],
        ),
        ("publish", vec![json!("a"), json!(null), json!([true])]),
    ] {
        for value in wrong {
            let outcome = verifier.verify(&signer.sign(&json!({name: value})), now());
            assert!(
                matches!(outcome, Err(TokenError::Claim(named, _)) if named == name)
                    // What the crate cannot make anything of.
                    || outcome == Err(TokenError::Malformed),
                "{name} {value}: {outcome:?}"
            );
        }
    }
    let user = "é".repeat(64);
    let grant = verifier
        .verify(&signer.sign(&json!({"sub": user})), now())
        .expect("128 bytes");
    assert_eq!(grant.user.as_deref(), Some(&*user));
}

#[test]
fn issuer_and_audience_are_looked_at_only_if_configured() {
    let signer = Signer::secret("s");
    let check = |variables: &[(&str, &str)], claims: Value| {
        let mut all = vec![signer.setting()];
        all.extend(variables);
        verifier(&all).verify(&signer.sign(&claims), now()).map(|_| ())
    };
    for any in [
        json!({"iss": "them", "aud": "them"}),
        json!({"aud": ["x", "y"]}),
        json!({"iss": 5}),
    ] {
        assert_eq!(check(&[], any.clone()), Ok(()), "{any}");
    }
    let issuer = &[("ROOMCAST_JWT_ISSUER", "us")];
    assert_eq!(check(issuer, json!({"iss": "us"})), Ok(()));
    for wrong in [
        json!({}),
        json!({"iss": "them"}),
        json!({"iss": ["us"]}),
        json!({"iss": "US"}),
        json!({"aud": "us"}),
    ] {
        assert_eq!(check(issuer, wrong.clone()), Err(TokenError::Issuer), "{wrong}");
    }
    let audience = &[("ROOMCAST_JWT_AUDIENCE", "us")];
    for right in [json!({"aud": "us"}), json!({"aud": ["them", "us"]})] {
        assert_eq!(check(audience, right.clone()), Ok(()), "{right}");
    }
    for wrong in [
        json!({}),
        json!({"aud": "them"}),
        json!({"aud": []}),
        json!({"aud": ["them", 5]}),
        json!({"iss": "us"}),
    ] {
        assert_eq!(
            check(audience, wrong.clone()),
            Err(TokenError::Audience),
            "{wrong}"
        );
    }
}

#[test]
fn the_previous_key_is_good_until_it_is_taken_away() {
    for (old, new, previous) in [
        (
            Signer::secret("old"),
            Signer::secret("new"),
            "ROOMCAST_JWT_SECRET_PREVIOUS",
        ),
        (Signer::ed(), Signer::ed(), "ROOMCAST_JWT_PUBLIC_KEY_PREVIOUS"),
        // From one kind of key to another.
        (Signer::rsa(), Signer::ed(), "ROOMCAST_JWT_PUBLIC_KEY_PREVIOUS"),
        (Signer::ec(), Signer::rsa(), "ROOMCAST_JWT_PUBLIC_KEY_PREVIOUS"),
    ] {
        let both = verifier(&[new.setting(), (previous, old.public())]);
        let (by_old, by_new) = (old.sign(&json!({})), new.sign(&json!({})));
        assert!(both.verify(&by_new, now()).is_ok() && both.verify(&by_old, now()).is_ok());
        let after = of(&new);
        assert!(after.verify(&by_new, now()).is_ok() && after.verify(&by_old, now()).is_err());
        let expired = old.sign(&json!({"exp": 1}));
        assert_eq!(both.verify(&expired, now()), Err(TokenError::Expired));
    }
}

#[test]
fn a_key_that_can_verify_nothing_is_found_out_when_it_is_read() {
    let good = Signer::ed();
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys/unusable");
    let mut tried = 0;
    for entry in std::fs::read_dir(directory).expect("keys") {
        let path = entry.expect("a key").path();
        let pem = std::fs::read_to_string(&path).expect("a text");
        let error = |variables: &[(&str, &str)]| {
            Verifier::new(&keys(variables))
                .err()
                .map(|error| error.to_string())
        };
        let refused = error(&[("ROOMCAST_JWT_PUBLIC_KEY", &pem)]);
        let refused = refused.unwrap_or_else(|| panic!("{} was taken", path.display()));
        assert!(refused.starts_with("ROOMCAST_JWT_PUBLIC_KEY: "), "{refused}");
        assert!(refused.contains("allowed is"), "{refused}");
        let refused = error(&[good.setting(), ("ROOMCAST_JWT_PUBLIC_KEY_PREVIOUS", &pem)]);
        let refused = refused.unwrap_or_else(|| panic!("{} was taken", path.display()));
        assert!(
            refused.starts_with("ROOMCAST_JWT_PUBLIC_KEY_PREVIOUS: "),
            "{refused}"
        );
        tried += 1;
    }
    assert_eq!(tried, 7);
    for text in ["", "MCow", "!!!!"] {
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----");
        assert!(
            Verifier::new(&keys(&[("ROOMCAST_JWT_PUBLIC_KEY", &pem)])).is_err(),
            "{text}"
        );
    }
}

#[test]
fn nothing_of_a_token_is_shown() {
    let signer = Signer::secret("s");
    let verifier = of(&signer);
    for token in [
        "marker.marker.marker".to_owned(),
        signer.sign_texts("{\"alg\":\"marker\"}", "{}"),
        signer.sign(&json!({"sub": "marker\n"})),
        signer.sign(&json!({"rooms": {"marker": 1}})),
        Signer::secret("marker").sign(&json!({"sub": "marker"})),
        "marker".repeat(2_000),
    ] {
        let error = verifier.verify(&token, now()).expect_err("a bad token");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("marker") && shown.len() < 400, "{shown}");
        assert!(
            !token
                .split('.')
                .any(|part| part.len() > 8 && shown.contains(part)),
            "{shown}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_passes_for_a_token_and_none_panics(text in "[\\PC.]{0,200}") {
        let signer = Signer::secret("s");
        prop_assert!(of(&signer).verify(&text, now()).is_err());
    }

    #[test]
    fn no_claims_panic_and_good_ones_are_taken_as_they_are(
        user in proptest::option::of("[^\\p{Cc}]{1,32}"), rooms in proptest::option::of(proptest::collection::vec("\\PC{0,8}", 0..5)),
        life in proptest::option::of(1..1_000_000_u64),
    ) {
        let mut claims = json!({});
        if let Some(user) = &user { claims["sub"] = json!(user); }
        if let Some(rooms) = &rooms { claims["rooms"] = json!(rooms); }
        if let Some(life) = life { claims["exp"] = json!(NOW + life); }
        let signer = Signer::secret("s");
        let grant = of(&signer).verify(&signer.sign(&claims), now()).expect("a good token");
        prop_assert_eq!(grant.user.as_deref(), user.as_deref());
        prop_assert_eq!(grant.expires, life.map(|life| (NOW + life) * 1_000));
        let listed = rooms.as_ref().map(|rooms| rooms.iter().map(String::as_str));
        prop_assert_eq!(&*grant.rights, &Rights::new(listed, None::<[&str; 0]>));
    }

    #[test]
    fn no_bytes_between_the_lines_of_a_key_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let text = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &bytes);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n");
        prop_assert!(Verifier::new(&keys(&[("ROOMCAST_JWT_PUBLIC_KEY", &pem)])).is_err());
    }
}
