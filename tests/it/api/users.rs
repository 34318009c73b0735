//! Ending a user's sessions and memberships, on all nodes.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::{Site, delete, get, on_both_brokers, post};
use crate::support::client::Client;
use crate::support::{eventually, within};

on_both_brokers! {
    a_user_is_disconnected_on_all_nodes_and_nobody_else
    a_user_is_removed_from_one_room_on_all_nodes
    nobody_is_nobody
}

pub(super) async fn named(node: &crate::support::node::Node, user: &str) -> Client {
    let url = format!("{}/ws?user={user}", node.ws_url());
    let mut client = Client::connect(&url, &["roomcast.v1"]).await;
    assert_eq!(client.json().await["type"], "welcome");
    client
}

async fn a_user_is_disconnected_on_all_nodes_and_nobody_else(site: &Site) {
    let (mut anns, mut others) = (Vec::new(), Vec::new());
    for node in &site.nodes {
        for user in ["ann%2F%C3%A9", "ann%2F%C3%A9", "ann", "bob"] {
            let mut client = named(node, user).await;
            client.subscribe("lobby").await;
            let list = if user.len() > 3 { &mut anns } else { &mut others };
            list.push(client);
        }
    }
    let answer = post(site.first(), "/api/users/ann%2F%C3%A9/disconnect", &json!(null))
        .await
        .expect(200);
    assert_eq!(answer, json!({"user": "ann/é", "sessions": anns.len()}));
    // They are out of their rooms, and not only told to go.
    for node in &site.nodes {
        assert_eq!(get(node, "/api/rooms/lobby").await.expect(200)["sessions"], 2);
    }
    for mut client in anns {
        assert_eq!(client.closed().await, Some(1008));
    }
    for client in &mut others {
        assert_eq!(client.call(json!({"type": "PING"})).await["type"], "pong");
    }
    // Who comes again is welcome.
    named(site.last(), "ann%2F%C3%A9").await.subscribe("lobby").await;
}

async fn a_user_is_removed_from_one_room_on_all_nodes(site: &Site) {
    let (mut anns, mut bobs) = (Vec::new(), Vec::new());
    for node in &site.nodes {
        let mut ann = named(node, "ann").await;
        ann.subscribe("a/b").await;
        ann.subscribe("other").await;
        anns.push(ann);
        let mut bob = named(node, "bob").await;
        bob.subscribe("a/b").await;
        bobs.push(bob);
        named(node, "ann").await;
    }
    let answer = delete(site.first(), "/api/rooms/a%2Fb/members/ann")
        .await
        .expect(200);
    assert_eq!(
        answer,
        json!({"room": "a/b", "user": "ann", "sessions": anns.len()})
    );
    post(site.last(), "/api/rooms/a%2Fb/messages", &json!({"message": "x"}))
        .await
        .expect(200);
    post(site.last(), "/api/rooms/other/messages", &json!({"message": "y"}))
        .await
        .expect(200);
    for ann in &mut anns {
        assert_eq!(ann.json().await, json!({"type": "unsubscribed", "room": "a/b"}));
        assert_eq!(ann.json().await["message"], "y");
    }
    for bob in &mut bobs {
        assert_eq!(bob.json().await["message"], "x");
    }
    // They may come again.
    anns[0].subscribe("a/b").await;
    let answer = delete(site.last(), "/api/rooms/a%2Fb/members/ann")
        .await
        .expect(200);
    assert_eq!(answer["sessions"], 1);
}

async fn nobody_is_nobody(site: &Site) {
    let mut nameless = Client::v1(&site.first().ws_url()).await;
    nameless.subscribe("lobby").await;
    let answer = post(site.last(), "/api/users/ann/disconnect", &json!({}))
        .await
        .expect(200);
    assert_eq!(answer["sessions"], 0);
    let answer = delete(site.last(), "/api/rooms/lobby/members/ann")
        .await
        .expect(200);
    assert_eq!(answer["sessions"], 0);
    for bad in ["", "%00", "%FF", "a%0Ab", &"x".repeat(129)] {
        let answer = post(site.first(), &format!("/api/users/{bad}/disconnect"), &json!({})).await;
        assert_eq!(answer.code(400), "bad_command", "{bad}");
    }
    assert_eq!(nameless.call(json!({"type": "PING"})).await["type"], "pong");
}

