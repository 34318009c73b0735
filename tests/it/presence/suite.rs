//! Behaviours that do not depend on the broker, each run on both; on Redis over two nodes.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::watcher::Watcher;
use super::{enter, keys, members, set_presence};
use crate::brokers::Site;
use crate::support::client::{Client, without_place};
use crate::support::eventually;

const ROOM: &str = "room {1}%";

macro_rules! on_both_brokers {
    ($($behaviour:ident)*) => {
        mod memory {
            $(#[actix::test] async fn $behaviour() {
                super::$behaviour(&crate::brokers::Site::memory_with(&[]).await).await;
            })*
        }
        mod redis {
            $(#[actix::test] async fn $behaviour() {
                super::$behaviour(&crate::brokers::Site::redis_with(&[]).await).await;
            })*
        }
    };
}

on_both_brokers! {
    the_others_are_told_who_comes_and_who_goes
    members_are_listed_for_everybody_and_only_if_they_want
    a_repeated_subscribe_changes_presence_alone_and_only_if_it_says_so
    a_connection_that_breaks_leaves_the_list
    a_long_list_is_cut_and_its_count_is_true
    flapping_ends_right
    nothing_of_a_room_follows_its_end
    a_list_keeps_its_place_among_the_rooms_commands
}

/// A session with this user and its name.
async fn named(url: &str, user: &str) -> (Client, String) {
    let mut client = Client::connect(&format!("{url}/ws?user={user}"), &["roomcast.v1"]).await;
    let welcome = client.json().await;
    let session = welcome["session"].as_str().expect("a name").to_owned();
    (client, session)
}

fn event(kind: &str, session: &str, user: &str) -> Value {
    json!({"type": kind, "room": ROOM, "member": {"session": session, "user": user}})
}

async fn the_others_are_told_who_comes_and_who_goes(site: &Site) {
    let (mut ann, ann_session) = named(&site.url(), "ann").await;
    let (mut bob, bob_session) = named(&site.other_url(), "b%20o%3Db").await;
    enter(&mut ann, ROOM).await;
    enter(&mut bob, ROOM).await;
    assert_eq!(ann.json().await, event("joined", &bob_session, "b o=b"));
    // Who was there is in the list.
    let expected = {
        let mut sessions = vec![ann_session.clone(), bob_session.clone()];
        sessions.sort();
        (2, sessions)
    };
    assert_eq!(members(&mut bob, ROOM).await, expected);
    assert_eq!(members(&mut ann, ROOM).await, expected);

    let reply = ann.call(json!({"type": "UNSUBSCRIBE", "room": ROOM})).await;
    assert_eq!(reply["type"], "unsubscribed");
    assert_eq!(bob.json().await, event("left", &ann_session, "ann"));
    assert_eq!(members(&mut ann, ROOM).await, (1, vec![bob_session]));
    ann.assert_quiet().await;
    bob.assert_quiet().await;
    drop((ann, bob));
    if let Some(redis) = &site.redis {
        eventually("a Redis without presence", async || {
            keys(redis).await.is_empty().then_some(())
        })
        .await;
    }
}

async fn members_are_listed_for_everybody_and_only_if_they_want(site: &Site) {
    let (mut listed, session) = named(&site.url(), "ann").await;
    enter(&mut listed, ROOM).await;
    let mut silent = Client::v1(&site.other_url()).await;
    silent.subscribe(ROOM).await;
    let mut plain = Client::plain(&site.url()).await;
    plain
        .command(json!({"type": "SUBSCRIBE", "room": ROOM, "presence": true}))
        .await;
    plain.command(json!({"type": "MEMBERS", "room": ROOM})).await;
    assert!(plain.text().await.contains("unknown_type"));
    // Also for one who is in no room.
    let mut outsider = Client::v1(&site.other_url()).await;
    let reply = outsider.call(json!({"type": "MEMBERS", "room": ROOM})).await;
    let expected = json!({
        "type": "members", "id": 1, "room": ROOM, "count": 1,
        "members": [{"session": session, "user": "ann"}],
    });
    assert_eq!(reply, expected);
    assert_eq!(members(&mut outsider, "nobody is here").await, (0, vec![]));
    for client in [&mut listed, &mut silent, &mut plain] {
        client.assert_quiet().await;
    }
}

