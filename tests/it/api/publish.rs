//! Publishing one message.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;

use super::{SOON, Site, call, get, on_both_brokers, post};
use crate::support::client::Client;
use awc::http::Method;

const PATH: &str = "/api/rooms/lobby/messages";

on_both_brokers! {
    members_hear_what_is_published_over_http
    a_repeated_key_is_one_message_also_over_another_node
    whatever_json_is_published_arrives_as_it_was_sent
    a_publish_that_is_wrong_is_refused_and_says_why
}

async fn members_hear_what_is_published_over_http(site: &Site) {
    let mut member = Client::v1(&site.last().ws_url()).await;
    member.subscribe("lobby").await;
    let mut plain = Client::plain(&site.last().ws_url()).await;
    plain.command(json!({"type": "SUBSCRIBE", "room": "lobby"})).await;
    plain.subscribe_plain("another").await;
    let before = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis();
    let body = json!({"message": "hello", "sender": "shop", "unknown": 1});
    let sent = post(site.first(), PATH, &body).await.expect(200);
    assert_eq!((&sent["room"], &sent["offset"]), (&json!("lobby"), &json!(1)));
    let heard = member.json().await;
    for (field, expected) in [
        ("type", json!("message")),
        ("room", json!("lobby")),
        ("message", json!("hello")),
        ("sender", json!("shop")),
        ("offset", json!(1)),
    ] {
        assert_eq!(heard[field], expected, "{heard}");
    }
    assert!(heard.get("session").is_none(), "{heard}");
    let time = u128::from(heard["time"].as_u64().expect("a time"));
    assert!((before..before + 60_000).contains(&time), "{heard}");
    assert_eq!(plain.text().await, "hello");
    let kept = get(site.first(), PATH).await.expect(200);
    assert_eq!(kept["epoch"], sent["epoch"]);
    assert_eq!(kept["messages"][0]["sender"], "shop");
    assert_eq!(kept["messages"][0]["time"], heard["time"]);
}

async fn a_repeated_key_is_one_message_also_over_another_node(site: &Site) {
    let mut member = Client::v1(&site.last().ws_url()).await;
    member.subscribe("lobby").await;
    let body = |message: u32, sender: &str| json!({"message": message, "sender": sender, "key": "k"});
    let first = post(site.first(), PATH, &body(1, "ann")).await.expect(200);
    let again = post(site.last(), PATH, &body(2, "ann")).await.expect(200);
    assert_eq!(first, again);
    let other = post(site.last(), PATH, &body(3, "bob")).await.expect(200);
    assert_eq!(other["offset"], 2, "the key of another user");
    // The sender over HTTP is the user of a session.
    let mut ann = Client::connect(&format!("{}/ws?user=ann", site.last().ws_url()), &["roomcast.v1"]).await;
    assert_eq!(ann.json().await["type"], "welcome");
    let command = json!({"type": "sendMessage", "room": "lobby", "message": 4, "key": "k"});
    assert_eq!(ann.call(command).await["offset"], 1);
    let without = json!({"message": 5, "key": "k"});
    assert_eq!(post(site.first(), PATH, &without).await.expect(200)["offset"], 3);
    for expected in [1, 3, 5] {
        assert_eq!(member.json().await["message"], expected);
    }
    member.assert_quiet().await;
}

