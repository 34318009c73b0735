//! Redis: how a room's past is kept there, what others can and cannot do to it, and what it costs.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use roomcast::protocol::Dialect;
use serde_json::{Value, json};

use super::Site;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::member::Member;
use crate::support::node::Node;
use crate::support::raw::{Raw, command};
use crate::support::redis::Redis;

const ROOM: &str = "room1";

/// Publishes; the frame `sent`.
async fn publish(client: &mut Client, room: &str, message: &str) -> Value {
    let command = json!({"type": "sendMessage", "room": room, "message": message});
    let reply = client.call(command).await;
    assert_eq!(reply["type"], "sent", "{reply}");
    reply
}

/// A session that has joined the room with this wish, and the reply.
async fn join(url: &str, wish: &Value) -> (Client, Value) {
    let mut client = Client::v1(url).await;
    let mut command = json!({"type": "SUBSCRIBE", "room": ROOM});
    for (name, value) in wish.as_object().expect("an object") {
        command[name] = value.clone();
    }
    let reply = client.call(command).await;
    assert_eq!(reply["type"], "subscribed", "{reply}");
    (client, reply)
}

/// Texts and offsets of the next messages. Nothing else may come.
async fn hear(client: &mut Client, count: usize) -> Vec<(String, Option<u64>)> {
    let mut heard = Vec::with_capacity(count);
    while heard.len() < count {
        let frame = client.json().await;
        assert_eq!(frame["type"], "message", "{frame}");
        assert_eq!(frame.get("epoch"), None, "{frame}");
        let text = frame["message"].as_str().expect("a text").to_owned();
        heard.push((
            text,
            frame
                .get("offset")
                .map(|offset| offset.as_u64().expect("a number")),
        ));
    }
    heard
}

fn live(text: &str) -> (String, Option<u64>) {
    (text.to_owned(), None)
}

fn numbered(text: &str, offset: u64) -> (String, Option<u64>) {
    (text.to_owned(), Some(offset))
}

#[actix::test]
async fn what_others_publish_is_live_and_never_replayed() {
    let site = Site::redis().await;
    let (mut member, _) = join(&site.url(), &json!({})).await;
    let mut plain = Member::join(&site.url(), ROOM, Dialect::Plain).await;
    member.json().await;
    let mut sender = Client::v1(&site.url()).await;
    let theirs = json!({"type": "sendMessage", "roomId": ROOM, "message": "theirs"}).to_string();
    for round in 0..3 {
        site.broker().publish(ROOM, &theirs).await;
        assert_eq!(hear(&mut member, 1).await, [live("theirs")]);
        publish(&mut sender, ROOM, "ours").await;
        assert_eq!(hear(&mut member, 1).await, [numbered("ours", 2 + round)]);
        assert_eq!(plain.hear_all(2).await, ["theirs", "ours"]);
    }
    let (mut late, reply) = join(&site.url(), &json!({"history": 100})).await;
    assert_eq!(reply["offset"], 4);
    assert_eq!(
        hear(&mut late, 4).await[1..],
        [2, 3, 4].map(|offset| numbered("ours", offset))
    );
    site.broker().publish(ROOM, &theirs).await;
    assert_eq!(hear(&mut late, 1).await, [live("theirs")]);
}

