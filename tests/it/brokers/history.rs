//! A room's past, on both brokers: what is replayed, and what is recovered.

use serde_json::{Value, json};

use super::{Site, on_both_brokers_with};
use crate::support::client::{Client, Event};
use crate::support::eventually;

const ROOM: &str = "room1";

/// A setting of a second.
pub(super) const A_SECOND: &str = "1";

/// More than Redis may keep although fewer are asked for, if it trims roughly.
const MANY: u64 = 300;

on_both_brokers_with! {
    the_last_messages_are_replayed_as_they_were_and_then_come_new_ones []
    a_message_and_its_acknowledgement_name_the_same_place []
    who_comes_back_gets_what_it_missed_and_then_what_is_new_without_a_hole []
    who_missed_nothing_gets_nothing_and_is_recovered []
    a_place_beyond_the_top_is_not_recovered []
    a_place_in_another_numbering_is_not_recovered []
    half_a_place_is_a_bad_command []
    what_is_no_longer_kept_is_not_recovered ["ROOMCAST_HISTORY_SIZE" = "5"]
    who_subscribes_again_is_told_the_position_and_nothing_is_replayed []
    a_room_never_written_to_has_an_epoch_and_no_messages []
    a_plain_member_gets_nothing_of_the_past []
    without_history_there_are_no_places_and_keys_still_count ["ROOMCAST_HISTORY_SIZE" = "0"]
    messages_expire_and_the_numbering_goes_on ["ROOMCAST_HISTORY_TTL" = super::A_SECOND]
}

/// A place in the room.
pub(super) type Place = (u64, String);

/// The place that a frame names.
pub(super) fn place(frame: &Value) -> Place {
    let epoch = frame["epoch"].as_str();
    let offset = frame["offset"].as_u64();
    offset
        .zip(epoch.map(str::to_owned))
        .unwrap_or_else(|| panic!("no place in {frame}"))
}

/// Publishes; where the message is.
pub(super) async fn publish_at(client: &mut Client, room: &str, message: impl Into<Value>) -> Place {
    let command = json!({"type": "sendMessage", "roomId": room, "message": message.into()});
    let reply = client.call(command).await;
    assert_eq!(
        (&reply["type"], &reply["room"]),
        (&json!("sent"), &json!(room)),
        "{reply}"
    );
    place(&reply)
}

/// Publishes the numbers from 1 on, each as text, so that they are their offsets. Where the last one is.
async fn publish_numbers(client: &mut Client, room: &str, count: u64) -> Place {
    for number in 1..=count {
        let message = number.to_string();
        client
            .command(json!({"type": "sendMessage", "id": number, "room": room, "message": message}))
            .await;
    }
    let mut last = None;
    for _ in 0..count {
        last = Some(place(&client.json().await));
    }
    last.expect("at least one")
}

/// A new session that asks for the room with these fields as well. The session and the reply.
pub(super) async fn ask(url: &str, room: &str, wish: &Value) -> (Client, Value) {
    let mut client = Client::v1(url).await;
    let reply = ask_again(&mut client, room, wish).await;
    (client, reply)
}

async fn ask_again(client: &mut Client, room: &str, wish: &Value) -> Value {
    let mut command = json!({"type": "SUBSCRIBE", "room": room});
    for (name, value) in wish.as_object().expect("an object") {
        command[name] = value.clone();
    }
    client.call(command).await
}

/// Checks a reply to SUBSCRIBE: where it stands, and whether it says that it has recovered.
#[track_caller]
fn assert_subscribed(reply: &Value, place_now: &Place, recovered: Option<bool>) {
    assert_eq!(reply["type"], "subscribed", "{reply}");
    assert_eq!(place(reply), *place_now, "{reply}");
    assert_eq!(
        reply.get("recovered"),
        recovered.map(Value::from).as_ref(),
        "{reply}"
    );
}

/// The offsets and texts of the next messages, which nothing else may come before.
pub(super) async fn hear(client: &mut Client, count: usize) -> Vec<(u64, String)> {
    let mut heard = Vec::with_capacity(count);
    while heard.len() < count {
        let frame = client.json().await;
        assert_eq!(frame["type"], "message", "{frame}");
        let text = frame["message"].as_str().expect("a text").to_owned();
        heard.push((frame["offset"].as_u64().expect("an offset"), text));
    }
    heard
}

