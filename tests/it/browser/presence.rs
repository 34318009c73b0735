//! Who is in a room, as the page shows it, and as `roomcast.js` keeps it over a change of server.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::PATIENCE;
use crate::support::browser::{Browser, Window};
use crate::support::eventually;
use crate::support::node::Node;
use crate::support::redis::Redis;

const MARKUP: &str = "<img src=x onerror=\"window.ran = true\">";

#[actix::test]
async fn the_page_lists_who_is_here_and_tells_who_comes_and_goes() {
    let node = Node::start(&[]).await;
    let mut browser = Browser::start();
    let ann = browser.open(&node.http_url()).await;
    ann.rename("Ann").await;
    ann.join("kitchen").await;
    ann.lists(&["Ann you"]).await;
    let ben = browser.open(&node.http_url()).await;
    ben.rename("Ben").await;
    ben.join("kitchen").await;
    ben.lists(&["Ben you", "Ann"]).await;
    ann.lists(&["Ann you", "Ben"]).await;
    ann.told("Ben joined").await;
    let markup = browser.open(&node.http_url()).await;
    markup.rename(MARKUP).await;
    markup.join("kitchen").await;
    ann.lists(&["Ann you", MARKUP, "Ben"]).await;
    markup.click("leave").await;
    ben.click("leave").await;
    ann.lists(&["Ann you"]).await;
    ann.sees("/ left$/.test([...document.querySelectorAll('[data-testid=moved]')].at(-1).textContent)")
        .await;
    assert_eq!(ann.run("return window.ran ?? null", vec![]).await, json!(null));
    // Who is back at once has not been away.
    ben.join("kitchen").await;
    ann.lists(&["Ann you", "Ben"]).await;
    let moves = ann.texts("moved").await;
    ben.reload().await;
    ben.is_in("kitchen").await;
    ben.lists(&["Ben you", "Ann"]).await;
    ann.lists(&["Ann you", "Ben"]).await;
    assert_eq!(ann.texts("moved").await, moves);
    // On a phone it lies over the messages, and only when it is wanted.
    ann.resize(320, 568).await;
    ann.sees("document.getElementById('members').hidden").await;
    ann.click("members-toggle").await;
    ann.fits().await;
    ann.click("members-close").await;
    ann.sees("document.getElementById('members').hidden").await;
    for window in [ann, ben, markup] {
        assert_eq!(window.console().await, Vec::<String>::new());
    }
}

/// Clients in one room, each with a list, and what the lists have told. `arguments`: the nodes' addresses.
const START: &str = r#"
const [urls] = arguments;
const run = (window.run = { seen: [], clients: [] });
return import("/roomcast.js").then(async ({ Roomcast }) => {
  for (const user of ["ann", "ben", "cat"]) {
    const client = new Roomcast(urls, { user });
    const list = client.memberList("r");
    const seen = { user, list, client, states: [], own: 0 };
    list.on("change", ({ joined, left }) => {
      seen.own += [...joined, ...left].filter((member) => member.user === user).length;
    });
    client.on("state", ({ state }) => seen.states.push(state));
    run.seen.push(seen);
    await client.subscribe("r", { presence: true });
  }
});
"#;

/// Every client lists exactly the two others, once.
const COMPLETE: &str = "run.seen.every(({ user, list }) => list.isCurrent && list.count === 3 && \
    [...list.members.values()].sort().join() === ['ann', 'ben', 'cat'].filter((name) => name !== user).join())";

#[actix::test]
async fn lists_are_whole_after_a_change_of_server_and_hold_no_ghosts() {
    let redis = Redis::start().await;
    let mut nodes = [
        Node::on_redis(&redis.url()).await,
        Node::on_redis(&redis.url()).await,
    ];
    let urls = nodes.each_ref().map(|node| format!("{}/ws", node.ws_url()));
    let mut browser = Browser::start();
    let window = browser.open(&format!("{}/healthz", nodes[1].http_url())).await;
    window.run(START, vec![json!(urls)]).await;
    window.sees(COMPLETE).await;
    nodes[0].signal(Signal::TERM);
    nodes[0].exit(Duration::from_secs(30) + PATIENCE).await;
    window.sees(COMPLETE).await;
    // Nobody was told of itself, and nobody was ever without a connection.
    window.sees("run.seen.every(({ own }) => own === 0)").await;
    window
        .sees("run.seen.every(({ states }) => states.every((state) => state === 'live'))")
        .await;
    // One who goes is gone for the others.
    window.run("run.seen.shift().client.close()", vec![]).await;
    window
        .sees("run.seen.every(({ list }) => list.count === 2 && ![...list.members.values()].includes('ann'))")
        .await;
}

impl Window {
    /// Waits until these are listed, in this order.
    async fn lists(&self, expected: &[&str]) {
        let script = "return [...document.querySelectorAll('[data-testid=member]')].map((item) => \
            [item.querySelector('[data-testid=member-name]'), ...item.querySelectorAll('.you')] \
                .map((part) => part.textContent).join(' '))";
        eventually(&format!("{expected:?} listed"), async || {
            (self.run(script, vec![]).await == json!(expected)).then_some(())
        })
        .await;
    }

    /// Waits until the room's log says this of somebody.
    async fn told(&self, words: &str) {
        let told = "[...document.querySelectorAll('[data-testid=moved]')] \
            .some((note) => note.textContent.includes(arguments[0]))";
        self.sees_with(told, vec![words.into()]).await;
    }
}
