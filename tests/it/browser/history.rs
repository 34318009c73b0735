//! What the page shows of a room's past, and what it makes of losses: of connections, of servers, of answers.

use rustix::process::Signal;
use serde_json::json;

use super::{failed, named, own, pending, theirs};
use crate::support::browser::{Browser, Window};
use crate::support::client::Client;
use crate::support::node::Node;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::{eventually, free_port};

const FORGOTTEN: &str =
    "The server does not remember the messages above any more. Others may be missing here.";
const MISSING: &str = "Messages are missing here: the server does not keep them any longer.";
const UNKNOWN: &str = "Messages may be missing here: the server cannot tell what was written in between.";

/// Makes the page's long timers end at once: a publish may take 30 s, and a test may not.
const PASS_DEADLINES: &str = "window.realTimeout ??= window.setTimeout; \
    window.setTimeout = (call, delay) => window.realTimeout(call, delay < 30000 ? delay : 0)";
const KEEP_DEADLINES: &str = "window.setTimeout = window.realTimeout";

#[actix::test]
async fn a_room_shows_its_last_messages_when_it_is_entered() {
    let node = Node::start(&[]).await;
    let mut other = named(&node.ws_url(), "Ben").await;
    for nth in 0..60 {
        send(&mut other, &format!("message {nth}")).await;
    }
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.rename("Ann").await;
    window.join("kitchen").await;
    let mut expected: Vec<_> = (10..60)
        .map(|nth| theirs("Ben", &format!("message {nth}")))
        .collect();
    window.shows(&expected).await;
    window.say("I have read it all.").await;
    expected.push(own("Ann", "I have read it all."));
    window.shows(&expected).await;

    // Loaded anew, the page shows the last 50, its own among them, and none of it is news.
    window.join("garden").await;
    window.reload().await;
    window.is_in("kitchen").await;
    window.has_unread("kitchen", None).await;
    window.look_at("kitchen").await;
    window.shows(&expected[1..]).await;
    window.has_gaps(&[]).await;
    assert_eq!(window.console().await, Vec::<String>::new());
}

#[actix::test]
async fn a_server_that_is_restarted_on_redis_costs_nothing_and_doubles_nothing() {
    let redis = Redis::start().await;
    let (url, port) = (redis.url(), free_port().to_string());
    let variables = [("REDIS_URL", url.as_str()), ("PORT", port.as_str())];
    let node = Node::start(&variables).await;
    node.ready().await;
    let elsewhere = Node::on_redis(&url).await;
    let mut browser = Browser::start();
    let ann = browser.open(&node.http_url()).await;
    let ben = browser.open(&node.http_url()).await;
    ann.rename("Ann").await;
    ben.rename("Ben").await;
    ann.join("kitchen").await;
    ben.join("kitchen").await;
    ann.say("before").await;
    ben.shows(&[theirs("Ann", "before")]).await;
    ann.shows(&[own("Ann", "before")]).await;

    drop(node);
    ann.is_reconnecting().await;
    ben.is_reconnecting().await;
    let mut carl = named(&elsewhere.ws_url(), "Carl").await;
    send(&mut carl, "meanwhile").await;
    ann.say("one").await;
    ann.say("two").await;
    ann.shows(&[own("Ann", "before"), pending("Ann", "one"), pending("Ann", "two")])
        .await;
    let _node = Node::start(&variables).await;
    ann.shows(&[
        own("Ann", "before"),
        theirs("Carl", "meanwhile"),
        own("Ann", "one"),
        own("Ann", "two"),
    ])
    .await;
    ben.shows(&[
        theirs("Ann", "before"),
        theirs("Carl", "meanwhile"),
        theirs("Ann", "one"),
        theirs("Ann", "two"),
    ])
    .await;
    ann.has_gaps(&[]).await;
    ben.has_gaps(&[]).await;
}