#[actix::test]
async fn a_forged_place_is_ignored_and_disturbs_nothing_that_follows() {
    let site = Site::redis_with(&[]).await;
    let (mut member, reply) = join(&site.url(), &json!({})).await;
    let (mut elsewhere, _) = join(&site.other_url(), &json!({})).await;
    let mut plain = Member::join(&site.url(), ROOM, Dialect::Plain).await;
    for member in [&mut member, &mut elsewhere] {
        member.json().await;
    }
    let epoch = reply["epoch"].as_str().expect("an epoch").to_owned();
    let mut sender = Client::v1(&site.other_url()).await;
    // What a real payload has beside its place may be copied from one.
    let mut listener = site.broker().listen(ROOM).await;
    publish(&mut sender, ROOM, "real").await;
    let real: Value = serde_json::from_str(&listener.payload().await).expect("JSON");
    assert_eq!(
        (&real["offset"], &real["epoch"]),
        (&json!(2), &json!(epoch)),
        "{real}"
    );

    let forge = |fields: &Value| {
        let mut payload = json!({"type": "sendMessage", "roomId": ROOM, "message": "forged"});
        for (name, value) in fields.as_object().expect("an object") {
            payload[name] = value.clone();
        }
        payload.to_string()
    };
    let mut altered = real.clone();
    altered["message"] = json!("forged");
    let with_place = |offset: u64| {
        let mut altered = altered.clone();
        altered["offset"] = json!(offset);
        altered.to_string()
    };
    let mut heard = vec![numbered("real", 2)];
    let mut top = 2;
    for forged in [
        forge(&json!({"offset": top + 1, "epoch": "other"})),
        forge(&json!({"offset": 1, "epoch": "other"})),
        forge(&json!({"offset": 1_000_000, "epoch": epoch})),
        forge(&json!({"offset": u64::MAX, "epoch": epoch})),
        forge(&json!({"offset": 1, "epoch": epoch})),
        forge(&json!({"offset": 3, "epoch": epoch})),
        forge(&json!({"offset": 3})),
        forge(&json!({"epoch": epoch})),
        forge(&json!({"offset": "3", "epoch": [epoch]})),
        with_place(3),
        with_place(1_000_000),
    ] {
        // Twice, and each followed by what is real.
        for _ in 0..2 {
            site.broker().publish(ROOM, &forged).await;
            heard.push(live("forged"));
            top += 1;
            let sent = publish(&mut sender, ROOM, "real").await;
            assert_eq!((&sent["offset"], &sent["epoch"]), (&json!(top), &json!(epoch)));
            heard.push(numbered("real", top));
        }
    }
    let texts: Vec<&str> = heard.iter().map(|(text, _)| text.as_str()).collect();
    for member in [&mut member, &mut elsewhere] {
        assert_eq!(hear(member, heard.len()).await, heard);
    }
    assert_eq!(plain.hear_all(texts.len()).await, texts);
    let (mut late, reply) = join(&site.url(), &json!({"after": 1, "epoch": epoch})).await;
    assert_eq!(
        (&reply["offset"], &reply["recovered"]),
        (&json!(top), &json!(true))
    );
    let real: Vec<_> = (2..=top).map(|offset| numbered("real", offset)).collect();
    assert_eq!(hear(&mut late, real.len()).await, real);
}

#[actix::test]
async fn a_message_of_ours_that_is_published_again_by_others_changes_no_place() {
    let site = Site::redis().await;
    let (mut member, reply) = join(&site.url(), &json!({})).await;
    let mut listener = site.broker().listen(ROOM).await;
    let mut sender = Client::v1(&site.url()).await;
    publish(&mut sender, ROOM, "one").await;
    let payload = listener.payload().await;
    publish(&mut sender, ROOM, "two").await;
    assert_eq!(
        hear(&mut member, 2).await,
        [numbered("one", 1), numbered("two", 2)]
    );
    site.broker().publish(ROOM, &payload).await;
    publish(&mut sender, ROOM, "three").await;
    // It is either passed over or heard as what others publish, and not as what it says that it is.
    let mut next = hear(&mut member, 1).await;
    if next == [live("one")] {
        next = hear(&mut member, 1).await;
    }
    assert_eq!(next, [numbered("three", 3)]);
    let (mut late, _) = join(&site.url(), &json!({"after": 0, "epoch": reply["epoch"]})).await;
    let all = [numbered("one", 1), numbered("two", 2), numbered("three", 3)];
    assert_eq!(hear(&mut late, 3).await, all);
}

