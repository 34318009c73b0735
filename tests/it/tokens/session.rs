//! What a session may do: nothing before its token, what the token allows afterwards, and less after a narrower one.

use std::time::{Duration, Instant};

use awc::ws::Message;
use serde_json::{Value, json};

use super::{
    assert_served, auth, code, hear_oneself, plain, publish, seconds_from_now, server, signer, stranger,
    subscribe, v1,
};
use crate::support::client::Client;
use crate::support::node::{metric, ws_url};
use crate::support::{PATIENCE, eventually, free_port};

#[actix::test]
async fn a_session_without_a_token_is_given_nothing_until_it_shows_one() {
    let server = server(&[]);
    let mut listener = v1(&server, &json!({})).await;
    listener.subscribe("r").await;
    let mut client = stranger(&ws_url(&server)).await;
    client.assert_quiet().await;
    for command in [
        subscribe("r"),
        publish("r", "forbidden"),
        json!({"type": "UNSUBSCRIBE", "room": "r"}),
        json!({"type": "MEMBERS", "room": "r"}),
        json!({"type": "PING"}),
        json!({"type": "OTHER"}),
        json!({"type": "SUBSCRIBE"}),
        json!({"type": "AUTH"}),
    ] {
        assert_eq!(code(&mut client, command).await, "unauthorized");
    }
    client.send_text("{").await;
    assert_eq!(client.json().await["code"], "bad_json");
    client.send(Message::Binary("x".into())).await;
    assert_eq!(client.json().await["code"], "bad_json");
    client.assert_quiet().await;

    let expires = seconds_from_now(600.0).floor();
    let reply = auth(&mut client, &json!({"sub": "ann", "exp": expires})).await;
    assert_eq!(reply["type"], "authorized", "{reply}");
    assert_eq!(reply["expires"].as_f64(), Some(expires * 1_000.0));
    assert_eq!(client.json().await["type"], "welcome");
    client.subscribe("r").await;
    assert_eq!(hear_oneself(&mut client, "r").await["sender"], "ann");
    // Of what was refused nothing has happened.
    assert_eq!(listener.json().await["message"], "hello");
    listener.assert_quiet().await;
}

