//! Peers that want to do harm: what each of them costs, and that nobody else notices. On real processes, with figures.
//!
//! The sizes suit a debug build on a busy machine. The ignored tests are the same at full size, for a release build:
//! `tests/run hostile`. Framing that violates the protocol is in `framing.rs`, the smaller cases of those who do not
//! read in `slow.rs`, a broker that is away in `nodes`.

mod floods;
mod http;
mod redis;
mod rooms;
mod slow;

use std::time::Duration;

use crate::support::node::Node;

const MIB: usize = 1024 * 1024;

/// What one connection may cost, whatever it does.
const MOST_PER_CONNECTION: usize = 8 * MIB;

/// How long a bystander may wait at full size.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A node without history, whose memory would be weighed along.
async fn node(variables: &[(&str, &str)]) -> Node {
    Node::start(&[&[("ROOMCAST_HISTORY_SIZE", "0")], variables].concat()).await
}

/// Waits until the node has no session.
async fn await_no_session(node: &Node) {
    crate::support::within(Duration::from_secs(2), "the end of all sessions", async || {
        (node.metric("roomcast_sessions").await == 0).then_some(())
    })
    .await;
}
