//! A token is a secret: neither the log nor an answer shows anything of one, with whatever is logged.

use serde_json::json;

use super::{SECRET, signer, stranger};
use crate::support::client::{Client, Event};
use crate::support::eventually;
use crate::support::node::Node;
use crate::support::raw::{Raw, Request, TEXT, close, frame};
use crate::support::tokens::{Signer, encode};

#[actix::test]
async fn nothing_of_a_token_is_logged_or_sent_back() {
    let node = Node::start(&[
        ("ROOMCAST_JWT_SECRET", SECRET),
        ("RUST_LOG", "trace"),
        ("ROOMCAST_ALLOWED_ORIGINS", "http://good.example"),
    ])
    .await;
    let open = Node::start(&[("RUST_LOG", "trace")]).await;
    let claims = json!({"sub": "marker-user", "rooms": ["marker-room"]});
    let good = signer().sign(&claims);
    let mut tokens = vec![
        good.clone(),
        signer().sign(&json!({"sub": "marker-user", "exp": 1})),
        signer().sign(&json!({"sub": "marker-user\n", "rooms": 5})),
        Signer::secret("another").sign(&claims),
        Signer::ec().sign(&claims),
        signer().sign_texts(r#"{"alg":"none"}"#, &claims.to_string()),
        format!("{good}.{}", encode("a fourth part")),
        encode("garbage without a point").repeat(400),
    ];
    let mut answers = String::new();

    for node in [&node, &open] {
        for token in &tokens {
            let entry = format!("roomcast.token.{token}");
            for request in [
                Request::upgrade(&format!("/ws?token={token}")),
                Request::upgrade(&format!("/ws?token={token}&user=%0a")),
                Request::upgrade(&format!("/?token={token}&token=other")),
                Request::upgrade(&format!("/ws?token={token}")).and("origin", "http://evil.example"),
                Request::upgrade(&format!("/ws?token={token}")).with("sec-websocket-version", "8"),
                Request::upgrade(&format!("/ws?token={token}")).without("sec-websocket-key"),
                Request::upgrade("/ws").and("sec-websocket-protocol", &format!("roomcast.v1,{entry}")),
                Request::upgrade("/ws").and("sec-websocket-protocol", &entry),
                Request::get(&format!("/?token={token}")),
                Request::get(&format!("/ws?token={token}")),
                Request::get(&format!("/metrics?token={token}")),
                Request::get(&format!("/nothing?token={token}")),
            ] {
                let (_, response) = request.send(node.address()).await;
                if !response.body.starts_with("# HELP") {
                    answers += &format!("{response:?}\n");
                }
            }

            // As the first frame, in what is no JSON, in fields where it does not belong, and cut in two.
            let auth = json!({"type": "AUTH", "token": token, "id": 1}).to_string();
            for text in [
                auth.clone(),
                auth[..auth.len() - 1].to_owned(),
                json!({"type": "AUTH", "token": [token]}).to_string(),
            ] {
                let mut client = stranger(&node.ws_url()).await;
                client.send_text(text).await;
                while let Some(Event::Text(text)) = client.event_within(crate::support::QUIET).await {
                    answers += &text;
                    if !text.contains("authorized") {
                        break;
                    }
                }
            }
        }
    }

    // To renew, and with a violation of the framing behind it.
    let mut client = stranger(&node.ws_url()).await;
    for token in &tokens {
        let reply = client.call(json!({"type": "AUTH", "token": token})).await;
        answers += &reply.to_string();
        if token == &good {
            answers += &client.text().await;
        }
    }
    let raw = Raw::connect(node.address()).await;
    let mut raw = raw
        .shake_hands(&[("sec-websocket-protocol", "roomcast.v1")])
        .await;
    raw.send(&frame(
        TEXT,
        json!({"type": "AUTH", "token": good}).to_string().as_bytes(),
    ))
    .await;
    raw.send(&frame(0x83, good.as_bytes())).await;
    answers += &format!("{:?}", raw.rest().await);
    let url = format!("{}/ws?token={good}", node.ws_url());
    let ending = Client::connect(&url, &["roomcast.v1"]).await;
    drop(ending);
    let mut last = Raw::connect(node.address())
        .await
        .shake_hands(&[(
            "sec-websocket-protocol",
            &format!("roomcast.v1,roomcast.token.{good}"),
        )])
        .await;
    last.send(&close(4999, b"the last one")).await;
    let log = eventually("the last line", async || {
        let log = node.log();
        log.contains("code=4999").then_some(log)
    })
    .await;

    // A part of any length that is no accident.
    tokens.push("marker-user".to_owned());
    let open_log = open.log();
    for token in &tokens {
        for part in token.split('.').filter(|part| part.len() > 8) {
            // What all headers have in common is no secret, but is not there either.
            let part = &part[..part.len().min(30)];
            for (name, text) in [
                ("log", &log),
                ("log without a key", &open_log),
                ("answers", &answers),
            ] {
                if let Some(line) = text.lines().find(|line| line.contains(part)) {
                    panic!("{part} of a token is in the {name}: {line}");
                }
            }
        }
    }
    assert!(log.contains("handshake refused") && log.contains("status=401"));
    assert!(log.contains("TRACE") && open_log.contains("TRACE"));
}
