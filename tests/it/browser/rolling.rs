//! A rolling restart of two nodes, seen by `roomcast.js` in a real browser with nothing but the list of their addresses.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::node::Node;
use crate::support::redis::Redis;
use crate::support::{PATIENCE, ReservedPort};

const CLIENTS: usize = 12;

/// Clients in two rooms that publish all the time, and write down what they are told. `arguments`: the nodes' addresses,
/// how many clients.
const START: &str = r#"
const [urls, count] = arguments;
const run = (window.run = { clients: [], publishing: true, acknowledged: 0, failed: [] });
return import("/roomcast.js").then(async ({ Roomcast }) => {
  for (let n = 0; n < count; n += 1) {
    const client = new Roomcast(urls, { user: `user ${n}` });
    const seen = { room: `room ${n % 2}`, offsets: [], gaps: 0, states: [], byes: 0, sessions: new Set() };
    client.on("state", ({ state }) => { seen.states.push(state); seen.sessions.add(client.session); });
    client.on("message", ({ offset }) => seen.offsets.push(offset));
    client.on("gap", () => { seen.gaps += 1; });
    client.on("bye", () => { seen.byes += 1; });
    await client.subscribe(seen.room);
    seen.states.length = 0;
    run.clients.push(seen);
    const publish = async () => {
      while (run.publishing) {
        try {
          await client.publish(seen.room, "hello");
          run.acknowledged += 1;
        } catch (error) {
          run.failed.push(String(error));
        }
        await new Promise((resolve) => setTimeout(resolve, 50 + 50 * Math.random()));
      }
      seen.done = true;
    };
    publish();
  }
});
"#;

/// How many messages of this client's room it has heard, in which order, and what else it was told.
const REPORT: &str = r#"
return run.clients.map(({ offsets, gaps, states, byes, sessions }) => ({
  first: offsets[0],
  heard: offsets.length,
  inOrder: offsets.every((offset, at) => offset === offsets[0] + at),
  last: offsets.at(-1),
  otherStates: states.filter((state) => state !== "live"),
  gaps, byes, sessions: sessions.size,
}));
"#;

#[actix::test]
async fn clients_with_two_addresses_notice_nothing_of_a_rolling_restart() {
    let redis = Redis::start().await;
    let ports = [ReservedPort::new(), ReservedPort::new()];
    let start = async |port: &ReservedPort| {
        let (url, port) = (redis.url(), port.number().to_string());
        let node = Node::start(&[("REDIS_URL", &url), ("PORT", &port), ("ROOMCAST_DRAIN", "5")]).await;
        node.ready().await;
        node
    };
    let mut nodes = [start(&ports[0]).await, start(&ports[1]).await];
    let urls = nodes.each_ref().map(|node| format!("{}/ws", node.ws_url()));
    let mut browser = Browser::start();
    let window = browser.open(&format!("{}/healthz", nodes[0].http_url())).await;
    window.run(START, vec![json!(urls), json!(CLIENTS)]).await;
    for (node, port) in nodes.iter_mut().zip(&ports) {
        assert!(node.metric("roomcast_sessions").await > 0);
        node.signal(Signal::TERM);
        let status = node.exit(Duration::from_secs(8) + PATIENCE).await;
        assert_eq!(status.code(), Some(0), "{}", node.log());
        *node = start(port).await;
    }
    window.run("run.publishing = false", vec![]).await;
    window.sees("run.clients.every((client) => client.done)").await;
    // Both rooms are numbered from 1, and somebody heard the first message of each.
    window
        .sees("run.clients.every(({ room, offsets }) => \
            offsets.at(-1) === Math.max(...run.clients.filter((c) => c.room === room).map((c) => c.offsets.at(-1))))")
        .await;
    let report = window.run(REPORT, vec![]).await;
    let failed = window.run("return run.failed", vec![]).await;
    assert_eq!(failed, json!([]));
    let clients: Vec<Value> = report.as_array().expect("one for each client").clone();
    for client in &clients {
        assert_eq!(client["inOrder"], true, "lost, doubled or out of order: {client}");
        assert_eq!(client["gaps"], 0, "{client}");
        assert_eq!(client["otherStates"], json!([]), "{client}");
        assert!(client["byes"].as_u64() >= Some(1), "{client}");
        assert!(client["sessions"].as_u64() >= Some(2), "{client}");
    }
    // What was acknowledged is what there is.
    let top = |room: usize| clients[room]["last"].as_u64().expect("a place");
    let acknowledged = window.run("return run.acknowledged", vec![]).await;
    assert_eq!(acknowledged.as_u64(), Some(top(0) + top(1)));
    assert!(top(0) > 100, "{report}");
}