#[actix::test]
async fn keys_bear_the_rooms_name_encoded_and_all_of_them_expire() {
    let site = Site::with_prefix("a{b%:").await;
    let url = site.url();
    let rooms = [
        ("plain", "plain"),
        ("{x}", "%7Bx%7D"),
        ("100%", "100%25"),
        ("%7Bx%7D", "%257Bx%257D"),
        ("*?[a]\\ \"'", "*?[a]\\ \"'"),
        ("ключ 🦀", "ключ 🦀"),
    ];
    let mut sender = Client::connect(&format!("{url}/ws?user=ann"), &["roomcast.v1"]).await;
    assert_eq!(sender.json().await["type"], "welcome");
    let mut members = Vec::new();
    for (room, _) in rooms {
        members.push(Member::join(&url, room, Dialect::V1).await);
        publish(&mut sender, room, "without a key").await;
        let command = json!({"type": "sendMessage", "room": room, "message": "with one", "key": "k}{%"});
        assert_eq!(sender.call(command).await["type"], "sent");
    }
    members.push(Member::join(&url, "never written to", Dialect::V1).await);
    let keys: Vec<String> = site.broker().command(&["KEYS", "*"]).await;
    for key in &keys {
        assert!(key.starts_with("roomcast:{a%7Bb%25:"), "{key:?}");
        let ttl: i64 = site.broker().command(&["TTL", key]).await;
        assert!(ttl > 0, "{key:?} lives for {ttl} s");
    }
    for (room, encoded) in rooms.iter().chain(&[("never written to", "never written to")]) {
        let tag = format!("roomcast:{{a%7Bb%25:{encoded}}}:");
        let count = keys.iter().filter(|key| key.starts_with(&tag)).count();
        assert!(
            count >= if *room == "never written to" { 1 } else { 3 },
            "{room:?} has {count} keys in {keys:?}"
        );
    }
    // Messages in the default time and a little more, the numbering in a week and more.
    let stream = |key: &&String| key.starts_with("roomcast:{a%7Bb%25:plain}:");
    let mut lives = BTreeMap::new();
    for key in keys.iter().filter(stream) {
        let kind: String = site.broker().command(&["TYPE", key]).await;
        let ttl: i64 = site.broker().command(&["TTL", key]).await;
        lives.insert(kind, ttl);
    }
    assert!((290..=330).contains(&lives["stream"]), "{lives:?}");
    assert!((290..=300).contains(&lives["string"]), "{lives:?}");
    assert!(lives["hash"] >= 7 * 24 * 3_600 - 10, "{lives:?}");
}

#[actix::test]
async fn a_redis_without_memory_refuses_and_recovers_by_itself() {
    let site = Site::redis().await;
    let (mut member, _) = join(&site.url(), &json!({})).await;
    let mut plain = Member::join(&site.url(), ROOM, Dialect::Plain).await;
    member.json().await;
    let mut sender = Client::v1(&site.url()).await;
    publish(&mut sender, ROOM, "before").await;
    let limit = async |bytes: &str| {
        let _: String = site
            .broker()
            .command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
            .await;
        let _: String = site
            .broker()
            .command(&["CONFIG", "SET", "maxmemory", bytes])
            .await;
    };
    limit("1mb").await;
    for key in [None, Some("k"), Some("k")] {
        let mut command = json!({"type": "sendMessage", "room": ROOM, "message": "refused"});
        if let Some(key) = key {
            command["key"] = json!(key);
        }
        let reply = sender.call(command).await;
        assert_eq!(
            (&reply["code"], &reply["outcome"]),
            (&json!("unavailable"), &json!("refused")),
            "{reply}"
        );
    }
    plain.client.publish(ROOM, "refused").await;
    assert_eq!(plain.hear().await, "before");
    assert_eq!(plain.client.json().await["code"], "unavailable");
    limit("0").await;
    // What was refused has not used up its key, nor a place.
    let command = json!({"type": "sendMessage", "room": ROOM, "message": "after", "key": "k"});
    let reply = sender.call(command).await;
    assert_eq!(
        (&reply["type"], &reply["offset"]),
        (&json!("sent"), &json!(3)),
        "{reply}"
    );
    assert_eq!(
        hear(&mut member, 2).await,
        [numbered("before", 2), numbered("after", 3)]
    );
    assert_eq!(plain.hear().await, "after");
}