/// Checks that nothing is under way to a member: a message that is published now is what it hears next.
pub(super) async fn assert_next_is_new(client: &mut Client, site: &Site) {
    let mut sender = Client::v1(&site.url()).await;
    let (offset, _) = publish_at(&mut sender, ROOM, "new").await;
    assert_eq!(hear(client, 1).await, [(offset, "new".to_owned())]);
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, String)> {
    range.map(|number| (number, number.to_string())).collect()
}

async fn the_last_messages_are_replayed_as_they_were_and_then_come_new_ones(site: &Site) {
    let url = site.url();
    let mut live = Client::v1(&url).await;
    live.subscribe(ROOM).await;
    let mut sender = Client::connect(&format!("{url}/ws?user=ann"), &["roomcast.v1"]).await;
    assert_eq!(sender.json().await["type"], "welcome");
    let messages = [
        json!("hello \"you\" 🦀\n"),
        json!({"any": ["json", 1.50]}),
        json!(null),
        json!("null"),
        json!(""),
    ];
    for message in messages.clone() {
        publish_at(&mut sender, ROOM, message).await;
    }
    let mut frames = Vec::new();
    for (offset, message) in (1..).zip(&messages) {
        let frame = live.json().await;
        assert_eq!(
            (&frame["offset"], &frame["message"]),
            (&json!(offset), message),
            "{frame}"
        );
        assert_eq!(frame["sender"], "ann");
        assert!(
            frame["time"].as_u64().is_some() && frame["session"].is_string(),
            "{frame}"
        );
        frames.push(frame);
    }
    for (wanted, replayed) in [(0, 0), (1, 1), (3, 3), (5, 5), (6, 5), (1_000_000, 5)] {
        let (mut reader, reply) = ask(&url, ROOM, &json!({"history": wanted})).await;
        assert_eq!(
            (&reply["offset"], reply.get("recovered")),
            (&json!(5), None),
            "{reply}"
        );
        for frame in &frames[5 - replayed..] {
            assert_eq!(&reader.json().await, frame);
        }
        reader.assert_quiet_but_for_pong().await;
    }
    let (mut reader, _) = ask(&url, ROOM, &json!({"history": 1})).await;
    hear_one_of(&mut reader, 5).await;
    assert_next_is_new(&mut reader, site).await;
}

async fn hear_one_of(client: &mut Client, offset: u64) {
    assert_eq!(client.json().await["offset"], offset);
}

async fn a_message_and_its_acknowledgement_name_the_same_place(site: &Site) {
    let (mut member, reply) = ask(&site.url(), ROOM, &json!({})).await;
    let (before, epoch) = place(&reply);
    let mut sender = Client::v1(&site.other_url()).await;
    for number in 1..=20 {
        let expected = (before + number, epoch.clone());
        assert_eq!(publish_at(&mut sender, ROOM, number.to_string()).await, expected);
        assert_eq!(hear(&mut member, 1).await, numbers(number..=number));
    }
}

async fn who_comes_back_gets_what_it_missed_and_then_what_is_new_without_a_hole(site: &Site) {
    const COUNT: u64 = 600;
    let (url, other_url) = (site.url(), site.other_url());
    let (mut client, reply) = ask(&url, ROOM, &json!({})).await;
    let (mut last, epoch) = place(&reply);
    assert_eq!(last, 0);
    let talk = async {
        let mut sender = Client::v1(&url).await;
        for number in 1..=COUNT {
            publish_at(&mut sender, ROOM, number.to_string()).await;
        }
    };
    let listen = async {
        let mut comebacks = 0;
        while last < COUNT {
            for heard in hear(&mut client, 25.min(usize::try_from(COUNT - last).expect("few"))).await {
                last += 1;
                assert_eq!(heard, (last, last.to_string()));
            }
            drop(client);
            let from = if comebacks % 2 == 0 { &other_url } else { &url };
            let reply;
            (client, reply) = ask(from, ROOM, &json!({"after": last, "epoch": epoch})).await;
            assert_eq!(reply["recovered"], true, "{reply}");
            assert!(reply["offset"].as_u64() >= Some(last), "{reply} after {last}");
            comebacks += 1;
        }
        client
    };
    let ((), mut client) = tokio::join!(talk, listen);
    assert_next_is_new(&mut client, site).await;
}

