//! Redis: TLS, passwords and access rights.

use redis::aio::MultiplexedConnection;
use serde_json::json;

use super::publish;
use crate::support::client::{Client, Event};
use crate::support::eventually;
use crate::support::node::Node;
use crate::support::redis::Redis;
use crate::support::tls::TlsRedis;

#[actix::test]
async fn a_tls_server_is_trusted_with_its_authority_and_not_without() {
    let redis = TlsRedis::signed().await;
    let ca = redis.ca();
    let ca = ca.to_str().expect("UTF-8");
    for host in ["127.0.0.1", "localhost"] {
        let node = Node::start(&[("REDIS_URL", &redis.url(host)), ("ROOMCAST_REDIS_CA", ca)]).await;
        node.ready().await;
        assert_serves(&node).await;
    }
    let node = Node::start(&[("REDIS_URL", &redis.url("127.0.0.1"))]).await;
    assert_not_ready(&node, "certificate").await;

    let other = TlsRedis::self_signed().await;
    let other = other.ca();
    let other = other.to_str().expect("UTF-8");
    let node = Node::start(&[
        ("REDIS_URL", &redis.url("127.0.0.1")),
        ("ROOMCAST_REDIS_CA", other),
    ])
    .await;
    assert_not_ready(&node, "certificate").await;
}

#[actix::test]
async fn a_self_signed_certificate_is_accepted_only_when_told_so() {
    let redis = TlsRedis::self_signed().await;
    let url = redis.url("127.0.0.1");
    let node = Node::start(&[("REDIS_URL", &url), ("ROOMCAST_REDIS_INSECURE", "1")]).await;
    node.ready().await;
    assert_serves(&node).await;
    let node = Node::start(&[("REDIS_URL", &url), ("ROOMCAST_REDIS_INSECURE", "0")]).await;
    assert_not_ready(&node, "certificate").await;
}

async fn assert_serves(node: &Node) {
    let mut client = Client::v1(&node.ws_url()).await;
    client.subscribe("room1").await;
    client.publish("room1", "through TLS").await;
    let mut kinds = [client.json().await, client.json().await]
        .map(|frame| frame["type"].as_str().expect("a type").to_owned());
    kinds.sort();
    assert_eq!(kinds, ["message", "sent"]);
}

/// Waits until `/readyz` says no with this word in the reason.
async fn assert_not_ready(node: &Node, reason: &str) {
    eventually(&format!("/readyz with {reason:?}"), async || {
        let (status, body) = node.get("/readyz").await;
        assert_eq!(status, 503, "{body}");
        body.contains(reason).then_some(())
    })
    .await;
    assert_eq!(node.get("/healthz").await.0, 200);
}

#[actix::test]
async fn a_password_in_the_url_opens_the_door_and_a_wrong_one_is_never_shown() {
    let redis = Redis::start().await;
    let mut control = redis.connection().await;
    run(
        &mut control,
        &["CONFIG", "SET", "requirepass", "right@horse/battery"],
    )
    .await;
    let address = redis.url().replacen("redis://", "", 1);

    let node = Node::on_redis(&format!("redis://:right%40horse%2Fbattery@{address}")).await;
    assert_serves(&node).await;
    for url in [
        format!("redis://:wrong%40horse%2Fbattery@{address}"),
        format!("redis://default:wrong%40horse%2Fbattery@{address}"),
    ] {
        let node = Node::start(&[("REDIS_URL", &url), ("RUST_LOG", "trace")]).await;
        assert_not_ready(&node, "not subscribed to the broker: ").await;
        assert_not_ready(&node, "authentication failed").await;
        let shown = node.log() + &node.get("/readyz").await.1 + &node.get("/metrics").await.1;
        assert!(node.log().contains("no subscription to redis"), "{shown}");
        assert!(!shown.contains("horse"), "{shown}");
    }
    let node = Node::start(&[("REDIS_URL", &redis.url())]).await;
    assert_not_ready(&node, "NOAUTH").await;
}

