//! Who may ask, what is asked for, and how much is read of it.

use std::time::Instant;

use awc::http::Method;
use serde_json::{Value, json};

use super::{Site, TOKEN, call, delete, get, post, send};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::node::Node;
use crate::support::raw::{Raw, Request};

const PATHS: [(&str, &str); 9] = [
    ("GET", "/api/openapi.json"),
    ("POST", "/api/messages"),
    ("GET", "/api/rooms"),
    ("GET", "/api/rooms/r"),
    ("GET", "/api/rooms/r/messages"),
    ("POST", "/api/rooms/r/messages"),
    ("DELETE", "/api/rooms/r/messages"),
    ("DELETE", "/api/rooms/r/members/u"),
    ("POST", "/api/users/u/disconnect"),
];

#[actix::test]
async fn without_a_token_in_the_settings_there_is_no_api() {
    let node = Node::start(&[]).await;
    for (method, path) in PATHS {
        let method: Method = method.parse().expect("a method");
        for authorization in [None, Some("Bearer "), Some("Bearer x")] {
            let answer = send(&node, method.clone(), path, authorization, b"{}".to_vec()).await;
            assert_eq!(answer.code(404), "not_found", "{path}");
        }
    }
}

#[actix::test]
async fn whoever_has_another_token_or_none_is_told_to_show_it() {
    let site = Site::embedded(&[]).await;
    let longer = format!("Bearer {TOKEN}x");
    let shorter = format!("Bearer {}", &TOKEN[1..]);
    let basic = format!("Basic {TOKEN}");
    for (method, path) in PATHS
        .into_iter()
        .chain([("GET", "/api/nothing"), ("PUT", "/api/rooms")])
    {
        let method: Method = method.parse().expect("a method");
        for wrong in [
            None,
            Some("Bearer "),
            Some(&*longer),
            Some(&*shorter),
            Some(&*basic),
            Some(TOKEN),
        ] {
            let answer = send(site.first(), method.clone(), path, wrong, b"{}".to_vec()).await;
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
            assert_eq!(answer.code(401), "unauthorized", "{path}");
        }
    }
}

#[actix::test]
async fn what_is_not_there_is_404_and_other_methods_are_405() {
    let site = Site::embedded(&[]).await;
    for path in [
        "/api",
        "/api/",
        "/api/room",
        "/api/rooms/",
        "/api/rooms/a/b",
        "/api/rooms/r/messages/",
        "/api//rooms",
        "/api/rooms/r/members/u/x",
        "/api/users",
        "/api/users/u",
        "/api/%72ooms",
        "/api/nothing?x=%FF",
        "/api/a%0Ab",
    ] {
        let answer = get(site.first(), path).await;
        if path == "/api/rooms/" {
            assert_eq!(answer.code(400), "bad_room");
        } else {
            assert_eq!(answer.code(404), "not_found", "{path}");
        }
    }
    for (path, allowed) in [
        ("/api/openapi.json", "GET"),
        ("/api/messages", "POST"),
        ("/api/rooms", "GET"),
        ("/api/rooms/r", "GET"),
        ("/api/rooms/r/messages", "GET, POST, DELETE"),
        ("/api/rooms/r/members/u", "DELETE"),
        ("/api/users/u/disconnect", "POST"),
    ] {
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ] {
            if allowed.split(", ").any(|allowed| allowed == method.as_str()) {
                continue;
            }
            let answer = call(site.first(), method.clone(), path, "").await;
            assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
            assert_eq!(answer.code(405), "method_not_allowed");
        }
    }
}