async fn a_repeated_subscribe_changes_presence_alone_and_only_if_it_says_so(site: &Site) {
    let (mut ann, ann_session) = named(&site.url(), "ann").await;
    let (mut bob, bob_session) = named(&site.other_url(), "bob").await;
    enter(&mut bob, ROOM).await;
    ann.subscribe(ROOM).await;
    ann.publish(ROOM, "one").await;
    while ann.json().await["type"] != "message" {}
    assert_eq!(bob.json().await["type"], "message");
    // Whichever of the two frames came last.
    let position = |reply: &Value| (reply["type"].clone(), reply["offset"].clone());
    let reply = set_presence(&mut ann, ROOM, true).await;
    let reply = if reply["type"] == "sent" {
        ann.json().await
    } else {
        reply
    };
    assert_eq!(position(&reply), (json!("subscribed"), json!(1)));
    assert_eq!(bob.json().await, event("joined", &ann_session, "ann"));
    for _ in 0..2 {
        let reply = set_presence(&mut ann, ROOM, true).await;
        assert_eq!(position(&reply), (json!("subscribed"), json!(1)));
        ann.subscribe(ROOM).await;
    }
    let reply = set_presence(&mut ann, ROOM, false).await;
    assert_eq!(position(&reply), (json!("subscribed"), json!(1)));
    // It is so when it is answered.
    assert_eq!(members(&mut ann, ROOM).await, (1, vec![bob_session]));
    assert_eq!(bob.json().await, event("left", &ann_session, "ann"));
    let _ = set_presence(&mut ann, ROOM, false).await;
    let _ = set_presence(&mut bob, ROOM, false).await;
    ann.assert_quiet().await;
    // They are members as before.
    bob.publish(ROOM, "two").await;
    assert_eq!(ann.json().await["message"], "two");
}

async fn a_connection_that_breaks_leaves_the_list(site: &Site) {
    let (mut ann, ann_session) = named(&site.url(), "ann").await;
    let (mut bob, bob_session) = named(&site.other_url(), "bob").await;
    enter(&mut ann, ROOM).await;
    enter(&mut bob, ROOM).await;
    drop(ann);
    assert_eq!(bob.json().await, event("left", &ann_session, "ann"));
    assert_eq!(members(&mut bob, ROOM).await, (1, vec![bob_session]));
}

async fn a_long_list_is_cut_and_its_count_is_true(site: &Site) {
    const CROWD: usize = 1_030;
    let mut watcher = Watcher::enter(&site.url(), ROOM).await;
    let url = site.other_url();
    let mut crowd = Vec::new();
    while crowd.len() < CROWD {
        crowd.extend(join_all((0..103).map(|_| newcomer(&url))).await);
    }
    let mut asker = Client::v1(&url).await;
    let (count, sessions) = members(&mut asker, ROOM).await;
    assert_eq!((count, sessions.len()), (CROWD as u64 + 1, 1_000));
    assert_eq!(
        sessions.iter().collect::<BTreeSet<_>>().len(),
        1_000,
        "somebody twice"
    );
    watcher.await_there(CROWD).await;
    drop(crowd);
    watcher.await_there(0).await;
    assert_eq!(watcher.told.len(), CROWD);
    assert!(watcher.told.values().all(|told| *told == [true, false]));
}

/// A session that has entered among others who do.
async fn newcomer(url: &str) -> Client {
    let mut client = Client::v1(url).await;
    client
        .command(json!({"type": "SUBSCRIBE", "id": 1, "room": ROOM, "presence": true}))
        .await;
    while client.json().await["type"] != "subscribed" {}
    client
}

