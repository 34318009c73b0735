//! Publishes with a key, on both brokers: which of them are the same publish.

use std::time::Duration;

use roomcast::protocol::Dialect;
use serde_json::json;

use super::history::{A_SECOND, Place, ask, assert_next_is_new, hear, place, publish_at};
use super::{Site, on_both_brokers_with};
use crate::support::client::Client;
use crate::support::member::Member;

const ROOM: &str = "room1";

/// Certainly more than a second.
const LONGER: Duration = Duration::from_millis(1_500);

on_both_brokers_with! {
    a_key_makes_a_repeated_publish_the_same_publish []
    a_key_belongs_to_a_room_and_a_user []
    a_key_is_forgotten_in_time ["ROOMCAST_KEY_TTL" = super::A_SECOND]
    a_plain_publish_ignores_its_key []
    a_key_that_is_no_key_is_a_bad_command []
    without_history_a_key_is_forgotten_in_time ["ROOMCAST_HISTORY_SIZE" = "0", "ROOMCAST_KEY_TTL" = super::A_SECOND]
}

/// Publishes with a key; where the message is.
async fn publish_once(client: &mut Client, room: &str, message: &str, key: &str) -> Place {
    let command = json!({"type": "sendMessage", "room": room, "message": message, "key": key});
    let reply = client.call(command).await;
    assert_eq!(reply["type"], "sent", "{reply}");
    place(&reply)
}

async fn a_key_makes_a_repeated_publish_the_same_publish(site: &Site) {
    let (mut member, _) = ask(&site.url(), ROOM, &json!({})).await;
    let mut plain = Member::join(&site.url(), ROOM, Dialect::Plain).await;
    let mark = member.json().await["offset"].as_u64().expect("an offset");
    let mut sender = Client::v1(&site.url()).await;
    let mut other = Client::v1(&site.other_url()).await;
    let first = publish_once(&mut sender, ROOM, "first", "k").await;
    assert_eq!(first.0, mark + 1);
    // The message that it is repeated with does not matter, nor where it is repeated.
    assert_eq!(publish_once(&mut sender, ROOM, "first", "k").await, first);
    assert_eq!(publish_once(&mut other, ROOM, "changed", "k").await, first);
    assert_eq!(publish_once(&mut other, ROOM, "another", "K").await.0, mark + 2);
    assert_eq!(publish_once(&mut sender, ROOM, "late", "k").await, first);
    let end = publish_at(&mut sender, ROOM, "end").await;
    let heard = hear(&mut member, 3).await;
    let texts: Vec<&str> = heard.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["first", "another", "end"]);
    assert_eq!(heard[2].0, end.0);
    assert_eq!(plain.hear_all(3).await, texts);

    // Under way at the same time, they are still one.
    let (one, two) = tokio::join!(
        publish_once(&mut sender, ROOM, "twin", "t"),
        publish_once(&mut other, ROOM, "twin", "t"),
    );
    assert_eq!(one, two);
    assert_eq!(hear(&mut member, 1).await, [(one.0, "twin".to_owned())]);
    assert_eq!(plain.hear().await, "twin");
    assert_next_is_new(&mut member, site).await;
}

async fn a_key_belongs_to_a_room_and_a_user(site: &Site) {
    let url = site.url();
    let named = async |name: &str| {
        let mut client = Client::connect(&format!("{url}/ws?user={name}"), &["roomcast.v1"]).await;
        assert_eq!(client.json().await["type"], "welcome");
        client
    };
    let (mut nobody, mut another_nobody) = (Client::v1(&url).await, Client::v1(&url).await);
    let (mut ann, mut bob) = (named("ann").await, named("bob").await);
    let mut ann_again = named("ann").await;
    let of_nobody = publish_once(&mut nobody, ROOM, "x", "k").await;
    let of_ann = publish_once(&mut ann, ROOM, "x", "k").await;
    let of_bob = publish_once(&mut bob, ROOM, "x", "k").await;
    assert_eq!([of_nobody.0, of_ann.0, of_bob.0], [1, 2, 3]);
    assert_eq!(publish_once(&mut ann_again, ROOM, "x", "k").await, of_ann);
    assert_eq!(publish_once(&mut another_nobody, ROOM, "x", "k").await, of_nobody);
    let elsewhere = publish_once(&mut ann, "room2", "x", "k").await;
    assert_eq!(elsewhere.0, 1);
    assert_ne!(elsewhere.1, of_ann.1);
    // Names and keys do not run into each other.
    let mut short = named("a").await;
    let one = publish_once(&mut short, ROOM, "x", "nn:k").await;
    let other = publish_once(&mut ann, ROOM, "x", ":k").await;
    assert_ne!(one, other);
}

async fn a_key_is_forgotten_in_time(site: &Site) {
    let mut sender = Client::v1(&site.url()).await;
    let (first, _) = publish_once(&mut sender, ROOM, "x", "k").await;
    tokio::time::sleep(LONGER).await;
    let (second, _) = publish_once(&mut sender, ROOM, "x", "k").await;
    assert_eq!((first, second), (1, 2));
}

async fn a_plain_publish_ignores_its_key(site: &Site) {
    let mut plain = Client::plain(&site.url()).await;
    plain.subscribe_plain(ROOM).await;
    for key in [json!("k"), json!("k"), json!(""), json!(7)] {
        plain
            .command(json!({"type": "sendMessage", "roomId": ROOM, "message": "x", "key": key}))
            .await;
        assert_eq!(plain.text().await, "x");
    }
}

async fn a_key_that_is_no_key_is_a_bad_command(site: &Site) {
    let (mut member, _) = ask(&site.url(), ROOM, &json!({})).await;
    let mut sender = Client::v1(&site.url()).await;
    for key in [
        json!(""),
        json!("x".repeat(129)),
        json!("€".repeat(43)),
        json!(1),
        json!(true),
        json!(["k"]),
    ] {
        let reply = sender
            .call(json!({"type": "sendMessage", "room": ROOM, "message": "x", "key": key}))
            .await;
        assert_eq!(
            (&reply["type"], &reply["code"]),
            (&json!("error"), &json!("bad_command")),
            "{reply}"
        );
    }
    // Anything else that is a string is one.
    for (offset, key) in (1..).zip([
        "x".to_owned(),
        "x".repeat(128),
        "€".repeat(42),
        "\u{0}\n{}%:*".to_owned(),
    ]) {
        for _ in 0..2 {
            assert_eq!(publish_once(&mut sender, ROOM, "good", &key).await.0, offset);
        }
        assert_eq!(hear(&mut member, 1).await, [(offset, "good".to_owned())]);
    }
    assert_next_is_new(&mut member, site).await;
}

async fn without_history_a_key_is_forgotten_in_time(site: &Site) {
    let mut member = Member::join(&site.url(), ROOM, Dialect::V1).await;
    let mut sender = Client::v1(&site.url()).await;
    let command = json!({"type": "sendMessage", "room": ROOM, "message": "x", "key": "k"});
    for _ in 0..2 {
        assert_eq!(sender.call(command.clone()).await["type"], "sent");
        assert_eq!(member.hear().await, "x");
        tokio::time::sleep(LONGER).await;
    }
}
