//! Demands that a node cannot hear when they are made, because its link to Redis is away.

use serde_json::json;

use super::users::named;
use super::{Site, TOKEN, delete, get, post};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::node::Node;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;

/// Where Redis keeps them.
const DEMANDS: &str = "roomcast:{}:demands";

/// Two nodes, the second behind a line that can be cut.
struct Scene {
    site: Site,
    line: Proxy,
}

impl Scene {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let line = Proxy::start(&format!("127.0.0.1:{}", redis.port())).await;
        let mut nodes = Vec::new();
        for url in [redis.url(), line.redis_url()] {
            let node = Node::start(&[("ROOMCAST_API_TOKEN", TOKEN), ("REDIS_URL", &url)]).await;
            node.ready().await;
            nodes.push(node);
        }
        let site = Site {
            nodes,
            redis: Some(redis),
        };
        Self { site, line }
    }

    fn asked(&self) -> &Node {
        self.site.first()
    }

    fn cut_off(&self) -> &Node {
        self.site.last()
    }

    fn redis(&self) -> &Redis {
        self.site.redis.as_ref().expect("a Redis")
    }

    /// Adds entries to what is kept: with more of them it takes longer until a node has read what is behind.
    async fn add_to_the_demands(&self, count: usize, field: &str, value: &str) {
        let script = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', ARGV[2], ARGV[3]) end";
        let words = ["EVAL", script, "1", DEMANDS, &count.to_string(), field, value];
        let _: redis::Value = self.redis().command(&words).await;
    }

    /// Cuts the line; returns when Redis and the node have both seen it.
    async fn cut(&self) {
        self.line.cut();
        eventually("a node that Redis has lost", async || {
            let (_, count): (String, u64) = self.redis().command(&["PUBSUB", "NUMSUB", "\u{1}control"]).await;
            (count == 1).then_some(())
        })
        .await;
        eventually("a node that knows", async || {
            (self.cut_off().get("/readyz").await.0 == 503).then_some(())
        })
        .await;
    }
}

async fn disconnect(node: &Node, user: &str) -> serde_json::Value {
    post(node, &format!("/api/users/{user}/disconnect"), &json!({}))
        .await
        .expect(200)
}

async fn say(node: &Node, room: &str, text: &str) {
    post(
        node,
        &format!("/api/rooms/{room}/messages"),
        &json!({"message": text}),
    )
    .await
    .expect(200);
}

async fn assert_alive(client: &mut Client) {
    assert_eq!(client.call(json!({"type": "PING"})).await["type"], "pong");
}

#[actix::test]
async fn a_node_without_a_link_disconnects_when_it_is_back_and_only_who_was_there() {
    let scene = Scene::start().await;
    let mut ann = named(scene.cut_off(), "ann").await;
    let mut bob = named(scene.cut_off(), "bob").await;
    ann.subscribe("lobby").await;
    bob.subscribe("lobby").await;
    scene.cut().await;
    assert_eq!(disconnect(scene.asked(), "ann").await["sessions"], 0);
    // She comes again before the node has heard of it; nobody has demanded anything since.
    let mut again = named(scene.cut_off(), "ann").await;
    assert_alive(&mut ann).await;
    scene.line.resume();
    assert_eq!(ann.closed().await, Some(1008));
    scene.cut_off().ready().await;
    assert_eq!(
        get(scene.cut_off(), "/api/rooms/lobby").await.expect(200)["sessions"],
        1
    );
    assert_alive(&mut again).await;
    assert_alive(&mut bob).await;
    // What is heard in time is for all again.
    assert_eq!(disconnect(scene.asked(), "ann").await["sessions"], 1);
    assert_eq!(again.closed().await, Some(1008));
}

#[actix::test]
async fn who_was_removed_without_a_link_is_not_sent_what_was_said_afterwards() {
    let scene = Scene::start().await;
    let (mut ann, mut bob) = (
        named(scene.cut_off(), "ann").await,
        named(scene.cut_off(), "bob").await,
    );
    for client in [&mut ann, &mut bob] {
        client.subscribe("lobby").await;
        client.subscribe("other").await;
    }
    scene.cut().await;
    // What lies before the removal takes longer to read than the rooms.
    scene.add_to_the_demands(1_000, "demand", "of another time").await;
    delete(scene.asked(), "/api/rooms/lobby/members/ann")
        .await
        .expect(200);
    for room in ["lobby", "other"] {
        say(scene.asked(), room, room).await;
    }
    scene.line.resume();
    assert_eq!(ann.json().await, json!({"type": "unsubscribed", "room": "lobby"}));
    assert_eq!(ann.json().await["message"], "other");
    let mut heard = [bob.json().await, bob.json().await].map(|frame| frame["message"].clone());
    heard.sort_by_key(ToString::to_string);
    assert_eq!(heard, ["lobby", "other"]);
    // She may come again, and another cut does not remove her for what is done already.
    ann.subscribe("lobby").await;
    scene.cut().await;
    scene.line.resume();
    scene.cut_off().ready().await;
    eventually("a room that is heard again", async || {
        let channels = scene.redis().channels().await;
        channels.iter().any(|channel| channel == "lobby").then_some(())
    })
    .await;
    say(scene.asked(), "lobby", "more").await;
    assert_eq!(ann.json().await["message"], "more");
}