#[actix::test]
async fn a_user_with_few_rights_is_enough() {
    let redis = Redis::start().await;
    let mut control = redis.connection().await;
    run(
        &mut control,
        &["ACL", "SETUSER", "app", "on", ">secret", "&*", "~roomcast:*"],
    )
    .await;
    let commands = "subscribe unsubscribe publish eval evalsha script|load get set del \
                    hset hincrby hgetall hdel hget hmget hlen hexists hrandfield exists xadd xrange xdel pexpire pttl time";
    for command in commands.split_whitespace() {
        run(&mut control, &["ACL", "SETUSER", "app", &format!("+{command}")]).await;
    }
    let url = redis.url().replacen("redis://", "redis://app:secret@", 1);
    let node = Node::on_redis(&url).await;
    assert_serves(&node).await;
    let mut client = Client::v1(&node.ws_url()).await;
    let enter = json!({"type": "SUBSCRIBE", "room": "room1", "presence": true});
    assert_eq!(client.call(enter).await["type"], "subscribed");
    let members = json!({"type": "MEMBERS", "room": "room1"});
    assert_eq!(client.call(members).await["count"], 1);
    // Those of a node that dies are taken off, too.
    let other = Node::on_redis(&url).await;
    let mut gone = Client::v1(&other.ws_url()).await;
    let enter = json!({"type": "SUBSCRIBE", "room": "room1", "presence": true});
    assert_eq!(gone.call(enter).await["type"], "subscribed");
    assert_eq!(client.json().await["type"], "joined");
    other.signal(rustix::process::Signal::KILL);
    let left = client.event_within(std::time::Duration::from_secs(15)).await;
    assert!(matches!(left, Some(Event::Text(frame)) if frame.contains("left")));
    assert!(!node.log().contains("secret"), "{}", node.log());
}

#[actix::test]
async fn a_channel_that_is_forbidden_is_unavailable_and_the_others_are_not() {
    let redis = Redis::start().await;
    let mut control = redis.connection().await;
    let may = [
        "ACL",
        "SETUSER",
        "app",
        "on",
        ">secret",
        "+@all",
        "~roomcast:*",
        "&allowed*",
        "&\u{1}*",
    ];
    run(&mut control, &may).await;
    let url = redis.url().replacen("redis://", "redis://app:secret@", 1);
    let node = Node::on_redis(&url).await;
    let mut other = Client::v1(&node.ws_url()).await;
    other.subscribe("allowed 1").await;

    // All in one batch.
    let mut client = Client::v1(&node.ws_url()).await;
    for room in ["allowed 1", "forbidden", "allowed 2"] {
        client
            .command(json!({"type": "SUBSCRIBE", "id": room, "room": room}))
            .await;
    }
    let mut replies = Vec::new();
    for _ in 0..3 {
        let reply = client.json().await;
        let kind = reply["code"].as_str().or(reply["type"].as_str()).expect("a type");
        replies.push((reply["id"].as_str().expect("an id").to_owned(), kind.to_owned()));
    }
    replies.sort();
    let expected = [
        ("allowed 1", "subscribed"),
        ("allowed 2", "subscribed"),
        ("forbidden", "unavailable"),
    ];
    assert_eq!(
        replies,
        expected.map(|(id, kind)| (id.to_owned(), kind.to_owned()))
    );
    let reply = client
        .call(json!({"type": "sendMessage", "roomId": "forbidden", "message": "x"}))
        .await;
    assert_eq!(
        (&reply["code"], &reply["outcome"]),
        (&json!("unavailable"), &json!("refused"))
    );

    // A plain session goes on wanting it, also over the loss of the link; the others are served as before.
    let mut plain = Client::plain(&node.ws_url()).await;
    plain
        .command(json!({"type": "SUBSCRIBE", "room": "forbidden"}))
        .await;
    redis.client_kill("pubsub").await;
    let mut sender = Client::v1(&node.ws_url()).await;
    publish(&mut sender, "allowed 1", "as before".into()).await;
    assert_eq!(other.json().await["message"], "as before");
    assert_eq!(client.json().await["message"], "as before");

    // Once it is allowed, who asks anew is in.
    run(&mut control, &["ACL", "SETUSER", "app", "allchannels"]).await;
    client.subscribe("forbidden").await;
    publish(&mut sender, "forbidden", "allowed by now".into()).await;
    assert_eq!(client.json().await["message"], "allowed by now");
    assert_eq!(plain.text().await, "allowed by now");
}

async fn run(connection: &mut MultiplexedConnection, command: &[&str]) {
    let () = redis::cmd(command[0])
        .arg(&command[1..])
        .query_async(connection)
        .await
        .expect("done");
}