#[actix::test]
async fn a_message_whose_answer_was_lost_is_there_once() {
    let redis = Redis::start().await;
    let (url, port) = (redis.url(), free_port().to_string());
    let variables = [("REDIS_URL", url.as_str()), ("PORT", port.as_str())];
    let node = Node::start(&variables).await;
    node.ready().await;
    let mut browser = Browser::start();
    let ann = browser.open(&node.http_url()).await;
    ann.rename("Ann").await;
    ann.join("kitchen").await;
    ann.say("before").await;
    ann.shows(&[own("Ann", "before")]).await;

    // The node hands it to a Redis that does not move, and is gone before that does.
    redis.signal(Signal::STOP);
    ann.say("once").await;
    eventually("a publish under way", async || {
        (node.metric("roomcast_publish_queue_bytes").await > 0).then_some(())
    })
    .await;
    drop(node);
    ann.is_reconnecting().await;
    ann.shows(&[own("Ann", "before"), pending("Ann", "once")]).await;
    redis.signal(Signal::CONT);
    let node = Node::start(&variables).await;
    ann.shows(&[own("Ann", "before"), own("Ann", "once")]).await;
    ann.say("after").await;
    let all = [own("Ann", "before"), own("Ann", "once"), own("Ann", "after")];
    ann.shows(&all).await;
    ann.has_gaps(&[]).await;
    let ben = browser.open(&node.http_url()).await;
    ben.join("kitchen").await;
    let all = ["before", "once", "after"].map(|text| theirs("Ann", text));
    ben.shows(&all).await;
}

#[actix::test]
async fn a_message_is_pending_until_the_server_has_it() {
    let node = Node::start(&[]).await;
    let proxy = Proxy::start(node.address()).await;
    let mut browser = Browser::start();
    let window = browser.open(&proxy.http_url()).await;
    window.rename("Ann").await;
    window.join("kitchen").await;
    proxy.stall();
    window.say("held back").await;
    window.shows(&[pending("Ann", "held back")]).await;
    window.has_mark("sending").await;
    proxy.resume();
    window.shows(&[own("Ann", "held back")]).await;

    proxy.cut();
    window.is_reconnecting().await;
    window.say("waits").await;
    window
        .shows(&[own("Ann", "held back"), pending("Ann", "waits")])
        .await;
    window.has_mark("waiting").await;
    window.resize(360, 640).await;
    window.fits().await;
    proxy.resume();
    window
        .shows(&[own("Ann", "held back"), own("Ann", "waits")])
        .await;
}

#[actix::test]
async fn a_message_that_failed_is_not_doubled_by_sending_it_again() {
    let node = Node::start(&[]).await;
    let proxy = Proxy::start(node.address()).await;
    let mut browser = Browser::start();
    let window = browser.open(&proxy.http_url()).await;
    window.rename("Ann").await;
    window.join("kitchen").await;
    // It is under way when its time is up, and arrives later; so does its repetition.
    proxy.stall();
    window.run(PASS_DEADLINES, vec![]).await;
    window.say("once").await;
    window.shows(&[failed("Ann", "once")]).await;
    assert_eq!(
        window.texts("send-error").await,
        ["No answer from the server. The message may have been delivered."]
    );
    window.run(KEEP_DEADLINES, vec![]).await;
    window.click("resend").await;
    window.shows(&[pending("Ann", "once")]).await;
    proxy.resume();
    window.shows(&[own("Ann", "once")]).await;
    window.say("after").await;
    window.shows(&[own("Ann", "once"), own("Ann", "after")]).await;

    proxy.cut();
    window.is_reconnecting().await;
    window.run(PASS_DEADLINES, vec![]).await;
    window.say("never left").await;
    let shown = [
        own("Ann", "once"),
        own("Ann", "after"),
        failed("Ann", "never left"),
    ];
    window.shows(&shown).await;
    assert_eq!(
        window.texts("send-error").await,
        ["Not sent: there was no connection."]
    );
    window.run(KEEP_DEADLINES, vec![]).await;
    proxy.resume();
    window.is_live().await;
    window.click("resend").await;
    let shown = ["once", "after", "never left"].map(|text| own("Ann", text));
    window.shows(&shown).await;
}

#[actix::test]
async fn another_name_changes_nothing_in_the_room() {
    let node = Node::start(&[]).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.rename("Ann").await;
    window.join("kitchen").await;
    window.say("I am Ann.").await;
    window.shows(&[own("Ann", "I am Ann.")]).await;
    let mut other = named(&node.ws_url(), "Ben").await;
    send(&mut other, "Hello, Ann.").await;
    window
        .shows(&[own("Ann", "I am Ann."), theirs("Ben", "Hello, Ann.")])
        .await;
    window.rename("Anna").await;
    window.is_in("kitchen").await;
    window.say("Anna, rather.").await;
    window
        .shows(&[
            own("Ann", "I am Ann."),
            theirs("Ben", "Hello, Ann."),
            own("Anna", "Anna, rather."),
        ])
        .await;
    window.has_gaps(&[]).await;
}

