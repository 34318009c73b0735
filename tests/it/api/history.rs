//! Reading and deleting a room's history.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{SOON, Site, delete, get, on_both_brokers, post};
use crate::support::client::Client;

const PATH: &str = "/api/rooms/lobby/messages";

on_both_brokers! {
    the_last_messages_or_those_after_a_place
    a_place_that_is_not_kept_is_not_recovered
    a_room_without_messages_has_a_place
    a_long_history_is_read_piece_by_piece
    parameters_that_are_wrong_are_refused
    deleting_begins_a_new_epoch_and_tells_everybody_once
    publishing_goes_on_in_the_new_epoch_on_all_nodes
}

async fn fill(site: &Site, count: u64) -> String {
    let entry = |n: u64| json!({"room": "lobby", "message": n});
    let batch = json!({"messages": (1..=count).map(entry).collect::<Vec<_>>()});
    let answer = post(site.first(), "/api/messages", &batch).await.expect(200);
    answer["results"][0]["epoch"]
        .as_str()
        .expect("an epoch")
        .to_owned()
}

async fn read(site: &Site, query: &str) -> Value {
    get(site.last(), &format!("{PATH}?{query}")).await.expect(200)
}

fn offsets(answer: &Value) -> Vec<u64> {
    let messages = answer["messages"].as_array().expect("a list").iter();
    messages
        .map(|message| message["offset"].as_u64().expect("an offset"))
        .collect()
}

async fn the_last_messages_or_those_after_a_place(site: &Site) {
    let epoch = fill(site, 250).await;
    let answer = read(site, "").await;
    assert_eq!(
        (&answer["offset"], &answer["epoch"]),
        (&json!(250), &json!(epoch))
    );
    assert_eq!(offsets(&answer), (151..=250).collect::<Vec<_>>());
    assert!(answer.get("recovered").is_none());
    assert_eq!(
        offsets(&read(site, "limit=3&epoch=ignored").await),
        [248, 249, 250]
    );
    assert_eq!(
        offsets(&read(site, "limit=18446744073709551615").await).len(),
        250
    );
    assert_eq!(offsets(&read(site, "limit=0").await), [0_u64; 0]);
    let answer = read(site, &format!("after=40&epoch={epoch}")).await;
    assert_eq!(offsets(&answer), (41..=250).collect::<Vec<_>>());
    assert_eq!(answer["recovered"], true);
    let answer = read(site, &format!("after=40&epoch={epoch}&limit=2")).await;
    assert_eq!(
        (offsets(&answer), &answer["recovered"]),
        (vec![41, 42], &json!(true))
    );
    let answer = read(site, &format!("after=250&epoch={epoch}")).await;
    assert_eq!((offsets(&answer), &answer["recovered"]), (vec![], &json!(true)));
}

async fn a_place_that_is_not_kept_is_not_recovered(site: &Site) {
    // More than the 1,000 that are kept.
    let epoch = fill(site, 1_000).await;
    fill(site, 10).await;
    for (query, expected) in [
        (format!("after=9&epoch={epoch}"), vec![]),
        (format!("after=0&epoch={epoch}&limit=0"), vec![]),
        (format!("after=1011&epoch={epoch}"), vec![]),
        ("after=1000&epoch=another".to_owned(), vec![]),
        (format!("after=9&epoch={epoch}&limit=2"), vec![1_009, 1_010]),
        ("after=0&epoch=&limit=1".to_owned(), vec![1_010]),
    ] {
        let answer = read(site, &query).await;
        assert_eq!(
            (offsets(&answer), &answer["recovered"]),
            (expected, &json!(false)),
            "{query}"
        );
        assert_eq!(
            (&answer["offset"], &answer["epoch"]),
            (&json!(1_010), &json!(epoch)),
            "{query}"
        );
    }
    let answer = read(site, &format!("after=10&epoch={epoch}")).await;
    assert_eq!(
        (offsets(&answer).len(), &answer["recovered"]),
        (1_000, &json!(true))
    );
}

async fn a_room_without_messages_has_a_place(site: &Site) {
    let answer = read(site, "").await;
    assert_eq!((&answer["offset"], &answer["messages"]), (&json!(0), &json!([])));
    assert_eq!(read(site, "").await["epoch"], answer["epoch"]);
    assert_eq!(fill(site, 1).await, answer["epoch"].as_str().expect("an epoch"));
}

