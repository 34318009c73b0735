//! Both dialects as a client sees them, on actix's test server.

use serde_json::json;

use crate::support::client::Client;
use crate::support::node::{test_server, ws_url};

#[actix::test]
async fn a_plain_member_gets_the_bare_text_and_hears_itself() {
    let server = test_server(&[]);
    let mut client = Client::plain(&ws_url(&server)).await;
    client
        .command(json!({"type": "SUBSCRIBE", "room": "room1"}))
        .await;
    client
        .command(json!({"type": "sendMessage", "roomId": "room1", "message": "hello"}))
        .await;
    assert_eq!(client.text().await, "hello");
}
