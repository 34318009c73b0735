//! Behaviours that do not depend on the broker, each run on both.

use std::ops::Range;

use futures_util::future::join_all;
use roomcast::protocol::Dialect;
use serde_json::{Value, json};

use super::{Site, publish};
use crate::support::client::Client;
use crate::support::member::Member;

const ROOM: &str = "room1";

/// The default of `ROOMCAST_MAX_MESSAGE`, in bytes.
const MAX_MESSAGE: usize = 65_536;

macro_rules! on_both_brokers {
    ($($behaviour:ident)*) => {
        mod memory {
            $(#[actix::test] async fn $behaviour() {
                super::$behaviour(&super::Site::memory().await).await;
            })*
        }
        mod redis {
            $(#[actix::test] async fn $behaviour() {
                super::$behaviour(&super::Site::redis().await).await;
            })*
        }
    };
}

on_both_brokers! {
    all_members_hear_several_senders_in_one_order
    flapping_sessions_end_right_and_a_stayer_misses_nothing
    one_who_comes_as_the_last_one_leaves_is_let_in
    a_connection_that_breaks_leaves_all_its_rooms
    a_publish_needs_no_subscription
    json_keeps_its_value_in_v1_and_its_text_in_plain
    a_message_of_the_greatest_size_passes_and_a_byte_more_is_refused
    pipelined_publishes_arrive_once_and_in_order
}

async fn all_members_hear_several_senders_in_one_order(site: &Site) {
    const SENDERS: usize = 3;
    const EACH: usize = 150;
    let mut members = [
        Member::join(&site.url(), ROOM, Dialect::Plain).await,
        Member::join(&site.url(), ROOM, Dialect::V1).await,
        Member::join(&site.url(), ROOM, Dialect::V1).await,
    ];
    let url = site.url();
    let send = async |sender: usize| {
        let mut client = Client::v1(&url).await;
        for number in 0..EACH {
            client.publish(ROOM, format!("{sender} {number}")).await;
        }
        for _ in 0..EACH {
            assert_eq!(client.json().await["type"], "sent");
        }
    };
    let (heard, _) = tokio::join!(
        join_all(members.iter_mut().map(|member| member.hear_all(SENDERS * EACH))),
        join_all((0..SENDERS).map(send)),
    );
    assert_eq!(heard[0], heard[1]);
    assert_eq!(heard[0], heard[2]);
    for sender in 0..SENDERS {
        let of_sender = heard[0]
            .iter()
            .filter(|text| text.starts_with(&format!("{sender} ")));
        let expected: Vec<String> = (0..EACH).map(|number| format!("{sender} {number}")).collect();
        assert!(of_sender.eq(&expected), "not in the order of sender {sender}");
    }
}

async fn flapping_sessions_end_right_and_a_stayer_misses_nothing(site: &Site) {
    const FLAPPERS: usize = 10;
    const MESSAGES: usize = 300;
    let url = site.url();
    let mut stayer = Member::join(&url, ROOM, Dialect::V1).await;
    let mut sender = Client::v1(&url).await;
    let talk = async {
        for number in 0..MESSAGES {
            publish(&mut sender, ROOM, number.to_string().into()).await;
        }
    };
    let (mut sessions, heard, ()) = tokio::join!(
        join_all((0..FLAPPERS).map(|nth| flap(&url, nth % 2 == 0))),
        stayer.hear_all(MESSAGES),
        talk,
    );
    let expected: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(heard, expected);

    publish(&mut sender, ROOM, "end".into()).await;
    for session in sessions.iter_mut().step_by(2) {
        session.hear_until("end").await;
    }
    for session in sessions.iter_mut().skip(1).step_by(2) {
        session.assert_heard_nothing().await;
    }
    site.await_metric("roomcast_memberships", FLAPPERS as u64 / 2 + 1)
        .await;
}

