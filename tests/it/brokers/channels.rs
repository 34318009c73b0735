//! Redis: a room's channel is subscribed to exactly while the room has a member on the node.

use roomcast::protocol::Dialect;
use serde_json::json;

use super::{Site, publish};
use crate::support::client::Client;
use crate::support::member::Member;

const ROOM: &str = "room1";

#[actix::test]
async fn the_first_in_subscribes_and_the_last_out_unsubscribes() {
    let site = Site::redis().await;
    let redis = site.broker();
    redis.await_channels(&[]).await;
    let mut first = Client::v1(&site.url()).await;
    first.subscribe(ROOM).await;
    assert_eq!(redis.channels().await, [ROOM]);
    let mut second = Member::join(&site.url(), ROOM, Dialect::Plain).await;

    // The first leaves, the second does not notice.
    while first.json().await["type"] != "message" {}
    let reply = first.call(json!({"type": "UNSUBSCRIBE", "room": ROOM})).await;
    assert_eq!(reply["type"], "unsubscribed");
    publish(&mut first, ROOM, "for the other one".into()).await;
    assert_eq!(second.hear().await, "for the other one");
    assert_eq!(redis.channels().await, [ROOM]);

    second
        .client
        .command(json!({"type": "UNSUBSCRIBE", "room": ROOM}))
        .await;
    redis.await_channels(&[]).await;
    first.subscribe(ROOM).await;
    assert_eq!(redis.channels().await, [ROOM]);
}

#[actix::test]
async fn a_channel_is_there_while_a_member_comes_and_goes_beside_another() {
    let site = Site::redis().await;
    let mut stayer = Member::join(&site.url(), ROOM, Dialect::Plain).await;
    let mut flapper = Client::v1(&site.url()).await;
    for number in 0..50 {
        flapper.subscribe(ROOM).await;
        flapper
            .command(json!({"type": "UNSUBSCRIBE", "id": "out", "room": ROOM}))
            .await;
        assert_eq!(flapper.json().await["type"], "unsubscribed");
        assert_eq!(site.broker().channels().await, [ROOM]);
        publish(&mut flapper, ROOM, number.to_string().into()).await;
        assert_eq!(stayer.hear().await, number.to_string());
    }
}

#[actix::test]
async fn two_hundred_flaps_end_in_the_right_state() {
    let site = Site::redis().await;
    let redis = site.broker();
    for dialect in [Dialect::V1, Dialect::Plain] {
        let mut clients = [
            connect(&site.url(), dialect).await,
            connect(&site.url(), dialect).await,
        ];
        flap(&mut clients, dialect).await;
        redis.await_channels(&[]).await;

        // The same once more, and then one goes in for good.
        flap(&mut clients, dialect).await;
        let [mut inside, _outside] = clients;
        inside.command(json!({"type": "SUBSCRIBE", "room": ROOM})).await;
        match dialect {
            Dialect::V1 => assert_eq!(inside.json().await["type"], "subscribed"),
            // It is not told of a membership; but the answer to a wrong command for the room keeps its place behind it.
            Dialect::Plain => {
                inside.command(json!({"type": "sendMessage", "room": ROOM})).await;
                assert_eq!(inside.json().await["code"], "bad_command");
            }
        }
        assert_eq!(redis.channels().await, [ROOM]);
        let mut inside = Member::of(inside, ROOM, dialect);
        let mut sender = Client::v1(&site.url()).await;
        publish(&mut sender, ROOM, "in the end".into()).await;
        assert_eq!(inside.hear().await, "in the end");
        drop(inside);
        redis.await_channels(&[]).await;
    }
}

async fn connect(url: &str, dialect: Dialect) -> Client {
    match dialect {
        Dialect::V1 => Client::v1(url).await,
        Dialect::Plain => Client::plain(url).await,
    }
}

/// Both join and leave 200 times without waiting; then the replies are read, in the dialect that has them.
async fn flap(clients: &mut [Client; 2], dialect: Dialect) {
    const ROUNDS: usize = 200;
    for _ in 0..ROUNDS {
        for client in clients.iter_mut() {
            for kind in ["SUBSCRIBE", "UNSUBSCRIBE"] {
                client
                    .command(json!({"type": kind, "id": kind, "room": ROOM}))
                    .await;
            }
        }
    }
    if dialect == Dialect::V1 {
        for client in clients {
            for nth in 0..2 * ROUNDS {
                let reply = client.json().await;
                let outcome = reply["code"].as_str().or(reply["type"].as_str());
                let (id, allowed) = [
                    ("SUBSCRIBE", ["subscribed", "cancelled"]),
                    ("UNSUBSCRIBE", ["unsubscribed"; 2]),
                ][nth % 2];
                assert_eq!(reply["id"], id, "{reply}");
                assert!(allowed.contains(&outcome.unwrap_or_default()), "{reply}");
            }
        }
    }
}

#[actix::test]
async fn broken_connections_leave_no_channel() {
    let site = Site::redis().await;
    let mut clients = Vec::new();
    for nth in 0..20 {
        let mut client = Client::v1(&site.url()).await;
        client.subscribe(ROOM).await;
        client.subscribe(&format!("alone {nth}")).await;
        // These are under way when the connection breaks.
        for round in 0..5 {
            let room = format!("under way {nth} {round}");
            client.command(json!({"type": "SUBSCRIBE", "room": room})).await;
        }
        clients.push(client);
    }
    drop(clients);
    site.await_metric("roomcast_sessions", 0).await;
    site.broker().await_channels(&[]).await;
    site.await_metric("roomcast_rooms", 0).await;
}

#[actix::test]
async fn the_prefix_stands_before_every_channel_and_nowhere_else() {
    let site = Site::with_prefix("app:").await;
    let redis = site.broker();
    let mut member = Member::join(&site.url(), ROOM, Dialect::V1).await;
    assert_eq!(redis.channels().await, ["app:room1"]);

    let mut listener = redis.listen("app:room1").await;
    let mut sender = Client::v1(&site.url()).await;
    publish(&mut sender, ROOM, "with prefix".into()).await;
    let payload: serde_json::Value = serde_json::from_str(&listener.payload().await).expect("JSON");
    assert_eq!(
        (&payload["roomId"], &payload["message"]),
        (&json!(ROOM), &json!("with prefix"))
    );
    assert_eq!(member.hear().await, "with prefix");

    let payload = r#"{"type":"sendMessage","roomId":"room1","message":"from others"}"#;
    assert_eq!(redis.publish(ROOM, payload).await, 0);
    assert_eq!(redis.publish("app:room1", payload).await, 2);
    assert_eq!(member.hear().await, "from others");
}

#[actix::test]
async fn a_room_name_is_taken_literally() {
    let site = Site::redis().await;
    let mut member = Member::join(&site.url(), "room*", Dialect::V1).await;
    let mut sender = Client::v1(&site.url()).await;
    publish(&mut sender, "room1", "not for a pattern".into()).await;
    publish(&mut sender, "room*", "by name".into()).await;
    assert_eq!(member.hear().await, "by name");
}