#[actix::test]
async fn what_the_server_does_not_keep_is_told_where_it_is_missing() {
    let node = Node::start(&[("ROOMCAST_HISTORY_SIZE", "3")]).await;
    let proxy = Proxy::start(node.address()).await;
    let mut browser = Browser::start();
    let window = browser.open(&proxy.http_url()).await;
    let mut other = named(&node.ws_url(), "Ben").await;
    window.join("kitchen").await;
    send(&mut other, "0").await;
    window.shows(&[theirs("Ben", "0")]).await;

    proxy.cut();
    window.is_reconnecting().await;
    for text in ["1", "2", "3", "4", "5"] {
        send(&mut other, text).await;
    }
    proxy.resume();
    let shown = ["0", "3", "4", "5"].map(|text| theirs("Ben", text));
    window.shows(&shown).await;
    window.has_gaps(&[MISSING]).await;
    window
        .sees("document.querySelector('[data-testid=gap]').previousElementSibling.matches('[data-testid=message]')")
        .await;
    window.fits().await;
}

#[actix::test]
async fn a_server_that_forgets_leaves_the_page_as_it_is() {
    let port = free_port().to_string();
    let variables = [("PORT", port.as_str())];
    let node = Node::start(&variables).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.rename("Ann").await;
    window.join("garden").await;
    window.join("kitchen").await;
    window.say("before").await;
    window.shows(&[own("Ann", "before")]).await;
    drop(node);
    window.is_reconnecting().await;
    let node = Node::start(&variables).await;
    window.is_in("kitchen").await;
    window.has_gaps(&[FORGOTTEN]).await;
    window.say("after").await;
    window.shows(&[own("Ann", "before"), own("Ann", "after")]).await;
    // Nothing was written there, so nothing can be missing.
    window.look_at("garden").await;
    window.is_in("garden").await;
    window.has_gaps(&[]).await;

    // It is the room that was forgotten, not the connection: the next loss costs nothing.
    window.look_at("kitchen").await;
    drop(node);
    window.is_reconnecting().await;
    let _node = Node::start(&variables).await;
    window.is_in("kitchen").await;
    window.has_gaps(&[FORGOTTEN, FORGOTTEN]).await;
}

#[actix::test]
async fn without_history_the_page_talks_and_says_what_may_be_missing() {
    let node = Node::start(&[("ROOMCAST_HISTORY_SIZE", "0")]).await;
    let proxy = Proxy::start(node.address()).await;
    let mut browser = Browser::start();
    let window = browser.open(&proxy.http_url()).await;
    window.rename("Ann").await;
    window.join("kitchen").await;
    window.say("twice").await;
    window.say("twice").await;
    window.shows(&[own("Ann", "twice"), own("Ann", "twice")]).await;
    proxy.cut();
    window.is_reconnecting().await;
    window.say("waits").await;
    proxy.resume();
    let shown = [own("Ann", "twice"), own("Ann", "twice"), own("Ann", "waits")];
    window.shows(&shown).await;
    window.has_gaps(&[UNKNOWN]).await;
    window.rename("Anna").await;
    window.is_in("kitchen").await;
    window.has_gaps(&[UNKNOWN, UNKNOWN]).await;
    window.shows(&shown).await;
}

/// Publishes to the kitchen, and waits until the server has it.
async fn send(sender: &mut Client, text: &str) {
    let command = json!({"type": "sendMessage", "room": "kitchen", "message": text});
    assert_eq!(sender.call(command).await["type"], "sent");
}

impl Window {
    /// Waits until exactly these lines about missing messages are shown.
    async fn has_gaps(&self, words: &[&str]) {
        let shown = "[...document.querySelectorAll('[data-testid=gap]')] \
            .map((line) => line.textContent).join('\\n') === arguments[0]";
        self.sees_with(shown, vec![words.join("\n").into()]).await;
    }

    /// Waits until this stands at the last message.
    async fn has_mark(&self, words: &str) {
        let shown = "getComputedStyle([...document.querySelectorAll('.message-head')].at(-1), '::after') \
            .content === JSON.stringify(arguments[0])";
        self.sees_with(shown, vec![words.into()]).await;
    }
}