#[actix::test]
async fn a_token_without_an_end_is_authorized_without_one() {
    let server = server(&[]);
    let mut client = stranger(&ws_url(&server)).await;
    let token = signer().sign(&json!({}));
    client.command(json!({"type": "AUTH", "token": token})).await;
    assert_eq!(client.text().await, r#"{"type":"authorized"}"#);
    assert_eq!(client.json().await["type"], "welcome");
    client.subscribe("r").await;
    assert_eq!(hear_oneself(&mut client, "r").await["sender"], Value::Null);
}

#[actix::test]
async fn a_bad_first_token_is_answered_and_ends_the_session() {
    let server = server(&[]);
    let mut listener = v1(&server, &json!({})).await;
    listener.subscribe("r").await;
    for token in [
        "garbage".to_owned(),
        String::new(),
        signer().sign(&json!({"exp": 1})),
        signer().sign(&json!({"nbf": seconds_from_now(60.0)})),
    ] {
        let mut client = stranger(&ws_url(&server)).await;
        // What follows it is not even read.
        client
            .command(json!({"type": "AUTH", "id": 1, "token": token}))
            .await;
        let good = signer().sign(&json!({}));
        for command in [
            json!({"type": "AUTH", "token": good}),
            subscribe("r"),
            publish("r", "x"),
        ] {
            client.try_command(&command).await;
        }
        let reply = client.json().await;
        assert_eq!(
            (&reply["id"], &reply["code"]),
            (&json!(1), &json!("unauthorized")),
            "{reply}"
        );
        assert!(token.is_empty() || !reply.to_string().contains(&token));
        assert_eq!(client.closed().await, Some(1008));
    }
    listener.assert_quiet().await;
}

#[actix::test]
async fn names_and_prefixes_say_where_one_may_be_and_publish() {
    let server = server(&[]);
    for (claims, may_join, may_publish) in [
        (
            json!({}),
            ["a", "b1", "c"].as_slice(),
            ["a", "b1", "c"].as_slice(),
        ),
        (
            json!({"rooms": ["a", "b*"]}),
            &["a", "b", "b1"],
            &["a", "b", "b1"],
        ),
        (
            json!({"rooms": ["*"], "publish": ["a"]}),
            &["a", "b1", "c"],
            &["a"],
        ),
        (json!({"rooms": [], "publish": ["b*"]}), &[], &["b", "b1"]),
        (json!({"rooms": ["a"], "publish": []}), &["a"], &[]),
        (json!({"publish": ["c"]}), &["a", "b1", "c"], &["c"]),
    ] {
        let mut client = v1(&server, &claims).await;
        for room in ["a", "b", "b1", "c", "A", "ab"] {
            let reply = client.call(publish(room, "x")).await;
            let allowed = may_publish.contains(&room) || claims == json!({});
            assert_eq!(reply["type"] == "sent", allowed, "{claims} {reply}");
            assert!(
                allowed || reply["code"] == "forbidden" && reply["message"].to_string().contains(room),
                "{reply}"
            );
            let reply = client.call(subscribe(room)).await;
            let allowed = may_join.contains(&room) || claims.get("rooms").is_none_or(|rooms| rooms[0] == "*");
            assert_eq!(reply["type"] == "subscribed", allowed, "{claims} {reply}");
            assert!(
                allowed || reply["code"] == "forbidden" && reply["message"].to_string().contains(room),
                "{reply}"
            );
            if !allowed {
                assert_eq!(
                    code(&mut client, json!({"type": "MEMBERS", "room": room})).await,
                    "forbidden"
                );
                // To recover is to subscribe.
                let recovery = json!({"type": "SUBSCRIBE", "room": room, "after": 0, "epoch": "k"});
                assert_eq!(code(&mut client, recovery).await, "forbidden");
            }
        }
    }
}

#[actix::test]
async fn a_plain_session_has_the_rights_of_its_token() {
    let server = server(&[]);
    let mut client = plain(&server, &json!({"rooms": ["a"], "publish": ["a", "b"]})).await;
    client.subscribe_plain("a").await;
    client.command(subscribe("b")).await;
    assert_eq!(client.json().await["code"], "forbidden");
    client.command(publish("c", "x")).await;
    assert_eq!(client.json().await["code"], "forbidden");
    client.command(publish("b", "x")).await;
    client.command(json!({"type": "AUTH", "token": "x"})).await;
    assert_eq!(client.json().await["code"], "unknown_type");
    client.command(publish("a", "still here")).await;
    assert_eq!(client.text().await, "still here");
}

#[actix::test]
async fn replies_keep_their_order_for_a_room_when_some_are_forbidden() {
    // The broker is away, so a SUBSCRIBE takes its time.
    let redis = format!("redis://127.0.0.1:{}", free_port());
    let server = server(&[("REDIS_URL", &redis)]);
    let mut client = v1(&server, &json!({"rooms": ["r"], "publish": []})).await;
    client
        .command(json!({"type": "SUBSCRIBE", "id": 1, "room": "r"}))
        .await;
    client
        .command(json!({"type": "sendMessage", "id": 2, "room": "r", "message": "x"}))
        .await;
    client
        .command(json!({"type": "sendMessage", "id": 3, "room": "q", "message": "x"}))
        .await;
    client
        .command(json!({"type": "UNSUBSCRIBE", "id": 4, "room": "r"}))
        .await;
    let mut replies = Vec::new();
    for _ in 0..4 {
        let reply = client.json().await;
        let what = reply.get("code").unwrap_or(&reply["type"]);
        replies.push(format!("{} {}", reply["id"], what.as_str().expect("a text")));
    }
    assert_eq!(
        replies,
        ["3 forbidden", "1 cancelled", "2 forbidden", "4 unsubscribed"]
    );
}

#[actix::test]
async fn a_narrower_token_takes_the_session_out_of_the_rooms_that_it_does_not_allow() {
    let server = server(&[]);
    let url = format!("http://{}", server.addr());
    let mut client = v1(&server, &json!({"sub": "ann"})).await;
    for room in ["a", "b", "c1", "c2"] {
        client.subscribe(room).await;
    }
    let reply = auth(
        &mut client,
        &json!({"sub": "ann", "rooms": ["a", "c*"], "publish": ["a", "b"]}),
    )
    .await;
    assert_eq!(reply["type"], "authorized", "{reply}");
    assert_eq!(client.text().await, r#"{"type":"unsubscribed","room":"b"}"#);
    eventually("one membership less", async || {
        (metric(&url, "roomcast_memberships").await == 3).then_some(())
    })
    .await;
    // It may still publish there, and does not hear it.
    assert_eq!(client.call(publish("b", "x")).await["type"], "sent");
    assert_served(&mut client).await;
    assert_eq!(code(&mut client, subscribe("b")).await, "forbidden");
    assert_eq!(code(&mut client, publish("c1", "x")).await, "forbidden");
    assert_eq!(hear_oneself(&mut client, "a").await["message"], "hello");

    // And back: what was left is not joined by itself.
    assert_eq!(
        auth(&mut client, &json!({"sub": "ann"})).await["type"],
        "authorized"
    );
    client.assert_quiet().await;
    client.subscribe("b").await;
    assert_eq!(hear_oneself(&mut client, "b").await["message"], "hello");

    // Nothing at all.
    assert_eq!(
        auth(&mut client, &json!({"sub": "ann", "rooms": []})).await["type"],
        "authorized"
    );
    let mut left = Vec::new();
    for _ in 0..4 {
        let frame = client.json().await;
        assert_eq!(
            (&frame["type"], frame.get("id")),
            (&json!("unsubscribed"), None),
            "{frame}"
        );
        left.push(frame["room"].as_str().expect("a room").to_owned());
    }
    left.sort();
    assert_eq!(left, ["a", "b", "c1", "c2"]);
    assert_served(&mut client).await;
}

/// A session that waits to become a member of `r`, because the broker is away.
async fn waiting_client(server: &actix_test::TestServer) -> Client {
    let mut client = v1(server, &json!({})).await;
    client
        .command(json!({"type": "SUBSCRIBE", "id": "join", "room": "r"}))
        .await;
    let url = format!("http://{}", server.addr());
    eventually("a join that waits", async || {
        (metric(&url, "roomcast_joins_waiting").await == 1).then_some(())
    })
    .await;
    client
}

#[actix::test]
async fn a_narrower_token_ends_a_join_that_waits() {
    let redis = format!("redis://127.0.0.1:{}", free_port());
    let server = server(&[("REDIS_URL", &redis)]);
    for leaves_too in [false, true] {
        let mut client = waiting_client(&server).await;
        if leaves_too {
            // The two may cross: the join is answered once all the same.
            client
                .command(json!({"type": "AUTH", "token": signer().sign(&json!({"rooms": ["q"]}))}))
                .await;
            client
                .command(json!({"type": "UNSUBSCRIBE", "id": "leave", "room": "r"}))
                .await;
            assert_eq!(client.json().await["type"], "authorized");
        } else {
            assert_eq!(
                auth(&mut client, &json!({"rooms": ["q"]})).await["type"],
                "authorized"
            );
        }
        let reply = client.json().await;
        assert_eq!(
            (&reply["id"], &reply["code"]),
            (&json!("join"), &json!("forbidden")),
            "{reply}"
        );
        if leaves_too {
            assert_eq!(
                client.text().await,
                r#"{"type":"unsubscribed","id":"leave","room":"r"}"#
            );
        }
        client.assert_quiet().await;
        assert_served(&mut client).await;
    }
}

#[actix::test]
async fn what_waits_behind_a_join_does_not_go_out_with_a_token_that_forbids_it() {
    let redis = format!("redis://127.0.0.1:{}", free_port());
    let server = server(&[("REDIS_URL", &redis)]);
    let mut client = waiting_client(&server).await;
    client
        .command(json!({"type": "sendMessage", "id": "publish", "room": "r", "message": "x"}))
        .await;
    client
        .command(json!({"type": "SUBSCRIBE", "id": "again", "room": "r"}))
        .await;
    let token = signer().sign(&json!({"rooms": ["q"]}));
    client
        .command(json!({"type": "AUTH", "id": "auth", "token": token}))
        .await;
    let mut replies = Vec::new();
    for _ in 0..4 {
        let reply = client.json().await;
        let what = reply.get("code").unwrap_or(&reply["type"]);
        replies.push(format!(
            "{} {}",
            reply["id"].as_str().expect("an id"),
            what.as_str().expect("a text")
        ));
    }
    // Had it begun, it would be unavailable.
    assert_eq!(
        replies,
        [
            "auth authorized",
            "join forbidden",
            "publish forbidden",
            "again forbidden"
        ]
    );
    assert_served(&mut client).await;
}

#[actix::test]
async fn a_bad_renewal_changes_nothing() {
    let server = server(&[]);
    let url = format!("http://{}", server.addr());
    let mut client = v1(&server, &json!({"sub": "ann", "rooms": ["a"]})).await;
    client.subscribe("a").await;
    for (expected, token) in [
        ("unauthorized", "garbage".to_owned()),
        ("unauthorized", signer().sign(&json!({"sub": "ann", "exp": 1}))),
        ("forbidden", signer().sign(&json!({"sub": "bob"}))),
        ("forbidden", signer().sign(&json!({}))),
    ] {
        assert_eq!(
            code(&mut client, json!({"type": "AUTH", "token": token})).await,
            expected
        );
        assert_eq!(code(&mut client, subscribe("b")).await, "forbidden");
    }
    assert_eq!(
        metric(&url, "roomcast_tokens_refused_total{reason=\"other_user\"}").await,
        2
    );
    assert_eq!(hear_oneself(&mut client, "a").await["sender"], "ann");

    let mut nobody = v1(&server, &json!({})).await;
    let token = signer().sign(&json!({"sub": "ann"}));
    assert_eq!(
        code(&mut nobody, json!({"type": "AUTH", "token": token})).await,
        "forbidden"
    );
    assert_served(&mut nobody).await;
}

#[actix::test]
async fn frames_of_strangers_count_towards_the_rate() {
    let server = server(&[("ROOMCAST_RATE", "1")]);
    let mut client = stranger(&ws_url(&server)).await;
    for expected in ["unauthorized", "unauthorized", "rate_limited"] {
        assert_eq!(code(&mut client, json!({"type": "PING"})).await, expected);
    }
    // Beyond the rate not even a bad token has an effect.
    assert_eq!(
        code(&mut client, json!({"type": "AUTH", "token": "bad"})).await,
        "rate_limited"
    );
    let deadline = Instant::now() + PATIENCE;
    let reply = loop {
        let reply = auth(&mut client, &json!({})).await;
        if reply["code"] != "rate_limited" {
            break reply;
        }
        assert!(Instant::now() < deadline, "it is never taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(reply["type"], "authorized", "{reply}");
    assert_eq!(client.json().await["type"], "welcome");
}
