//! `roomcast.js` in a real browser, against sockets that say what a case wants them to say.

use serde_json::json;

use crate::support::browser::Browser;
use crate::support::node::Node;

/// The cases are in files of their own, as one script: WebDriver runs functions and not modules.
const RUN_CASES: &str = concat!(
    include_str!("cases.js"),
    include_str!("handover.js"),
    include_str!("tokens.js"),
    include_str!("presence.js"),
    "\nreturn import('/roomcast.js').then(runCases);"
);

#[actix::test]
async fn the_client_keeps_its_promises() {
    let node = Node::start(&[]).await;
    let mut browser = Browser::start();
    // A page of the node that has no client of its own.
    let window = browser.open(&format!("{}/healthz", node.http_url())).await;
    assert_eq!(window.run(RUN_CASES, vec![]).await, json!([]));
}