#[actix::test]
async fn a_plain_session_is_removed_without_a_word() {
    let site = Site::redis(&[]).await;
    let mut ann = Client::connect(&format!("{}/ws?user=ann", site.last().ws_url()), &[]).await;
    ann.subscribe_plain("lobby").await;
    let answer = delete(site.first(), "/api/rooms/lobby/members/ann")
        .await
        .expect(200);
    assert_eq!(answer["sessions"], 1);
    post(
        site.first(),
        "/api/rooms/lobby/messages",
        &json!({"message": "x"}),
    )
    .await
    .expect(200);
    ann.assert_quiet().await;
    ann.subscribe_plain("lobby").await;
}

#[actix::test]
async fn a_node_that_stands_still_makes_it_unknown_and_says_how_many_have_answered() {
    let site = Site::redis(&[]).await;
    let mut ann = named(site.first(), "ann").await;
    site.last().signal(Signal::STOP);
    let asked = Instant::now();
    let answer = post(site.first(), "/api/users/ann/disconnect", &json!({})).await;
    let took = asked.elapsed();
    site.last().signal(Signal::CONT);
    assert_eq!(answer.header("retry-after"), Some("1"));
    let body = answer.expect(503);
    assert!(took < Duration::from_millis(3_500), "{took:?}");
    assert!(took > Duration::from_millis(2_000), "{took:?}");
    let message = body["message"].as_str().expect("a text");
    assert!(message.starts_with("1 of 2 nodes"), "{message}");
    assert_eq!(ann.closed().await, Some(1008));
    let again = eventually("all nodes", async || {
        let answer = post(site.first(), "/api/users/ann/disconnect", &json!({})).await;
        (answer.status == 200).then_some(answer.body)
    })
    .await;
    assert_eq!(again["sessions"], 0);
}

#[actix::test]
async fn without_redis_nothing_is_promised() {
    let mut site = Site::redis(&[]).await;
    let mut ann = named(site.first(), "ann").await;
    site.redis.as_mut().expect("a Redis").kill();
    within(Duration::from_secs(10), "a node that knows", async || {
        (site.nodes[0].get("/readyz").await.0 == 503).then_some(())
    })
    .await;
    let asked = Instant::now();
    let answer = post(site.first(), "/api/users/ann/disconnect", &json!({})).await;
    assert_eq!(answer.code(503), "unavailable");
    assert!(asked.elapsed() < Duration::from_millis(3_500));
    assert_eq!(ann.call(json!({"type": "PING"})).await["type"], "pong");
}

#[actix::test]
async fn what_others_say_on_the_control_channel_is_checked_and_counted() {
    let site = Site::redis(&[]).await;
    let redis = site.redis.as_ref().expect("a Redis");
    let mut ann = named(site.first(), "ann").await;
    let dropped = site.first().metric("roomcast_payloads_dropped_total").await;
    for payload in [
        "",
        "{}",
        r#"{"what":"met","id":1,"from":"x","sessions":1}"#,
        r#"{"what":"disconnect","id":1,"from":"x","user":""}"#,
        &format!(
            r#"{{"what":"disconnect","id":1,"from":"x","user":"{}"}}"#,
            "u".repeat(5_000)
        ),
    ] {
        assert_eq!(redis.publish("\u{1}control", payload).await, 2);
    }
    eventually("five that were dropped", async || {
        let now = site.first().metric("roomcast_payloads_dropped_total").await;
        (now == dropped + 5).then_some(())
    })
    .await;
    assert_eq!(ann.call(json!({"type": "PING"})).await["type"], "pong");
}

#[actix::test]
async fn a_session_that_joins_without_end_is_out_when_the_answer_comes() {
    let site = Site::embedded(&[]).await;
    let node = site.first();
    for _ in 0..20 {
        let mut ann = named(node, "ann").await;
        for n in 0..200 {
            let kind = if n % 2 == 0 { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
            ann.command(json!({"type": kind, "room": format!("r{}", n / 2 % 10)}))
                .await;
        }
        for n in 0..50 {
            ann.command(json!({"type": "SUBSCRIBE", "room": format!("s{n}")}))
                .await;
        }
        post(node, "/api/users/ann/disconnect", &json!({}))
            .await
            .expect(200);
        assert_eq!(get(node, "/api/rooms").await.expect(200)["rooms"], json!([]));
        drop(ann);
    }
}