async fn flapping_ends_right(site: &Site) {
    const FLAPPERS: usize = 12;
    const ROUNDS: i64 = 30;
    let mut stayer = Watcher::enter(&site.other_url(), ROOM).await;
    let url = site.url();
    let flap = async |nth: usize| {
        let (mut client, session) = named(&url, "flapper").await;
        let stays = nth.is_multiple_of(2);
        let mut id = 0;
        for round in 0..ROUNDS {
            let commands: [Value; 2] = if round % 3 == 0 {
                [
                    json!({"type": "SUBSCRIBE", "room": ROOM, "presence": true}),
                    json!({"type": "UNSUBSCRIBE", "room": ROOM}),
                ]
            } else {
                [
                    json!({"type": "SUBSCRIBE", "room": ROOM, "presence": true}),
                    json!({"type": "SUBSCRIBE", "room": ROOM, "presence": false}),
                ]
            };
            for mut command in commands {
                id += 1;
                command["id"] = json!(id);
                client.command(command).await;
            }
        }
        id += 1;
        client
            .command(json!({"type": "SUBSCRIBE", "id": id, "room": ROOM, "presence": stays}))
            .await;
        // Every command has its answer, in order.
        let mut answered = 0;
        while answered < id {
            let frame = client.json().await;
            if let Some(reply) = frame["id"].as_i64() {
                answered += 1;
                assert_eq!(reply, answered, "{frame}");
            }
        }
        (client, session, stays)
    };
    let flappers = join_all((0..FLAPPERS).map(flap)).await;
    let expected: BTreeSet<String> = flappers
        .iter()
        .filter(|(.., stays)| *stays)
        .map(|(_, session, _)| session.clone())
        .collect();
    stayer.await_there(expected.len()).await;
    let mut listed = stayer.members(ROOM).await.expect("a list");
    listed.remove(&stayer.session);
    assert_eq!((&listed, &stayer.there), (&expected, &expected));
}

async fn nothing_of_a_room_follows_its_end(site: &Site) {
    let (mut ann, _) = named(&site.url(), "ann").await;
    enter(&mut ann, ROOM).await;
    let url = site.url();
    let crowd = join_all((0..40).map(|_| newcomer(&url)));
    let leave = async {
        assert_eq!(ann.json().await["type"], "joined");
        ann.command(json!({"type": "UNSUBSCRIBE", "id": "end", "room": ROOM}))
            .await;
        while ann.json().await["type"] != "unsubscribed" {}
        ann.assert_quiet().await;
    };
    let _ = tokio::join!(
        async {
            for client in crowd.await {
                drop(client);
            }
        },
        leave
    );
}

async fn a_list_keeps_its_place_among_the_rooms_commands(site: &Site) {
    let (mut ann, session) = named(&site.url(), "ann").await;
    for (id, mut command) in [
        json!({"type": "SUBSCRIBE", "room": ROOM, "presence": true}),
        json!({"type": "MEMBERS", "room": ROOM}),
        json!({"type": "UNSUBSCRIBE", "room": ROOM}),
        json!({"type": "MEMBERS", "room": ROOM}),
    ]
    .into_iter()
    .enumerate()
    {
        command["id"] = json!(id);
        ann.command(command).await;
    }
    let mut replies = Vec::new();
    for _ in 0..4 {
        let reply = without_place(ann.json().await);
        replies.push((reply["id"].clone(), reply["count"].clone(), reply["code"].clone()));
    }
    // An UNSUBSCRIBE cancels a SUBSCRIBE that is under way; what is between them is carried out after that.
    let cancelled = replies[0].2 == "cancelled";
    let there = u64::from(!cancelled);
    assert_eq!(
        replies[1],
        (json!(1), json!(there), Value::Null),
        "{session}: {replies:?}"
    );
    assert_eq!(replies[3], (json!(3), json!(0), Value::Null));
}
