//! Who is let in: where a token may stand, which ones are good, and how the others are refused.

use serde_json::{Value, json};

use super::{
    SECRET, assert_served, code, connect_v1, hear_oneself, plain, seconds_from_now, server, signer, stranger,
    subscribe, v1,
};
use crate::support::client::{Client, Event};
use crate::support::node::{Node, metric, test_server, ws_url};
use crate::support::raw::{Request, Response};
use crate::support::tokens::{Signer, encode, hs256};

async fn response(address: &str, request: Request) -> Response {
    request.send(address).await.1
}

fn with_subprotocols(offers: &str) -> Request {
    Request::upgrade("/ws").and("sec-websocket-protocol", offers)
}

/// Tokens that are all bad, with the label that each is counted under.
fn bad_tokens() -> Vec<(&'static str, String)> {
    let signer = signer();
    let good = signer.sign(&json!({}));
    let (signed, _) = good.rsplit_once('.').expect("a signature");
    let unsigned = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(r#"{"sub":"root"}"#));
    vec![
        ("time", signer.sign(&json!({"exp": seconds_from_now(-1.0)}))),
        ("time", signer.sign(&json!({"nbf": seconds_from_now(60.0)}))),
        ("signature", Signer::secret("another").sign(&json!({}))),
        ("signature", format!("{signed}.")),
        ("algorithm", Signer::rsa().sign(&json!({}))),
        ("algorithm", Signer::ec().sign(&json!({}))),
        ("algorithm", signer.sign_texts(r#"{"alg":"HS512"}"#, "{}")),
        ("malformed", unsigned),
        ("malformed", "garbage".to_owned()),
        ("malformed", "x".repeat(9_000)),
        ("claims", signer.sign(&json!({"exp": "tomorrow"}))),
        ("claims", signer.sign(&json!({"sub": 7}))),
        ("claims", signer.sign(&json!({"rooms": "lobby"}))),
    ]
}

#[actix::test]
async fn a_token_stands_beside_the_subprotocol_or_in_the_query() {
    let server = server(&[]);
    let (address, token) = (server.addr().to_string(), signer().sign(&json!({"sub": "ann"})));
    let entry = format!("roomcast.token.{token}");
    for (request, dialect) in [
        (
            with_subprotocols(&format!("roomcast.v1, {entry}")),
            Some("roomcast.v1"),
        ),
        (
            with_subprotocols(&format!("{entry},chat,roomcast.v1")),
            Some("roomcast.v1"),
        ),
        (
            with_subprotocols("roomcast.v1").and("sec-websocket-protocol", &entry),
            Some("roomcast.v1"),
        ),
        (
            Request::upgrade(&format!("/?token={token}")).and("sec-websocket-protocol", "roomcast.v1"),
            Some("roomcast.v1"),
        ),
        (Request::upgrade(&format!("/ws?x=y&token={token}")), None),
        // The same one twice.
        (
            Request::upgrade(&format!("/ws?token={token}"))
                .and("sec-websocket-protocol", &format!("roomcast.v1,{entry}")),
            Some("roomcast.v1"),
        ),
        // An empty one is none, and another one counts.
        (Request::upgrade(&format!("/ws?token=&token={token}")), None),
    ] {
        let answer = response(&address, request).await;
        assert_eq!(
            (answer.status, answer.header("sec-websocket-protocol")),
            (101, dialect)
        );
    }
    for mut client in [
        connect_v1(&ws_url(&server), &token).await,
        Client::connect(&format!("{}/ws?token={token}", ws_url(&server)), &["roomcast.v1"]).await,
    ] {
        assert_eq!(client.json().await["type"], "welcome");
        client.subscribe("r").await;
        assert_eq!(hear_oneself(&mut client, "r").await["sender"], "ann");
    }
    let mut listener = v1(&server, &json!({})).await;
    listener.subscribe("q").await;
    let mut client = plain(&server, &json!({"sub": "bob"})).await;
    client.publish("q", "hi").await;
    assert_eq!(listener.json().await["sender"], "bob");
}

#[actix::test]
async fn a_bad_token_is_refused_with_401_and_a_text_that_shows_nothing_of_it() {
    let server = server(&[]);
    let (address, url) = (server.addr().to_string(), format!("http://{}", server.addr()));
    for (label, token) in bad_tokens() {
        let series = format!("roomcast_tokens_refused_total{{reason=\"{label}\"}}");
        let before = metric(&url, &series).await;
        let entry = format!("roomcast.token.{token}");
        for request in [
            with_subprotocols(&format!("roomcast.v1, {entry}")),
            Request::upgrade(&format!("/ws?token={token}")),
        ] {
            let answer = response(&address, request).await;
            assert_eq!(
                (answer.status, answer.header("www-authenticate")),
                (401, Some("Bearer")),
                "{token}"
            );
            assert!(
                answer.body.contains("token") && answer.body.lines().count() == 1,
                "{answer:?}"
            );
            let mut parts = token.split('.').filter(|part| part.len() > 6);
            assert!(!parts.any(|part| answer.body.contains(part)), "{answer:?}");
        }
        assert_eq!(metric(&url, &series).await - before, 2, "{label}");
    }
    assert_eq!(
        metric(&url, "roomcast_handshakes_refused_total{status=\"401\"}").await,
        2 * bad_tokens().len() as u64
    );
}

#[actix::test]
async fn a_token_that_does_not_fit_into_a_head_is_refused_with_the_head() {
    let server = server(&[]);
    let node = Node::start(&[("ROOMCAST_JWT_SECRET", SECRET)]).await;
    let huge = "x".repeat(1 << 20);
    for address in [node.address()] {
        let answer = response(address, Request::upgrade(&format!("/ws?token={huge}"))).await;
        assert_eq!(answer.status, 431);
    }
    // In a frame it is larger than what is read …
    let mut client = stranger(&ws_url(&server)).await;
    client.command(json!({"type": "AUTH", "token": huge})).await;
    assert_eq!(client.closed().await, Some(1009));
    // … or it is read, and refused.
    let server = super::server(&[("ROOMCAST_MAX_MESSAGE", "1000000")]);
    let mut client = stranger(&ws_url(&server)).await;
    assert_eq!(
        code(&mut client, json!({"type": "AUTH", "token": huge})).await,
        "unauthorized"
    );
    assert_eq!(client.closed().await, Some(1008));
}

#[actix::test]
async fn who_shows_no_token_is_refused_in_the_plain_dialect_and_waited_for_in_v1() {
    let server = server(&[("ROOMCAST_CONFORMANCE", "1")]);
    let address = server.addr().to_string();
    for path in ["/ws", "/", "/ws?token=", "/ws?user=ann", "/echo"] {
        let answer = response(&address, Request::upgrade(path)).await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, Some("Bearer")),
            "{path}"
        );
        assert!(answer.body.contains("?token="), "{answer:?}");
    }
    assert_eq!(
        response(&address, with_subprotocols("roomcast.v1")).await.status,
        101
    );
    assert_eq!(
        response(&address, with_subprotocols("roomcast.v1,roomcast.token."))
            .await
            .status,
        101
    );
    let token = signer().sign(&json!({}));
    assert_eq!(
        response(&address, Request::upgrade(&format!("/echo?token={token}")))
            .await
            .status,
        101
    );
}

#[actix::test]
async fn what_is_wrong_with_the_request_is_told_before_what_is_wrong_with_the_token() {
    let server = server(&[("ROOMCAST_ALLOWED_ORIGINS", "http://good.example")]);
    let address = server.addr().to_string();
    let token = signer().sign(&json!({}));
    let other = signer().sign(&json!({"sub": "ann"}));
    for (status, request) in [
        (
            403,
            Request::upgrade("/ws?token=bad").and("origin", "http://evil.example"),
        ),
        (
            403,
            Request::upgrade(&format!("/ws?token={token}")).and("origin", "http://evil.example"),
        ),
        (
            426,
            Request::upgrade("/ws?token=bad").with("sec-websocket-version", "8"),
        ),
        (400, with_subprotocols(&format!("roomcast.token.{token}"))),
        (400, with_subprotocols("roomcast.token.bad")),
        (
            400,
            with_subprotocols(&format!(
                "roomcast.v1,roomcast.token.{token},roomcast.token.{other}"
            )),
        ),
        (400, Request::upgrade(&format!("/ws?token={token}&token={other}"))),
        (
            400,
            Request::upgrade(&format!("/ws?token={token}"))
                .and("sec-websocket-protocol", "roomcast.v1,roomcast.token.bad"),
        ),
        (
            401,
            Request::upgrade("/ws?token=bad").and("origin", "http://good.example"),
        ),
    ] {
        let answer = response(&address, request).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(!answer.body.contains(&token[..20]), "{answer:?}");
    }
}

#[actix::test]
async fn without_a_key_tokens_mean_nothing() {
    let server = test_server(&[]);
    let address = server.addr().to_string();
    for (status, request) in [
        (101, Request::upgrade("/ws?token=bad")),
        (101, Request::upgrade("/ws?token=bad&token=worse")),
        (
            101,
            with_subprotocols("roomcast.v1,roomcast.token.bad,roomcast.token.worse"),
        ),
        (400, with_subprotocols("roomcast.token.bad")),
    ] {
        let answer = response(&address, request).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let url = format!("{}/ws?user=ann&token=bad", ws_url(&server));
    let mut client = Client::connect(&url, &["roomcast.v1"]).await;
    assert_eq!(client.json().await["type"], "welcome");
    assert_eq!(
        code(&mut client, json!({"type": "AUTH", "token": "bad"})).await,
        "bad_command"
    );
    client.subscribe("r").await;
    assert_eq!(hear_oneself(&mut client, "r").await["sender"], "ann");
}

#[actix::test]
async fn with_a_key_the_user_is_that_of_the_token_and_no_other() {
    let server = server(&[]);
    let sender = async |claims: Value, query: &str| {
        let url = format!("{}/ws?token={}{query}", ws_url(&server), signer().sign(&claims));
        let mut client = Client::connect(&url, &["roomcast.v1"]).await;
        assert_eq!(client.json().await["type"], "welcome");
        client.subscribe("r").await;
        hear_oneself(&mut client, "r").await["sender"].clone()
    };
    assert_eq!(sender(json!({"sub": "ann"}), "&user=root").await, "ann");
    assert_eq!(sender(json!({}), "&user=root").await, Value::Null);
    let too_long = format!("&user={}", "x".repeat(1_000));
    assert_eq!(sender(json!({}), &too_long).await, Value::Null);
}

#[actix::test]
async fn every_kind_of_key_lets_its_own_tokens_in_and_no_forged_ones() {
    for signer in [Signer::secret(SECRET), Signer::rsa(), Signer::ec(), Signer::ed()] {
        let server = test_server(&[signer.setting()]);
        let url = ws_url(&server);
        let token = signer.sign(&json!({"sub": "ann", "rooms": ["r"]}));
        let mut client = connect_v1(&url, &token).await;
        assert_eq!(client.json().await["type"], "welcome", "{}", signer.algorithm());
        client.subscribe("r").await;
        assert_eq!(code(&mut client, subscribe("q")).await, "forbidden");

        let address = server.addr().to_string();
        let status = async |token: &str| {
            response(&address, Request::upgrade(&format!("/ws?token={token}")))
                .await
                .status
        };
        // The public key, which everybody has, taken for a secret.
        if signer.algorithm() != "HS256" {
            for secret in [
                signer.public().as_bytes(),
                signer.public().trim().as_bytes(),
                &signer.raw_public(),
            ] {
                assert_eq!(status(&hs256(secret, &json!({"sub": "root"}))).await, 401);
            }
        }
        for algorithm in ["none", "HS384", "RS512", "PS256", "ES384"] {
            let header = json!({"alg": algorithm}).to_string();
            assert_eq!(
                status(&signer.sign_texts(&header, "{}")).await,
                401,
                "{algorithm}"
            );
        }
        let (header, rest) = token.split_once('.').expect("a header");
        let (_, signature) = rest.split_once('.').expect("a signature");
        let claims = encode(json!({"sub": "root"}).to_string());
        assert_eq!(status(&format!("{header}.{claims}.{signature}")).await, 401);
        assert_eq!(status(&token).await, 101);
    }
}

#[actix::test]
async fn keys_are_rotated_without_a_moment_in_which_good_tokens_are_refused() {
    let (old, new) = (Signer::secret("old"), Signer::secret("new"));
    let (by_old, by_new) = (old.sign(&json!({})), new.sign(&json!({})));
    for (settings, accepted) in [
        (vec![("ROOMCAST_JWT_SECRET", "old")], [true, false]),
        (
            vec![
                ("ROOMCAST_JWT_SECRET", "old"),
                ("ROOMCAST_JWT_SECRET_PREVIOUS", "new"),
            ],
            [true, true],
        ),
        (
            vec![
                ("ROOMCAST_JWT_SECRET", "new"),
                ("ROOMCAST_JWT_SECRET_PREVIOUS", "old"),
            ],
            [true, true],
        ),
        (vec![("ROOMCAST_JWT_SECRET", "new")], [false, true]),
    ] {
        let server = test_server(&settings);
        for (token, accepted) in [&by_old, &by_new].into_iter().zip(accepted) {
            let request = Request::upgrade(&format!("/ws?token={token}"));
            let status = response(&server.addr().to_string(), request).await.status;
            assert_eq!(status == 101, accepted, "{settings:?}: {status}");
        }
    }
}

#[actix::test]
async fn issuer_and_audience_are_asked_for_where_they_are_configured() {
    let server = server(&[
        ("ROOMCAST_JWT_ISSUER", "https://id.example"),
        ("ROOMCAST_JWT_AUDIENCE", "chat"),
    ]);
    let address = server.addr().to_string();
    for (claims, status) in [
        (json!({"iss": "https://id.example", "aud": "chat"}), 101),
        (json!({"iss": "https://id.example", "aud": ["web", "chat"]}), 101),
        (json!({"iss": "https://id.example", "aud": "web"}), 401),
        (json!({"iss": "https://id.example"}), 401),
        (json!({"iss": "https://evil.example", "aud": "chat"}), 401),
        (json!({"aud": "chat"}), 401),
    ] {
        let request = Request::upgrade(&format!("/ws?token={}", signer().sign(&claims)));
        assert_eq!(response(&address, request).await.status, status, "{claims}");
    }
}

#[actix::test]
async fn a_full_node_says_so_to_strangers_too() {
    let server = server(&[("ROOMCAST_MAX_CONNECTIONS", "1")]);
    let mut first = v1(&server, &json!({})).await;
    let mut second = stranger(&ws_url(&server)).await;
    assert_eq!(second.event().await, Event::Closed(Some(1013)));
    assert_served(&mut first).await;
}