async fn who_missed_nothing_gets_nothing_and_is_recovered(site: &Site) {
    let mut sender = Client::v1(&site.url()).await;
    let top = publish_numbers(&mut sender, ROOM, 3).await;
    let (mut client, reply) = ask(&site.url(), ROOM, &json!({"after": 3, "epoch": top.1})).await;
    assert_subscribed(&reply, &top, Some(true));
    assert_next_is_new(&mut client, site).await;
    // From the very beginning.
    let (mut client, reply) = ask(&site.url(), ROOM, &json!({"after": 0, "epoch": top.1})).await;
    assert_subscribed(&reply, &(4, top.1.clone()), Some(true));
    assert_eq!(hear(&mut client, 3).await, numbers(1..=3));
    // What is missed decides, however little of it is wanted.
    let wish = json!({"after": 1, "epoch": top.1, "history": 1});
    let (mut client, reply) = ask(&site.url(), ROOM, &wish).await;
    assert_subscribed(&reply, &(4, top.1), Some(true));
    assert_eq!(hear(&mut client, 2).await, numbers(2..=3));
}

async fn a_place_beyond_the_top_is_not_recovered(site: &Site) {
    let mut sender = Client::v1(&site.url()).await;
    let top = publish_numbers(&mut sender, ROOM, 3).await;
    for after in [4, 1_000_000, i64::MAX] {
        let (mut client, reply) = ask(&site.url(), ROOM, &json!({"after": after, "epoch": top.1})).await;
        assert_subscribed(&reply, &top, Some(false));
        client.assert_quiet_but_for_pong().await;
    }
    let wish = json!({"after": 4, "epoch": top.1, "history": 2});
    let (mut client, reply) = ask(&site.url(), ROOM, &wish).await;
    assert_subscribed(&reply, &top, Some(false));
    assert_eq!(hear(&mut client, 2).await, numbers(2..=3));
    // Nobody else is disturbed by it.
    let (mut client, reply) = ask(&site.url(), ROOM, &json!({"after": 2, "epoch": top.1})).await;
    assert_subscribed(&reply, &top, Some(true));
    assert_eq!(hear(&mut client, 1).await, numbers(3..=3));
    assert_next_is_new(&mut client, site).await;
}

async fn a_place_in_another_numbering_is_not_recovered(site: &Site) {
    let mut sender = Client::v1(&site.url()).await;
    let top = publish_numbers(&mut sender, ROOM, 3).await;
    for epoch in ["other", "", "\u{1f980}", &"x".repeat(200)] {
        let (mut client, reply) = ask(&site.url(), ROOM, &json!({"after": 2, "epoch": epoch})).await;
        assert_subscribed(&reply, &top, Some(false));
        client.assert_quiet_but_for_pong().await;
    }
    let wish = json!({"after": 2, "epoch": "other", "history": 2});
    let (mut client, reply) = ask(&site.url(), ROOM, &wish).await;
    assert_subscribed(&reply, &top, Some(false));
    assert_eq!(hear(&mut client, 2).await, numbers(2..=3));
    assert_next_is_new(&mut client, site).await;
}

async fn half_a_place_is_a_bad_command(site: &Site) {
    let mut client = Client::v1(&site.url()).await;
    for wish in [
        json!({"after": 1}),
        json!({"after": 0, "history": 1}),
        json!({"after": -1, "epoch": "a"}),
        json!({"after": 1.5, "epoch": "a"}),
        json!({"after": "1", "epoch": "a"}),
        json!({"after": 1, "epoch": 1}),
        json!({"after": 1, "epoch": ["a"]}),
        json!({"history": -1}),
        json!({"history": "all"}),
    ] {
        let reply = ask_again(&mut client, ROOM, &wish).await;
        assert_eq!(
            (&reply["type"], &reply["code"]),
            (&json!("error"), &json!("bad_command")),
            "{wish}: {reply}"
        );
    }
    // It is not a member.
    publish_at(&mut client, ROOM, "x").await;
    client.assert_quiet_but_for_pong().await;
}

