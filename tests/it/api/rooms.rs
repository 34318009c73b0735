//! Which rooms are occupied.

use serde_json::{Value, json};

use super::{Site, get, on_both_brokers};
use crate::support::client::Client;
use crate::support::eventually;

on_both_brokers! {
    a_room_is_listed_while_somebody_is_there
    all_rooms_come_once_page_by_page_in_the_order_of_their_names
    a_page_that_is_wrong_is_refused
}

async fn a_room_is_listed_while_somebody_is_there(site: &Site) {
    let node = site.last();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::v1(&node.ws_url()).await;
        client.subscribe("a/b").await;
        clients.push(client);
    }
    let listed = get(node, "/api/rooms").await.expect(200);
    assert_eq!(listed["rooms"], json!([{"room": "a/b", "sessions": 2}]));
    assert!(listed.get("cursor").is_none());
    let one = get(node, "/api/rooms/a%2Fb").await.expect(200);
    assert_eq!(one, json!({"node": listed["node"], "room": "a/b", "sessions": 2}));
    if site.redis.is_some() {
        let elsewhere = get(site.first(), "/api/rooms").await.expect(200);
        assert_ne!(elsewhere["node"], listed["node"]);
        assert_eq!(elsewhere["rooms"], json!([]));
    }
    clients[0]
        .call(json!({"type": "UNSUBSCRIBE", "room": "a/b"}))
        .await;
    assert_eq!(get(node, "/api/rooms/a%2Fb").await.expect(200)["sessions"], 1);
    drop(clients);
    eventually("an empty room", async || {
        (get(node, "/api/rooms/a%2Fb").await.expect(200)["sessions"] == 0).then_some(())
    })
    .await;
    assert_eq!(get(node, "/api/rooms").await.expect(200)["rooms"], json!([]));
}

async fn all_rooms_come_once_page_by_page_in_the_order_of_their_names(site: &Site) {
    let node = site.first();
    let mut client = Client::v1(&node.ws_url()).await;
    let mut names: Vec<String> = (0..25).map(|n| format!("room {n} é%+&=/?")).collect();
    for name in &names {
        client.subscribe(name).await;
    }
    names.sort();
    for limit in [1, 7, 24, 25, 26] {
        let (mut found, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let cursor_part = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
            let page = get(node, &format!("/api/rooms?limit={limit}{cursor_part}"))
                .await
                .expect(200);
            let rooms = page["rooms"].as_array().expect("a list");
            assert!(rooms.len() <= limit && !rooms.is_empty());
            found.extend(
                rooms
                    .iter()
                    .map(|room| room["room"].as_str().expect("a name").to_owned()),
            );
            cursor = page.get("cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                break;
            }
            assert_eq!(rooms.len(), limit);
        }
        assert_eq!(found, names, "{limit} at a time");
    }
}

async fn a_page_that_is_wrong_is_refused(site: &Site) {
    for query in [
        "limit=0",
        "limit=x",
        "cursor=",
        "cursor=6",
        "cursor=zz",
        "cursor=ff",
        "cursor=00",
    ] {
        let answer = get(site.first(), &format!("/api/rooms?{query}")).await;
        assert_eq!(answer.code(400), "bad_command", "{query}");
    }
    get(site.first(), "/api/rooms?limit=1001&cursor=6c")
        .await
        .expect(200);
}