async fn a_long_history_is_read_piece_by_piece(site: &Site) {
    let text = "x".repeat(60_000);
    let entry = || json!({"room": "lobby", "message": text});
    let batch = json!({"messages": (0..20).map(|_| entry()).collect::<Vec<_>>()});
    for nth in 1..=10 {
        let answer = post(site.first(), "/api/messages", &batch).await.expect(200);
        assert_eq!(answer["results"][19]["offset"], 20 * nth);
    }
    let mut answer = read(site, "limit=200").await;
    let epoch = answer["epoch"].as_str().expect("an epoch").to_owned();
    let mut all = offsets(&answer);
    assert!((100..200).contains(&all.len()), "{} of 200", all.len());
    while answer["offset"].as_u64() != all.last().copied() {
        answer = read(
            site,
            &format!("after={}&epoch={epoch}", all.last().expect("some")),
        )
        .await;
        assert_eq!(answer["recovered"], true);
        assert!(!offsets(&answer).is_empty());
        all.extend(offsets(&answer));
    }
    assert_eq!(all, (1..=200).collect::<Vec<_>>());
}

async fn parameters_that_are_wrong_are_refused(site: &Site) {
    for query in [
        "limit=",
        "limit=-1",
        "limit=+1",
        "limit=1.0",
        "limit=x",
        "limit=18446744073709551616",
        "after=1",
        "after=x&epoch=e",
        "after=-1&epoch=e",
        "after=1&epoch=%FF",
        "limit=%",
    ] {
        let answer = get(site.first(), &format!("{PATH}?{query}")).await;
        assert_eq!(answer.code(400), "bad_command", "{query}");
    }
    get(site.first(), &format!("{PATH}?unknown=%FF&LIMIT=x"))
        .await
        .expect(200);
}

async fn deleting_begins_a_new_epoch_and_tells_everybody_once(site: &Site) {
    let old = fill(site, 3).await;
    let mut members = Vec::new();
    for node in &site.nodes {
        let mut member = Client::v1(&node.ws_url()).await;
        member.subscribe("lobby").await;
        members.push(member);
    }
    let mut plain = Client::plain(&site.last().ws_url()).await;
    plain.subscribe_plain("lobby").await;
    for member in &mut members {
        assert_eq!(member.json().await["message"], "mark of lobby");
    }
    let deleted = delete(site.first(), PATH).await.expect(200);
    assert_eq!(
        (&deleted["room"], &deleted["offset"]),
        (&json!("lobby"), &json!(0))
    );
    assert_ne!(deleted["epoch"], json!(old));
    let expected = json!({
        "type": "gap", "room": "lobby", "after": 4, "offset": 0, "epoch": deleted["epoch"],
    });
    for member in &mut members {
        assert_eq!(member.json().await, expected);
        member.assert_quiet().await;
    }
    plain.assert_quiet().await;
    let left = read(site, "").await;
    assert_eq!(
        (&left["epoch"], &left["messages"]),
        (&deleted["epoch"], &json!([]))
    );
    let before = read(site, &format!("after=1&epoch={old}&limit=9")).await;
    assert_eq!((&before["recovered"], offsets(&before)), (&json!(false), vec![]));
}

async fn publishing_goes_on_in_the_new_epoch_on_all_nodes(site: &Site) {
    let mut member = Client::v1(&site.last().ws_url()).await;
    member.subscribe("lobby").await;
    // Both nodes remember the old numbering.
    for node in [site.first(), site.last()] {
        post(node, PATH, &json!({"message": "old", "key": "k"}))
            .await
            .expect(200);
        post(node, PATH, &json!({"message": "old"})).await.expect(200);
    }
    for _ in 0..3 {
        assert_eq!(member.json().await["message"], "old");
    }
    let deleted = delete(site.last(), PATH).await.expect(200);
    let mut offset = 0;
    for node in [site.first(), site.last(), site.first()] {
        offset += 1;
        let sent = post(node, PATH, &json!({"message": "new"})).await.expect(200);
        assert_eq!(
            (&sent["offset"], &sent["epoch"]),
            (&json!(offset), &deleted["epoch"])
        );
    }
    let gap = member.json().await;
    assert_eq!(
        (&gap["type"], &gap["offset"]),
        (&json!("gap"), &json!(0)),
        "{gap}"
    );
    for offset in 1..=3 {
        let heard = member.json().await;
        assert_eq!(
            (&heard["message"], &heard["offset"]),
            (&json!("new"), &json!(offset)),
            "{heard}"
        );
    }
    let repeated = post(site.first(), PATH, &json!({"message": "old", "key": "k"}))
        .await
        .expect(200);
    assert_eq!(repeated["offset"], 1, "keys outlive the history");
    assert_ne!(repeated["epoch"], deleted["epoch"]);
    // Twice is twice.
    let again = delete(site.first(), PATH).await.expect(200);
    assert_ne!(again["epoch"], deleted["epoch"]);
    assert_eq!(member.json().await["epoch"], again["epoch"]);
    member.assert_quiet().await;
}

