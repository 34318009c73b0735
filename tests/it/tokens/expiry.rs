//! A session ends when its token does, or when it shows none, whatever it is doing.

use std::time::Instant;

use serde_json::{Value, json};

use super::{
    SECOND, assert_served, auth, code, hear_oneself, plain, seconds_from_now, seconds_until, server, signer,
    stranger, v1,
};
use crate::support::client::{Client, Event};
use crate::support::node::{Node, metric, ws_url};
use crate::support::raw::{Raw, Request, command};
use crate::support::{PATIENCE, eventually, undisturbed};

/// Waits for the close frame, which has to be that of a session whose time is over, at its end and within a second of it.
async fn assert_ends_at(client: &mut Client, end: f64) {
    let code = loop {
        match client.event_within(PATIENCE).await.expect("an end") {
            Event::Closed(code) => break code,
            Event::Text(_) => {}
        }
    };
    assert_eq!(code, Some(1008));
    let late = -seconds_until(end);
    assert!((0.0..1.0).contains(&late), "it ended {late} s late");
}

#[actix::test]
async fn a_session_ends_with_its_token() {
    let _turn = undisturbed().await;
    let server = server(&[("ROOMCAST_CONFORMANCE", "1")]);
    let end = seconds_from_now(3.0);
    let claims = json!({"sub": "ann", "exp": end});
    let mut quiet = v1(&server, &claims).await;
    let mut member = v1(&server, &claims).await;
    member.subscribe("r").await;
    let mut plain = plain(&server, &claims).await;
    plain.subscribe_plain("q").await;
    let mut late = stranger(&ws_url(&server)).await;
    assert_eq!(auth(&mut late, &claims).await["type"], "authorized");
    let token = signer().sign(&claims);
    let mut echo = Client::connect(&format!("{}/echo?token={token}", ws_url(&server)), &[]).await;
    for client in [&mut quiet, &mut member, &mut plain, &mut late, &mut echo] {
        assert_ends_at(client, end).await;
    }
    let url = format!("http://{}", server.addr());
    eventually("empty rooms", async || {
        (metric(&url, "roomcast_rooms").await == 0).then_some(())
    })
    .await;
}

#[actix::test]
async fn a_renewal_moves_the_end_and_a_bad_one_does_not() {
    let _turn = undisturbed().await;
    let server = server(&[]);
    let first = seconds_from_now(3.0);
    let mut renewed = v1(&server, &json!({"exp": first})).await;
    let mut shortened = v1(&server, &json!({"exp": seconds_from_now(600.0)})).await;
    let mut for_ever = v1(&server, &json!({"exp": first})).await;
    let mut not_renewed = v1(&server, &json!({"exp": first})).await;
    let second = seconds_from_now(5.0);
    for client in [&mut renewed, &mut shortened] {
        let reply = auth(client, &json!({"exp": second})).await;
        assert_eq!(reply["type"], "authorized", "{reply}");
    }
    assert_eq!(auth(&mut for_ever, &json!({})).await["type"], "authorized");
    assert_eq!(
        code(&mut not_renewed, json!({"type": "AUTH", "token": "bad"})).await,
        "unauthorized"
    );
    assert_ends_at(&mut not_renewed, first).await;
    assert_served(&mut renewed).await;
    assert_ends_at(&mut renewed, second).await;
    assert_ends_at(&mut shortened, second).await;
    assert_served(&mut for_ever).await;
}

#[actix::test]
async fn an_end_in_the_far_future_is_as_good_as_none() {
    let server = server(&[]);
    for (end, told) in [
        (json!(seconds_from_now(1e10).floor()), None),
        (json!(u64::MAX / 1_000), None),
        (json!(u64::MAX), Some(u64::MAX)),
        (json!(1e300), Some(u64::MAX)),
    ] {
        let mut client = stranger(&ws_url(&server)).await;
        let reply = auth(&mut client, &json!({"exp": end})).await;
        assert_eq!(reply["type"], "authorized", "{reply}");
        assert!(told.is_none() || reply["expires"] == json!(told), "{reply}");
        assert_eq!(client.json().await["type"], "welcome");
        client.subscribe("r").await;
        assert_eq!(hear_oneself(&mut client, "r").await["message"], "hello");
        assert_eq!(
            auth(&mut client, &json!({"exp": end})).await["type"],
            "authorized"
        );
        assert_served(&mut client).await;
    }
}

#[actix::test]
async fn a_session_that_shows_no_token_ends_after_ten_seconds() {
    let _turn = undisturbed().await;
    let server = server(&[]);
    let since = Instant::now();
    let mut client = stranger(&ws_url(&server)).await;
    // It is no help to be lively.
    assert_eq!(code(&mut client, json!({"type": "PING"})).await, "unauthorized");
    let mut in_time = stranger(&ws_url(&server)).await;
    assert_eq!(auth(&mut in_time, &json!({})).await["type"], "authorized");
    assert_eq!(in_time.json().await["type"], "welcome");
    assert_eq!(
        client.event_within(2 * PATIENCE).await,
        Some(Event::Closed(Some(1008)))
    );
    let lasted = since.elapsed();
    assert!(lasted >= 10 * SECOND && lasted < 11 * SECOND, "{lasted:?}");
    assert_served(&mut in_time).await;
}

/// A session whose peer does not read is frozen: no timer of its own runs.
#[actix::test]
async fn a_session_whose_peer_does_not_read_ends_with_its_token_too() {
    let _turn = undisturbed().await;
    let (variable, secret) = ("ROOMCAST_JWT_SECRET", super::SECRET);
    let node = Node::start(&[(variable, secret), ("ROOMCAST_MAX_BACKLOG", "100000000")]).await;
    let end = seconds_from_now(8.0);
    let token = signer().sign(&json!({"exp": end}));
    let raw = Raw::connect_narrow(node.address()).await;
    let request = Request::upgrade(&format!("/ws?token={token}"));
    let (mut raw, response) = request.send_on(raw).await;
    assert_eq!(response.status, 101);
    raw.send(&command(&json!({"type": "SUBSCRIBE", "room": "r"})))
        .await;
    eventually("a member", async || {
        (node.metric("roomcast_memberships").await == 1).then_some(())
    })
    .await;
    let mut sender = Client::connect(
        &format!("{}/ws?token={}", node.ws_url(), signer().sign(&json!({}))),
        &["roomcast.v1"],
    )
    .await;
    assert_eq!(sender.json().await["type"], "welcome");
    let message = Value::from("x".repeat(60_000));
    for _ in 0..40 {
        assert_eq!(
            sender
                .call(json!({"type": "sendMessage", "room": "r", "message": message}))
                .await["type"],
            "sent"
        );
    }
    eventually("a backlog", async || {
        (node.metric("roomcast_session_backlog_bytes").await > 1_000_000).then_some(())
    })
    .await;
    assert!(seconds_until(end) > 0.0, "the test is too slow");
    assert_eq!(node.metric("roomcast_memberships").await, 1);
    eventually("its leave", async || {
        (node.metric("roomcast_memberships").await == 0).then_some(())
    })
    .await;
    // Much earlier than it would be cut for reading nothing.
    let late = -seconds_until(end);
    assert!((0.0..3.0).contains(&late), "it left {late} s late");
    crate::support::within(2 * PATIENCE, "its end", async || {
        (node.metric("roomcast_sessions").await == 1).then_some(())
    })
    .await;
    assert_served(&mut sender).await;
}
