//! Publishing many messages at once.

use std::time::Instant;

use awc::http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{SOON, Site, TOKEN, call, get, on_both_brokers, post};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::raw::Raw;

const PATH: &str = "/api/messages";

on_both_brokers! {
    a_thousand_messages_keep_their_order
    each_entry_has_its_own_result
    a_batch_may_be_repeated_with_its_keys
    a_batch_that_is_none_is_refused_as_a_whole
}

fn results(answer: &Value) -> &Vec<Value> {
    answer["results"].as_array().expect("a list")
}

async fn a_thousand_messages_keep_their_order(site: &Site) {
    let mut member = Client::v1(&site.last().ws_url()).await;
    member.subscribe("a").await;
    let entry = |n: u32| json!({"room": if n.is_multiple_of(2) { "a" } else { "b" }, "message": n});
    let batch = json!({"messages": (0..1_000).map(entry).collect::<Vec<_>>()});
    let answer = post(site.first(), PATH, &batch).await.expect(200);
    assert_eq!(results(&answer).len(), 1_000);
    for (n, result) in results(&answer).iter().enumerate() {
        let room = if n % 2 == 0 { "a" } else { "b" };
        assert_eq!(
            (&result["room"], &result["offset"]),
            (&json!(room), &json!(n / 2 + 1))
        );
    }
    for n in (0..1_000).step_by(2) {
        assert_eq!(member.json().await["message"], n);
    }
    let kept = get(site.last(), "/api/rooms/b/messages?limit=1000")
        .await
        .expect(200);
    let kept: Vec<_> = kept["messages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| m["message"].as_u64())
        .collect();
    assert_eq!(kept, (0..500).map(|n| Some(2 * n + 1)).collect::<Vec<_>>());
}

async fn each_entry_has_its_own_result(site: &Site) {
    let batch = json!({"messages": [
        {"room": "r", "message": "first", "sender": "ann"},
        {"room": "", "message": 1},
        {"message": 1},
        7,
        {"room": "r"},
        {"room": "r", "message": "x".repeat(65_537)},
        {"roomId": "r", "message": {"the": "last"}},
    ]});
    let answer = post(site.first(), PATH, &batch).await.expect(200);
    let shown: Vec<_> = results(&answer)
        .iter()
        .map(|result| {
            (
                result["room"].as_str(),
                result["offset"].as_u64(),
                result["code"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Some("r"), Some(1), None),
            (None, None, Some("bad_room")),
            (None, None, Some("bad_command")),
            (None, None, Some("bad_json")),
            (Some("r"), None, Some("bad_command")),
            (Some("r"), None, Some("message_too_large")),
            (Some("r"), Some(2), None),
        ]
    );
    let kept = get(site.last(), "/api/rooms/r/messages").await.expect(200);
    assert_eq!(kept["messages"][0]["sender"], "ann");
    assert_eq!(kept["messages"][1]["message"], json!({"the": "last"}));
    assert_eq!(kept["offset"], 2);
}

async fn a_batch_may_be_repeated_with_its_keys(site: &Site) {
    let entry = |n: u32| json!({"room": "r", "message": n, "key": format!("k{}", n % 10)});
    let batch = json!({"messages": (0..20).map(entry).collect::<Vec<_>>()});
    let first = post(site.first(), PATH, &batch).await.expect(200);
    let offsets: Vec<_> = results(&first)
        .iter()
        .map(|result| result["offset"].as_u64())
        .collect();
    let expected: Vec<_> = (0..20).map(|n| Some(n % 10 + 1)).collect();
    assert_eq!(offsets, expected);
    assert_eq!(post(site.last(), PATH, &batch).await.expect(200), first);
    assert_eq!(
        get(site.last(), "/api/rooms/r/messages").await.expect(200)["offset"],
        10
    );
}

async fn a_batch_that_is_none_is_refused_as_a_whole(site: &Site) {
    let node = site.first();
    let of = |count: usize| json!({"messages": vec![json!({"room": "r", "message": 1}); count]}).to_string();
    for (body, code) in [
        (String::new(), "bad_json"),
        ("[]".to_owned(), "bad_json"),
        ("{}".to_owned(), "bad_command"),
        (r#"{"messages":null}"#.to_owned(), "bad_json"),
        (of(0), "bad_command"),
        (of(1_001), "bad_command"),
        (of(2) + "x", "bad_json"),
    ] {
        assert_eq!(
            call(node, Method::POST, PATH, body.clone()).await.code(400),
            code,
            "{body:.80}"
        );
    }
    assert_eq!(get(node, "/api/rooms/r/messages").await.expect(200)["offset"], 0);
}

#[actix::test]
async fn while_redis_is_away_every_entry_says_so() {
    let site = Site::redis(&[]).await;
    let batch = json!({"messages": [{"room": "r", "message": 1}, {"room": ""}, {"room": "q", "message": 2}]});
    site.redis.as_ref().expect("a Redis").signal(Signal::STOP);
    let asked = Instant::now();
    let answer = post(site.first(), PATH, &batch).await.expect(200);
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    let codes: Vec<_> = results(&answer)
        .iter()
        .map(|result| result["code"].as_str())
        .collect();
    assert_eq!(
        codes,
        [Some("unavailable"), Some("bad_room"), Some("unavailable")]
    );
    assert!(results(&answer)[0]["outcome"].is_string());
}

#[actix::test]
async fn the_bodies_of_all_requests_have_a_bound_together() {
    const LONGEST: usize = 16 * 1024 * 1024;
    let site = Site::embedded(&[]).await;
    let node = site.first();
    let mut session = Client::v1(&node.ws_url()).await;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {LONGEST}\r\n\r\n"
    );
    let held = async || {
        let (_, metrics) = node.get("/metrics").await;
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        value
            .and_then(|value| value.parse::<f64>().ok())
            .expect("a number")
    };
    let before = held().await;
    let mut callers = Vec::new();
    for _ in 0..4 {
        let mut caller = Raw::connect(node.address()).await;
        caller.send(head.as_bytes()).await;
        caller.send(&vec![b' '; LONGEST - 1]).await;
        callers.push(caller);
    }
    // A publish that comes between would be one body more for a moment, and one of these be refused for it.
    eventually("bodies that are read", async || {
        (held().await >= before + 4.0 * LONGEST as f64 - 500_000.0).then_some(())
    })
    .await;
    let publish = async || post(node, "/api/rooms/r/messages", &json!({"message": "x"})).await;
    let refused = eventually("bodies that are all held", async || {
        let answer = publish().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    let refused = refused.expect(503);
    assert_eq!(
        (&refused["code"], &refused["outcome"]),
        (&json!("unavailable"), &json!("refused"))
    );
    // What is no body of the API is not concerned.
    assert_eq!(session.call(json!({"type": "PING"})).await["type"], "pong");
    session.publish("r", "x").await;
    let mut first = callers.remove(0);
    first.send(b" ").await;
    assert_eq!(first.response(false).await.status, 400);
    publish().await.expect(200);
}