async fn whatever_json_is_published_arrives_as_it_was_sent(site: &Site) {
    let mut member = Client::v1(&site.last().ws_url()).await;
    member.subscribe("lobby").await;
    for message in [
        r#"{"a": [1.0, null]}"#,
        "null",
        "1e400",
        "\"\\u00e9\\n\"",
        "\"\"",
        "false",
    ] {
        let body = format!(r#"{{"message":{message}}}"#);
        call(site.first(), Method::POST, PATH, body).await.expect(200);
        let heard = member.text().await;
        if !message.starts_with('"') {
            assert!(heard.contains(&format!("\"message\":{message},")), "{heard}");
        }
    }
    let listed = get(site.last(), &format!("{PATH}?limit=3")).await.expect(200);
    let listed: Vec<_> = listed["messages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| &m["message"])
        .collect();
    assert_eq!(listed, [&json!("é\n"), &json!(""), &json!(false)]);
}

async fn a_publish_that_is_wrong_is_refused_and_says_why(site: &Site) {
    let node = site.first();
    let long = "x".repeat(65_537);
    let deep = format!(r#"{{"message":{}{}}}"#, "[".repeat(129), "]".repeat(129));
    for (body, status, code) in [
        ("", 400, "bad_json"),
        ("{", 400, "bad_json"),
        ("[]", 400, "bad_json"),
        ("{}", 400, "bad_command"),
        (r#"{"message":1,"sender":""}"#, 400, "bad_command"),
        (r#"{"message":1,"sender":"a\u0007"}"#, 400, "bad_command"),
        (r#"{"message":1,"sender":7}"#, 400, "bad_command"),
        (r#"{"message":1,"key":""}"#, 400, "bad_command"),
        (r#"{"message":"\ud800"}"#, 400, "bad_json"),
        (deep.as_str(), 400, "bad_command"),
        (&format!(r#"{{"message":"{long}"}}"#), 413, "message_too_large"),
        (
            &format!(r#"{{"message":1,"sender":"{}"}}"#, "s".repeat(129)),
            400,
            "bad_command",
        ),
        (
            &format!(r#"{{"message":1,"key":"{}"}}"#, "k".repeat(129)),
            400,
            "bad_command",
        ),
    ] {
        let answer = call(node, Method::POST, PATH, body).await;
        assert_eq!(answer.code(status), code, "{body}");
    }
    let answer = call(node, Method::POST, PATH, b"{\"message\":\"\xff\"}".to_vec()).await;
    assert_eq!(answer.code(400), "bad_json");
    assert_eq!(get(node, PATH).await.expect(200)["offset"], 0);
    // All that fits into the longest message, escaped as badly as can be.
    let escaped = "\\u0001".repeat(65_536);
    let body = format!(r#"{{"message":"{escaped}"}}"#);
    assert_eq!(
        call(node, Method::POST, PATH, body).await.expect(200)["offset"],
        1
    );
}

#[actix::test]
async fn without_history_there_is_no_place_and_keys_count_still() {
    for site in [
        Site::embedded(&[("ROOMCAST_HISTORY_SIZE", "0")]).await,
        Site::redis(&[("ROOMCAST_HISTORY_SIZE", "0")]).await,
    ] {
        let mut member = Client::v1(&site.last().ws_url()).await;
        member.subscribe("lobby").await;
        let body = json!({"message": "x", "key": "k"});
        for node in [site.first(), site.last()] {
            assert_eq!(
                post(node, PATH, &body).await.expect(200),
                json!({"room": "lobby"})
            );
        }
        let heard = member.json().await;
        assert!(heard["time"].is_u64() && heard.get("offset").is_none(), "{heard}");
        member.assert_quiet().await;
    }
}

#[actix::test]
async fn while_redis_is_away_a_publish_is_answered_with_what_is_known_of_it() {
    let mut site = Site::redis(&[]).await;
    let body = json!({"message": "x"});
    post(site.first(), PATH, &body).await.expect(200);
    site.redis.as_ref().expect("a Redis").signal(Signal::STOP);
    let asked = Instant::now();
    let answer = post(site.first(), PATH, &body).await;
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.expect(503)["outcome"], "unknown");
    let redis = site.redis.as_mut().expect("a Redis");
    redis.signal(Signal::CONT);
    redis.kill();
    let answer = crate::support::eventually("a refusal", async || {
        let asked = Instant::now();
        let answer = post(&site.nodes[0], PATH, &body).await;
        assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
        (answer.body["outcome"] == "refused").then_some(answer)
    })
    .await;
    assert_eq!(answer.code(503), "unavailable");
}
