//! Who is listed as a member of a room, over HTTP.

use serde_json::json;

use super::{Site, get, on_both_brokers};
use crate::support::client::Client;
use crate::support::eventually;

const PATH: &str = "/api/rooms/a%2Fb/members";

on_both_brokers! {
    those_who_subscribed_with_presence_are_listed_on_all_nodes
}

async fn those_who_subscribed_with_presence_are_listed_on_all_nodes(site: &Site) {
    let nobody = json!({"type": "members", "room": "a/b", "count": 0, "members": []});
    assert_eq!(get(site.first(), PATH).await.expect(200), nobody);
    let mut clients = Vec::new();
    let mut expected = Vec::new();
    for node in &site.nodes {
        let mut client = Client::connect(&format!("{}/ws?user=ann", node.ws_url()), &["roomcast.v1"]).await;
        let welcome = client.json().await;
        let command = json!({"type": "SUBSCRIBE", "id": 1, "room": "a/b", "presence": true});
        client.command(command).await;
        while client.json().await["type"] != "subscribed" {}
        expected.push(json!({"session": welcome["session"], "user": "ann"}));
        clients.push(client);
        let mut silent = Client::v1(&node.ws_url()).await;
        silent.subscribe("a/b").await;
        clients.push(silent);
    }
    for node in &site.nodes {
        let listed = get(node, PATH).await.expect(200);
        assert_eq!(listed["count"], expected.len());
        for member in &expected {
            assert!(
                listed["members"].as_array().expect("a list").contains(member),
                "{listed}"
            );
        }
    }
    drop(clients);
    eventually("nobody", async || {
        (get(site.last(), PATH).await.expect(200) == nobody).then_some(())
    })
    .await;
}