/// A session that joins and leaves many times, partly without waiting for the replies.
async fn flap(url: &str, ends_inside: bool) -> Member {
    const ROUNDS: i64 = 40;
    let mut client = Client::v1(url).await;
    let mut unread = 0;
    for round in 0..ROUNDS {
        for (id, kind) in [(2 * round, "SUBSCRIBE"), (2 * round + 1, "UNSUBSCRIBE")] {
            client
                .command(json!({"type": kind, "id": id, "room": ROOM}))
                .await;
        }
        if round % 4 == 3 {
            read_flaps(&mut client, unread..2 * round + 2).await;
            unread = 2 * round + 2;
        }
    }
    if ends_inside {
        client.subscribe(ROOM).await;
    }
    Member::of(client, ROOM, Dialect::V1)
}

/// Reads the replies to these commands, of which even ones join and odd ones leave. Messages may only come to a member.
async fn read_flaps(client: &mut Client, ids: Range<i64>) {
    let mut member = false;
    for id in ids {
        let mut frame = client.json().await;
        while frame["type"] == "message" {
            assert!(
                member,
                "a message outside the membership, before the reply to {id}"
            );
            frame = client.json().await;
        }
        assert_eq!(frame["id"], id, "{frame}");
        member = frame["type"] == "subscribed";
        if id % 2 == 0 {
            assert!(member || frame["code"] == "cancelled", "{frame}");
        } else {
            assert_eq!(frame["type"], "unsubscribed", "{frame}");
        }
    }
}

async fn one_who_comes_as_the_last_one_leaves_is_let_in(site: &Site) {
    let url = site.url();
    let (mut inside, mut outside) = (Client::v1(&url).await, Client::v1(&url).await);
    inside.subscribe(ROOM).await;
    for round in 0..300 {
        tokio::join!(
            inside.command(json!({"type": "UNSUBSCRIBE", "id": round, "room": ROOM})),
            outside.command(json!({"type": "SUBSCRIBE", "id": round, "room": ROOM})),
        );
        let reply = inside.json().await;
        assert_eq!(reply["type"], "unsubscribed", "in round {round}: {reply}");
        let reply = outside.json().await;
        assert_eq!(reply["type"], "subscribed", "in round {round}: {reply}");
        std::mem::swap(&mut inside, &mut outside);
    }
    let mut inside = Member::of(inside, ROOM, Dialect::V1);
    publish(&mut outside, ROOM, "in the end".into()).await;
    assert_eq!(inside.hear().await, "in the end");
}

async fn a_connection_that_breaks_leaves_all_its_rooms(site: &Site) {
    let url = site.url();
    let mut stayer = Member::join(&url, ROOM, Dialect::V1).await;
    let mut leavers = Vec::new();
    for nth in 0..10 {
        let mut client = Client::v1(&url).await;
        for room in [ROOM, "room2", "room3"] {
            client.subscribe(room).await;
        }
        client.subscribe(&format!("alone {nth}")).await;
        leavers.push(client);
    }
    site.await_metric("roomcast_memberships", 41).await;
    site.await_metric("roomcast_rooms", 13).await;
    // No close frame is sent.
    drop(leavers);
    site.await_metric("roomcast_memberships", 1).await;
    site.await_metric("roomcast_rooms", 1).await;
    let mut sender = Client::v1(&url).await;
    publish(&mut sender, ROOM, "still here?".into()).await;
    assert_eq!(stayer.hear().await, "still here?");
}

async fn a_publish_needs_no_subscription(site: &Site) {
    let url = site.url();
    let mut plain_member = Member::join(&url, ROOM, Dialect::Plain).await;
    let mut member = Member::join(&url, ROOM, Dialect::V1).await;
    let mut sender = Member::of(Client::v1(&url).await, ROOM, Dialect::V1);
    publish(&mut sender.client, ROOM, "from outside".into()).await;
    let mut plain_sender = Member::of(Client::plain(&url).await, ROOM, Dialect::Plain);
    for heard in [&mut plain_member, &mut member] {
        assert_eq!(heard.hear().await, "from outside");
    }
    plain_sender.client.publish(ROOM, "from a plain one").await;
    for heard in [&mut plain_member, &mut member] {
        assert_eq!(heard.hear().await, "from a plain one");
    }
    sender.assert_heard_nothing().await;
    plain_sender.assert_heard_nothing().await;
    publish(&mut sender.client, "nobody is here", "hello?".into()).await;
}