#[actix::test]
async fn a_room_is_one_segment_decoded_once() {
    let site = Site::embedded(&[]).await;
    let node = site.first();
    for (segment, room) in [
        ("a%2Fb", "a/b"),
        ("%252F", "%2F"),
        ("%25", "%"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("%F0%9F%99%82", "🙂"),
        ("%3F%23%26=;,", "?#&=;,"),
        ("messages", "messages"),
        ("%7Broom%7D", "{room}"),
    ] {
        let path = format!("/api/rooms/{segment}/messages");
        assert_eq!(
            post(node, &path, &json!({"message": 1})).await.expect(200)["room"],
            room
        );
        let mut member = Client::v1(&node.ws_url()).await;
        let reply = member.call(json!({"type": "SUBSCRIBE", "room": room})).await;
        assert_eq!(reply["offset"], 1, "{segment} is the room {room}");
        assert_eq!(get(node, &path).await.expect(200)["room"], room);
        assert_eq!(
            get(node, &format!("/api/rooms/{segment}")).await.expect(200)["sessions"],
            1
        );
    }
    for bad in [
        "%FF",
        "%C3",
        "%",
        "%2",
        "%zz",
        "%00",
        "a%0Ab",
        "%C2%85",
        &"x".repeat(256),
        &"%C3%A9".repeat(128),
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let path = format!("/api/rooms/{bad}/messages");
            let answer = call(node, method, &path, r#"{"message":1}"#).await;
            assert_eq!(answer.code(400), "bad_room", "{bad}");
        }
        assert_eq!(
            get(node, &format!("/api/rooms/{bad}")).await.code(400),
            "bad_room"
        );
        assert_eq!(
            delete(node, &format!("/api/rooms/{bad}/members/u"))
                .await
                .code(400),
            "bad_room"
        );
    }
}

#[actix::test]
async fn a_body_that_is_too_long_is_refused_by_its_announced_length() {
    let site = Site::embedded(&[]).await;
    let single = 6 * 65_536 + 4 * 1_024;
    for (path, most) in [
        ("/api/rooms/r/messages", single),
        ("/api/messages", 16 * 1024 * 1024),
    ] {
        let request = |length: usize| {
            Request::get(path)
                .method("POST")
                .and("authorization", &format!("Bearer {TOKEN}"))
                .and("content-length", &length.to_string())
        };
        // Not a byte of it is sent.
        let asked = Instant::now();
        let (_, response) = request(most + 1).send(site.first().address()).await;
        assert_eq!(response.status, 413, "{}", response.body);
        assert!(response.body.contains("body_too_large"), "{}", response.body);
        assert!(asked.elapsed().as_secs() < 5);
        let body = " ".repeat(most);
        let answer = call(site.first(), Method::POST, path, body).await;
        assert_eq!(answer.code(400), "bad_json");
    }
}

#[actix::test]
async fn a_body_without_a_length_is_read_as_far_as_one_may_be_long() {
    let site = Site::embedded(&[]).await;
    let request = || {
        Request::get("/api/rooms/r/messages")
            .method("POST")
            .and("authorization", &format!("Bearer {TOKEN}"))
            .and("transfer-encoding", "chunked")
    };
    let body = br#"{"message":"in pieces"}"#;
    let mut raw = Raw::connect(site.first().address()).await;
    raw.send(&request().bytes()).await;
    for byte in body {
        raw.send(&[b"1\r\n", &[*byte][..], b"\r\n"].concat()).await;
    }
    raw.send(b"0\r\n\r\n").await;
    let response = raw.response(false).await;
    assert_eq!(response.status, 200, "{}", response.body);

    let mut raw = Raw::connect(site.first().address()).await;
    raw.send(&request().bytes()).await;
    let chunk = [b"10000\r\n", &[b' '; 65_536][..], b"\r\n"].concat();
    for _ in 0..7 {
        raw.send(&chunk).await;
    }
    let response = raw.response(false).await;
    assert_eq!(response.status, 413, "{}", response.body);
}

#[actix::test]
async fn a_body_that_breaks_off_is_no_publish() {
    let site = Site::embedded(&[]).await;
    let mut raw = Raw::connect(site.first().address()).await;
    let request = Request::get("/api/rooms/r/messages")
        .method("POST")
        .and("authorization", &format!("Bearer {TOKEN}"))
        .and("content-length", "100");
    raw.send(&request.bytes()).await;
    raw.send(br#"{"message":1}"#).await;
    drop(raw);
    // Whatever was sent before on another connection has been looked at by then.
    assert_eq!(
        get(site.first(), "/api/rooms/r/messages").await.expect(200)["offset"],
        0
    );
}

#[actix::test]
async fn requests_are_counted_by_what_they_are_about() {
    let site = Site::embedded(&[]).await;
    let node = site.first();
    get(node, "/api/rooms").await.expect(200);
    get(node, "/api/rooms/%FF").await.expect(400);
    get(node, "/api/nothing").await.expect(404);
    post(node, "/api/messages", &Value::Null).await.expect(400);
    post(node, "/api/rooms/r/messages", &json!({"message": 1}))
        .await
        .expect(200);
    for (series, expected) in [
        ("roomcast_api_requests_total{route=\"rooms\"}", 2),
        ("roomcast_api_requests_refused_total{route=\"rooms\"}", 1),
        ("roomcast_api_requests_total{route=\"other\"}", 1),
        ("roomcast_api_requests_refused_total{route=\"batch\"}", 1),
        ("roomcast_api_requests_total{route=\"messages\"}", 1),
        ("roomcast_api_requests_refused_total{route=\"messages\"}", 0),
        ("roomcast_api_requests_failed_total", 0),
    ] {
        assert_eq!(node.metric(series).await, expected, "{series}");
    }
}

#[actix::test]
async fn a_node_that_stops_serves_the_api_until_it_is_gone() {
    let site = Site::embedded(&[("ROOMCAST_DRAIN", "3")]).await;
    let node = site.first();
    let mut member = Client::v1(&node.ws_url()).await;
    member.subscribe("r").await;
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(member.json().await["type"], "bye");
    eventually("a node that stops", async || {
        (node.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
    post(node, "/api/rooms/r/messages", &json!({"message": "late"}))
        .await
        .expect(200);
    assert_eq!(member.json().await["message"], "late");
}