#[actix::test]
async fn many_demands_are_caught_up_with_page_by_page() {
    let scene = Scene::start().await;
    let mut users = Vec::new();
    for number in 0..250 {
        users.push(named(scene.cut_off(), &format!("user{number}")).await);
    }
    let mut bystander = named(scene.cut_off(), "bob").await;
    scene.cut().await;
    for number in 0..250 {
        disconnect(scene.asked(), &format!("user{number}")).await;
    }
    scene.line.resume();
    for user in &mut users {
        assert_eq!(user.closed().await, Some(1008));
    }
    assert_alive(&mut bystander).await;
    let demands: u64 = scene.redis().command(&["XLEN", DEMANDS]).await;
    assert_eq!(demands, 250);
    let ttl: i64 = scene.redis().command(&["PTTL", DEMANDS]).await;
    assert!((1..=120_000).contains(&ttl), "{ttl}");
}

#[actix::test]
async fn nonsense_among_the_demands_is_passed_over() {
    let scene = Scene::start().await;
    let mut ann = named(scene.cut_off(), "ann").await;
    scene.cut().await;
    // More than is read at once.
    scene.add_to_the_demands(250, "demand", "garbage").await;
    let told = r#"{"what":"forgotten","room":"r"}"#;
    scene.add_to_the_demands(1, "other", told).await;
    let met = r#"{"what":"met","id":1,"from":"x","sessions":1}"#;
    scene.add_to_the_demands(1, "demand", met).await;
    disconnect(scene.asked(), "ann").await;
    scene.add_to_the_demands(1, "demand", "").await;
    scene.line.resume();
    assert_eq!(ann.closed().await, Some(1008));
}

#[actix::test]
async fn a_place_that_somebody_makes_up_hides_nothing() {
    let scene = Scene::start().await;
    let mut ann = named(scene.cut_off(), "ann").await;
    for place in ["18446744073709551615-18446744073709551615", "0-0"] {
        let forged = format!(r#"{{"what":"disconnect","id":1,"from":"x","user":"x","at":"{place}"}}"#);
        assert_eq!(scene.redis().publish("\u{1}control", &forged).await, 2);
    }
    // What comes over the link comes in order: this is heard last.
    let last = r#"{"what":"disconnect","id":1,"from":"x","user":"bob","at":"18446744073709551615-0"}"#;
    let mut bob = named(scene.cut_off(), "bob").await;
    scene.redis().publish("\u{1}control", last).await;
    assert_eq!(bob.closed().await, Some(1008));
    scene.cut().await;
    disconnect(scene.asked(), "ann").await;
    scene.line.resume();
    assert_eq!(ann.closed().await, Some(1008));
}

#[actix::test]
async fn where_redis_keeps_nothing_those_who_hear_it_do_it() {
    let site = Site::redis(&[]).await;
    let redis = site.redis.as_ref().expect("a Redis");
    let mut anns = Vec::new();
    for node in &site.nodes {
        anns.push(named(node, "ann").await);
    }
    let _: String = redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(disconnect(site.last(), "ann").await["sessions"], 2);
    for mut ann in anns {
        assert_eq!(ann.closed().await, Some(1008));
    }
}

/// Where the key holds something else, nobody is kept waiting for it.
#[actix::test]
async fn a_link_is_used_though_what_was_demanded_cannot_be_read() {
    let scene = Scene::start().await;
    let mut ann = named(scene.cut_off(), "ann").await;
    ann.subscribe("lobby").await;
    scene.cut().await;
    let _: String = scene.redis().command(&["SET", DEMANDS, "x"]).await;
    let answer = post(scene.asked(), "/api/users/bob/disconnect", &json!({})).await;
    assert_eq!(answer.code(503), "unavailable");
    scene.line.resume();
    say(scene.asked(), "lobby", "x").await;
    assert_eq!(ann.json().await["message"], "x");
    // Written by a thread of its own, and so perhaps later than the message.
    eventually("a line in the log", async || {
        scene.cut_off().log().contains("cannot be read").then_some(())
    })
    .await;
}

#[actix::test]
async fn whoever_listens_by_a_pattern_is_not_waited_for() {
    let site = Site::redis(&[]).await;
    let redis = site.redis.as_ref().expect("a Redis");
    let mut listener = redis.listen_by_pattern("\u{1}contro*").await;
    assert_eq!(disconnect(site.first(), "ann").await["sessions"], 0);
    assert!(listener.payload().await.contains("disconnect"));
}