async fn what_is_no_longer_kept_is_not_recovered(site: &Site) {
    let mut sender = Client::v1(&site.url()).await;
    let top = publish_numbers(&mut sender, ROOM, MANY).await;
    let (mut client, reply) = ask(&site.url(), ROOM, &json!({"after": 1, "epoch": top.1})).await;
    assert_subscribed(&reply, &top, Some(false));
    client.assert_quiet_but_for_pong().await;
    let wish = json!({"after": 1, "epoch": top.1, "history": 3});
    let (mut client, reply) = ask(&site.url(), ROOM, &wish).await;
    assert_subscribed(&reply, &top, Some(false));
    assert_eq!(hear(&mut client, 3).await, numbers(MANY - 2..=MANY));
    assert_next_is_new(&mut client, site).await;

    // What is kept is recovered to the last one.
    let (mut client, reply) = ask(&site.url(), ROOM, &json!({"after": MANY - 4, "epoch": top.1})).await;
    assert_subscribed(&reply, &(MANY + 1, top.1), Some(true));
    assert_eq!(hear(&mut client, 4).await, numbers(MANY - 3..=MANY));
    // And clamped to that.
    let (mut client, _) = ask(&site.url(), ROOM, &json!({"history": 1_000})).await;
    let (oldest, _) = hear(&mut client, 1).await.remove(0);
    assert!(
        oldest > 1 && oldest <= MANY - 3,
        "{oldest} is the oldest that is kept"
    );
    assert_eq!(hear(&mut client, 1).await, numbers(oldest + 1..=oldest + 1));
}

async fn who_subscribes_again_is_told_the_position_and_nothing_is_replayed(site: &Site) {
    let mut sender = Client::v1(&site.url()).await;
    let top = publish_numbers(&mut sender, ROOM, 3).await;
    let (mut client, _) = ask(&site.url(), ROOM, &json!({})).await;
    for wish in [
        json!({}),
        json!({"history": 3}),
        json!({"after": 1, "epoch": top.1}),
        json!({"after": 1, "epoch": "other", "history": 3}),
    ] {
        let reply = ask_again(&mut client, ROOM, &wish).await;
        assert_subscribed(&reply, &top, None);
        client.assert_quiet_but_for_pong().await;
    }
    let (offset, epoch) = publish_at(&mut sender, ROOM, "more").await;
    assert_eq!(hear(&mut client, 1).await, [(offset, "more".to_owned())]);
    let reply = ask_again(&mut client, ROOM, &json!({"history": 9})).await;
    assert_subscribed(&reply, &(offset, epoch), None);
    assert_next_is_new(&mut client, site).await;
    // Who has left begins anew.
    client.call(json!({"type": "UNSUBSCRIBE", "room": ROOM})).await;
    let reply = ask_again(&mut client, ROOM, &json!({"after": 2, "epoch": top.1})).await;
    assert_subscribed(&reply, &(5, top.1), Some(true));
    assert_eq!(hear(&mut client, 1).await, numbers(3..=3));
}

async fn a_room_never_written_to_has_an_epoch_and_no_messages(site: &Site) {
    let (mut first, reply) = ask(&site.url(), ROOM, &json!({"history": 10})).await;
    let (offset, epoch) = place(&reply);
    assert_eq!((offset, reply.get("recovered")), (0, None), "{reply}");
    assert!(!epoch.is_empty());
    let (mut second, reply) = ask(&site.other_url(), ROOM, &json!({"after": 0, "epoch": epoch})).await;
    assert_subscribed(&reply, &(0, epoch.clone()), Some(true));
    let mut sender = Client::v1(&site.url()).await;
    assert_eq!(publish_at(&mut sender, ROOM, "1").await, (1, epoch.clone()));
    for client in [&mut first, &mut second] {
        assert_eq!(hear(client, 1).await, numbers(1..=1));
    }
    // Another room has another numbering.
    let (_, reply) = ask(&site.url(), "room2", &json!({})).await;
    assert_ne!(place(&reply).1, epoch);
}

async fn a_plain_member_gets_nothing_of_the_past(site: &Site) {
    let mut sender = Client::v1(&site.url()).await;
    let (_, epoch) = publish_numbers(&mut sender, ROOM, 3).await;
    for wish in [json!({"history": 3}), json!({"after": 1, "epoch": epoch})] {
        let mut plain = Client::plain(&site.url()).await;
        let mut command = json!({"type": "SUBSCRIBE", "room": ROOM});
        for (name, value) in wish.as_object().expect("an object") {
            command[name] = value.clone();
        }
        plain.command(command).await;
        plain.publish(ROOM, "mine").await;
        assert_eq!(plain.text().await, "mine");
    }
}