#[actix::test]
async fn under_traffic_every_message_is_heard_once_around_the_gap() {
    for site in [Site::embedded(&[]).await, Site::redis(&[]).await] {
        let mut member = Client::v1(&site.last().ws_url()).await;
        member.subscribe("lobby").await;
        let mut sender = Client::v1(&site.first().ws_url()).await;
        for n in 0..300 {
            sender.publish("lobby", n).await;
            if n == 150 {
                delete(site.last(), PATH).await.expect(200);
            }
        }
        let (mut heard, mut gaps) = (Vec::new(), 0);
        while heard.len() < 300 {
            let frame = member.json().await;
            match frame["type"].as_str() {
                Some("gap") => gaps += 1,
                _ => heard.push(frame["message"].as_u64()),
            }
        }
        member.assert_quiet().await;
        assert_eq!(gaps, 1);
        assert_eq!(heard, (0..300).map(Some).collect::<Vec<_>>());
    }
}

#[actix::test]
async fn nothing_is_passed_over_in_silence() {
    let site = Site::redis(&[]).await;
    let epoch = fill(&site, 6).await;
    let redis = site.redis.as_ref().expect("a Redis");
    let gone: u64 = redis.command(&["XDEL", "roomcast:{lobby}:messages", "4-0"]).await;
    assert_eq!(gone, 1);
    let answer = read(&site, &format!("after=1&epoch={epoch}")).await;
    assert_eq!(
        (&answer["recovered"], offsets(&answer)),
        (&json!(true), vec![2, 3])
    );
    let answer = read(&site, &format!("after=3&epoch={epoch}")).await;
    assert_eq!((&answer["recovered"], offsets(&answer)), (&json!(false), vec![]));
}

#[actix::test]
async fn without_history_there_is_nothing_to_read_and_nothing_to_delete() {
    for site in [
        Site::embedded(&[("ROOMCAST_HISTORY_SIZE", "0")]).await,
        Site::redis(&[("ROOMCAST_HISTORY_SIZE", "0")]).await,
    ] {
        let mut member = Client::v1(&site.last().ws_url()).await;
        member.subscribe("lobby").await;
        assert_eq!(read(&site, "").await, json!({"room": "lobby", "messages": []}));
        let answer = read(&site, "after=1&epoch=e&limit=5").await;
        assert_eq!(
            answer,
            json!({"room": "lobby", "recovered": false, "messages": []})
        );
        assert_eq!(
            delete(site.first(), PATH).await.expect(200),
            json!({"room": "lobby"})
        );
        member.assert_quiet().await;
    }
}

#[actix::test]
async fn while_redis_stands_still_the_answer_is_503_in_time() {
    let site = Site::redis(&[]).await;
    fill(&site, 3).await;
    let mut member = Client::v1(&site.last().ws_url()).await;
    member.subscribe("lobby").await;
    site.redis.as_ref().expect("a Redis").signal(Signal::STOP);
    let asked = Instant::now();
    assert_eq!(get(site.first(), PATH).await.code(503), "unavailable");
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    let asked = Instant::now();
    assert_eq!(delete(site.last(), PATH).await.code(503), "unavailable");
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    site.redis.as_ref().expect("a Redis").signal(Signal::CONT);
    crate::support::eventually("history again", async || {
        (get(site.first(), PATH).await.status == 200).then_some(())
    })
    .await;
}
