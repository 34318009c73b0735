//! `/echo`, the WebSocket that conformance suites are pointed at: through the same session as `/ws`.

use crate::support::node::Node;
use crate::support::raw::{
    BINARY, FIRST_BINARY, FIRST_TEXT, LAST, MIDDLE, PING, Raw, Received, Request, TEXT, close, frame, header,
    masked,
};

const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// A node that serves it.
async fn node() -> Node {
    Node::start(&[("ROOMCAST_CONFORMANCE", "1")]).await
}

async fn connect(node: &Node) -> Raw {
    let (raw, response) = Request::upgrade("/echo").send(node.address()).await;
    assert_eq!(response.status, 101, "{response:?}");
    raw
}

#[actix::test]
async fn every_message_comes_back_as_it_was_sent() {
    let node = node().await;
    let mut raw = connect(&node).await;
    raw.send(&frame(TEXT, b"hello")).await;
    assert_eq!(raw.next().await, Received::Text("hello".to_owned()));
    raw.send(&frame(TEXT, br#"{"type":"SUBSCRIBE","room":"r"}"#))
        .await;
    assert_eq!(
        raw.next().await,
        Received::Text(r#"{"type":"SUBSCRIBE","room":"r"}"#.to_owned()),
        "a command is nothing special here"
    );
    raw.send(&frame(BINARY, &[0, 255, 1])).await;
    assert_eq!(raw.next().await, Received::Binary(vec![0, 255, 1]));
    raw.send(&frame(TEXT, b"")).await;
    assert_eq!(raw.next().await, Received::Text(String::new()));
    raw.send(&frame(PING, b"there?")).await;
    assert_eq!(raw.next().await, Received::Pong(b"there?".to_vec()));
    raw.send(&close(3000, b"done")).await;
    assert_eq!(raw.next().await, Received::Close(Some(3000), String::new()));
    assert_eq!(raw.next().await, Received::End);
}

#[actix::test]
async fn fragments_come_back_joined() {
    let node = node().await;
    let mut raw = connect(&node).await;
    for (first, expected) in [
        (FIRST_BINARY, Received::Binary(b"ab".to_vec())),
        (FIRST_TEXT, Received::Text("ab".to_owned())),
    ] {
        raw.send(&frame(first, b"a")).await;
        raw.send(&frame(PING, b"between")).await;
        raw.send(&frame(MIDDLE, b"")).await;
        raw.send(&frame(LAST, b"b")).await;
        assert_eq!(raw.next().await, Received::Pong(b"between".to_vec()));
        assert_eq!(raw.next().await, expected);
    }
}

#[actix::test]
async fn messages_of_16_mib_are_taken_and_larger_ones_are_not() {
    let node = node().await;
    let mut raw = connect(&node).await;
    let whole: Vec<u8> = (0..MAX_MESSAGE)
        .map(|n| u8::try_from(n % 251).expect("small"))
        .collect();
    raw.send(&header(BINARY, MAX_MESSAGE as u64)).await;
    raw.send(&masked(&whole)).await;
    match raw.next().await {
        Received::Binary(back) => assert!(back == whole, "not what was sent"),
        other => panic!("{other:?}"),
    }
    raw.send(&header(BINARY, MAX_MESSAGE as u64 + 1)).await;
    assert!(matches!(raw.next().await, Received::Close(Some(1009), _)));
}

#[actix::test]
async fn it_is_only_there_when_it_was_asked_for() {
    let node = Node::start(&[]).await;
    let (_, response) = Request::upgrade("/echo").send(node.address()).await;
    assert_eq!(response.status, 404, "{response:?}");
    let node = self::node().await;
    let (_, response) = Request::get("/echo").send(node.address()).await;
    assert_eq!(response.status, 426, "{response:?}");
    assert_eq!(response.header("sec-websocket-version"), Some("13"));
}