/// Checks that a frame says nothing of places.
#[track_caller]
fn assert_placeless(frame: &Value) {
    assert_eq!((frame.get("offset"), frame.get("epoch")), (None, None), "{frame}");
}

async fn without_history_there_are_no_places_and_keys_still_count(site: &Site) {
    let mut sender = Client::v1(&site.url()).await;
    let send = async |sender: &mut Client, message: &str, key: Option<&str>| {
        let mut command = json!({"type": "sendMessage", "room": ROOM, "message": message});
        if let Some(key) = key {
            command["key"] = json!(key);
        }
        let reply = sender.call(command).await;
        assert_eq!(reply["type"], "sent", "{reply}");
        assert_placeless(&reply);
    };
    send(&mut sender, "before", None).await;
    let mut members = Vec::new();
    for (wish, recovered) in [
        (json!({}), None),
        (json!({"history": 10}), None),
        (json!({"after": 0, "epoch": "a"}), Some(false)),
        (json!({"after": 0, "epoch": "a", "history": 10}), Some(false)),
    ] {
        let (client, reply) = ask(&site.url(), ROOM, &wish).await;
        assert_eq!(reply["type"], "subscribed", "{reply}");
        assert_eq!(
            reply.get("recovered"),
            recovered.map(Value::from).as_ref(),
            "{reply}"
        );
        assert_placeless(&reply);
        members.push(client);
    }
    let mut other = Client::v1(&site.other_url()).await;
    send(&mut sender, "once", Some("k")).await;
    send(&mut sender, "twice", Some("k")).await;
    send(&mut other, "thrice", Some("k")).await;
    send(&mut other, "end", None).await;
    for member in &mut members {
        for expected in ["once", "end"] {
            let frame = member.json().await;
            assert_eq!(
                (&frame["type"], &frame["message"]),
                (&json!("message"), &json!(expected)),
                "{frame}"
            );
            assert_placeless(&frame);
        }
    }
}

async fn messages_expire_and_the_numbering_goes_on(site: &Site) {
    let url = site.url();
    let mut sender = Client::v1(&url).await;
    let top = publish_numbers(&mut sender, ROOM, 3).await;
    eventually("a room whose messages have expired", async || {
        let (mut client, reply) = ask(&url, ROOM, &json!({"history": 10})).await;
        assert_subscribed(&reply, &top, None);
        client.command(json!({"type": "PING", "id": "end"})).await;
        let mut kept = 0;
        while client.json().await["type"] != "pong" {
            kept += 1;
        }
        // They go together.
        assert!(kept == 0 || kept == 3, "{kept} are kept");
        (kept == 0).then_some(())
    })
    .await;
    let (mut client, reply) = ask(&url, ROOM, &json!({"after": 2, "epoch": top.1})).await;
    assert_subscribed(&reply, &top, Some(false));
    client.assert_quiet_but_for_pong().await;
    // Who has missed nothing has missed nothing.
    let (mut up_to_date, reply) = ask(&url, ROOM, &json!({"after": 3, "epoch": top.1})).await;
    assert_subscribed(&reply, &top, Some(true));

    let next = publish_at(&mut sender, ROOM, "4").await;
    assert_eq!(next, (4, top.1.clone()));
    for client in [&mut client, &mut up_to_date] {
        assert_eq!(hear(client, 1).await, numbers(4..=4));
    }
    let (mut client, reply) = ask(&url, ROOM, &json!({"after": 3, "epoch": top.1})).await;
    assert_subscribed(&reply, &next, Some(true));
    assert_eq!(hear(&mut client, 1).await, numbers(4..=4));
}

/// What a client of `roomcast.v1` hears before the answer to a PING; nothing may come.
trait Quiet {
    async fn assert_quiet_but_for_pong(&mut self);
}

impl Quiet for Client {
    async fn assert_quiet_but_for_pong(&mut self) {
        self.command(json!({"type": "PING", "id": "quiet?"})).await;
        match self.event().await {
            Event::Text(text) => assert!(text.contains("pong"), "{text} where nothing was awaited"),
            Event::Closed(code) => panic!("closed with {code:?}"),
        }
    }
}