async fn json_keeps_its_value_in_v1_and_its_text_in_plain(site: &Site) {
    let url = site.url();
    let mut plain = Member::join(&url, ROOM, Dialect::Plain).await;
    let mut v1 = Client::v1(&url).await;
    v1.subscribe(ROOM).await;
    let mut sender = Client::v1(&url).await;
    for message in [
        json!({"any": "json", "deep": [{"a": [1, 2.5, -3e-7]}]}),
        json!([]),
        json!(0),
        json!(-1.5),
        json!(true),
        Value::Null,
        json!({"null": null, "": "empty key", "ключ": "🦀\u{0}\n\"\\"}),
        json!(""),
        json!("null"),
        json!("{\"looks\": \"like JSON\"}"),
        json!("line\nbreak, NUL \u{0}, quote \", backslash \\, 🦀, \u{2028}"),
    ] {
        publish(&mut sender, ROOM, message.clone()).await;
        let frame = v1.json().await;
        assert_eq!(
            (&frame["type"], &frame["message"]),
            (&json!("message"), &message),
            "{frame}"
        );
        let text = message
            .as_str()
            .map_or_else(|| message.to_string(), str::to_owned);
        assert_eq!(plain.hear().await, text);
    }
}

async fn a_message_of_the_greatest_size_passes_and_a_byte_more_is_refused(site: &Site) {
    let url = site.url();
    let mut plain = Member::join(&url, ROOM, Dialect::Plain).await;
    let mut v1 = Member::join(&url, ROOM, Dialect::V1).await;
    let mut sender = Client::v1(&url).await;
    // The second takes six times its size in JSON.
    for filling in ["x", "\u{1}", "\"", "🦀"] {
        let text = filling.repeat(MAX_MESSAGE / filling.len());
        publish(&mut sender, ROOM, text.clone().into()).await;
        assert!(
            plain.hear().await == text,
            "{filling:?} arrived otherwise in plain"
        );
        assert!(v1.hear().await == text, "{filling:?} arrived otherwise in v1");
        let reply = sender
            .call(json!({"type": "sendMessage", "roomId": ROOM, "message": text + "x"}))
            .await;
        assert_eq!(reply["code"], "message_too_large", "{reply}");
    }
    v1.assert_heard_nothing().await;
    plain.assert_heard_nothing().await;
}

async fn pipelined_publishes_arrive_once_and_in_order(site: &Site) {
    const COUNT: usize = 5_000;
    let url = site.url();
    let mut plain = Member::join(&url, ROOM, Dialect::Plain).await;
    let mut v1 = Member::join(&url, ROOM, Dialect::V1).await;
    let mut sender = Client::v1(&url).await;
    let send = async {
        for number in 0..COUNT {
            sender
                .command(json!({"type": "sendMessage", "id": number, "roomId": ROOM, "message": number.to_string()}))
                .await;
        }
        for number in 0..COUNT {
            let reply = sender.json().await;
            assert_eq!(
                (&reply["type"], &reply["id"]),
                (&json!("sent"), &json!(number)),
                "{reply}"
            );
        }
    };
    let (heard_plain, heard_v1, ()) = tokio::join!(plain.hear_all(COUNT), v1.hear_all(COUNT), send);
    let expected: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    assert_eq!(heard_plain, expected);
    assert_eq!(heard_v1, expected);
    plain.assert_heard_nothing().await;
    v1.assert_heard_nothing().await;
}