#[actix::test]
async fn pipelined_publishes_keep_their_order_while_scripts_are_flushed() {
    const COUNT: usize = 3_000;
    let site = Site::redis().await;
    let (mut member, _) = join(&site.url(), &json!({})).await;
    let mut sender = Client::v1(&site.url()).await;
    let send = async {
        for number in 0..COUNT {
            let mut command =
                json!({"type": "sendMessage", "id": number, "room": ROOM, "message": number.to_string()});
            if number % 3 == 0 {
                command["key"] = json!(number.to_string());
            }
            sender.command(command).await;
        }
        for number in 0..COUNT {
            let reply = sender.json().await;
            assert_eq!(
                (&reply["type"], &reply["id"], &reply["offset"]),
                (&json!("sent"), &json!(number), &json!(number + 1)),
                "{reply}"
            );
        }
    };
    let listen = async {
        for (offset, (text, place)) in (1..).zip(hear(&mut member, COUNT).await) {
            assert_eq!((text, place), ((offset - 1).to_string(), Some(offset)));
        }
    };
    // As fast as Redis takes it, so that it forgets again what it has just been told.
    let flush = async {
        let mut connection = site.broker().connection().await;
        loop {
            let () = redis::cmd("SCRIPT")
                .arg("FLUSH")
                .query_async(&mut connection)
                .await
                .expect("flushed");
        }
    };
    tokio::select! {
        _ = async { tokio::join!(send, listen) } => {}
        () = flush => {}
    }
}

/// How often the past was read.
async fn reads(redis: &Redis) -> u64 {
    let stats: String = redis.command(&["INFO", "commandstats"]).await;
    stats
        .lines()
        .filter(|line| line.starts_with("cmdstat_xr"))
        .map(|line| {
            let calls = line.split_once("calls=").expect("a count").1;
            let (calls, _) = calls.split_once(',').expect("more behind it");
            calls.parse::<u64>().expect("a number")
        })
        .sum()
}

#[actix::test]
async fn a_thousand_sessions_that_recover_at_once_read_the_past_three_times_at_most() {
    const SESSIONS: usize = 1_000;
    const MESSAGES: u64 = 50;
    let redis = Redis::start().await;
    let node = Node::on_redis(&redis.url()).await;
    let mut sender = Client::v1(&node.ws_url()).await;
    let mut last = Value::Null;
    for number in 1..=MESSAGES {
        last = publish(&mut sender, ROOM, &number.to_string()).await;
    }
    let mut sessions = join_all((0..SESSIONS).map(|_| Raw::v1(node.address()))).await;
    let before = reads(&redis).await;
    // From two places, so that what one has read must do for the other.
    let after = |nth: usize| if nth.is_multiple_of(2) { 10 } else { 20 };
    let ask = async |nth: usize, session: &mut Raw| {
        let wish =
            json!({"type": "SUBSCRIBE", "id": 1, "room": ROOM, "after": after(nth), "epoch": last["epoch"]});
        session.send(&command(&wish)).await;
        let reply = session.json().await;
        assert_eq!(
            (&reply["offset"], &reply["recovered"]),
            (&json!(MESSAGES), &json!(true)),
            "{reply}"
        );
        for offset in after(nth) + 1..=MESSAGES {
            let frame = session.json().await;
            assert_eq!(
                (&frame["offset"], &frame["message"]),
                (&json!(offset), &json!(offset.to_string())),
                "{frame}"
            );
        }
    };
    join_all(
        sessions
            .iter_mut()
            .enumerate()
            .map(|(nth, session)| ask(nth, session)),
    )
    .await;
    let reads = reads(&redis).await - before;
    println!("{reads} reads for {SESSIONS} sessions");
    assert!(reads <= 3, "{reads} reads");
}

#[actix::test]
async fn a_killed_reading_connection_delays_recovery_and_loses_nothing() {
    let site = Site::redis().await;
    let mut sender = Client::v1(&site.url()).await;
    let mut last = Value::Null;
    for number in 1..=20 {
        last = publish(&mut sender, ROOM, &number.to_string()).await;
    }
    for after in (0..20).step_by(4) {
        let kill = async {
            site.broker().client_kill("normal").await;
            site.broker().client_kill("pubsub").await;
        };
        let wish = json!({"after": after, "epoch": last["epoch"]});
        let recover = async {
            let (mut client, reply) = join(&site.url(), &wish).await;
            assert_eq!(reply["recovered"], true, "{reply}");
            let expected: Vec<_> = (after + 1..=20)
                .map(|offset| numbered(&offset.to_string(), offset))
                .collect();
            assert_eq!(hear(&mut client, expected.len()).await, expected);
        };
        tokio::join!(recover, kill);
    }
    eventually("a node that is ready", async || {
        (crate::support::node::get(&site.server.url("/readyz")).await.0 == 200).then_some(())
    })
    .await;
}
