//! Tokens: the page on a server that demands one, and `roomcast.js` as it renews its own.

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::node::Node;

const SECRET: &str = "a secret of thirty-two bytes or more";

/// Makes tokens (HS256) in the page, as a back end would. `arguments`: the secret.
const ISSUER: &str = r#"
const [secret] = arguments;
const url = (text) => btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
window.issue = async (claims) => {
  const bytes = (text) => new TextEncoder().encode(text);
  const key = await crypto.subtle.importKey("raw", bytes(secret), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const iat = Math.floor(Date.now() / 1000);
  const unsigned = `${url(JSON.stringify({ alg: "HS256", typ: "JWT" }))}.${url(JSON.stringify({ iat, ...claims }))}`;
  const signature = new Uint8Array(await crypto.subtle.sign("HMAC", key, bytes(unsigned)));
  return `${unsigned}.${url(String.fromCharCode(...signature))}`;
};
"#;

/// A client whose tokens live for less than four seconds. `arguments`: the node's address.
const SHORT_LIVED: &str = r#"
const [address] = arguments;
const run = (window.run = { reasons: [], sessions: new Set(), states: [], errors: [], frames: [] });
return import("/roomcast.js").then(async ({ Roomcast }) => {
  const token = ({ reason }) => {
    run.reasons.push(reason);
    return issue({ sub: "ann", exp: Math.floor(Date.now() / 1000) + 4 });
  };
  run.client = new Roomcast(address, { token });
  run.client.on("state", ({ state }) => { run.states.push(state); run.sessions.add(run.client.session); });
  run.client.on("error", ({ code }) => run.errors.push(code));
  run.client.on("frame", ({ text }) => run.frames.push(text));
  await run.client.subscribe("r");
});
"#;

#[actix::test]
async fn the_page_asks_for_a_token_and_keeps_it_for_the_tab() {
    let node = Node::start(&[("ROOMCAST_JWT_SECRET", SECRET)]).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.find("token-dialog").await;
    window.run(ISSUER, vec![json!(SECRET)]).await;
    window.fill("token", "no.token.atall").await;
    window.click("token-use").await;
    window
        .sees("document.querySelector('[data-testid=token-error]').textContent !== ''")
        .await;
    let good = window
        .run("return issue({ sub: 'ann', rooms: ['kitchen'] })", vec![])
        .await;
    let good = good.as_str().expect("a token");
    window.fill("token", good).await;
    window.click("token-use").await;
    window.is_live().await;
    window.join("kitchen").await;
    window.say("hello").await;
    window
        .sees("document.querySelector('[data-testid=message] [data-testid=sender]').textContent === 'ann'")
        .await;
    // What it does not allow is refused where it was asked for.
    window.fill("room-input", "garden").await;
    window.click("join").await;
    window.has_join_error("Cannot join “garden”").await;
    // It is nowhere to be seen.
    window.click("frames-toggle").await;
    window
        .sees("document.getElementById('frames-list').textContent.includes('\"token\":\"…\"')")
        .await;
    let page = window
        .run("return document.documentElement.outerHTML", vec![])
        .await;
    assert!(!page.as_str().expect("a text").contains(good));
    window.reload().await;
    window.is_live().await;
    window.is_in("kitchen").await;
    let kept = window
        .run("return Object.values({ ...localStorage }).join()", vec![])
        .await;
    assert!(!kept.as_str().expect("a text").contains(good));
    assert!(!node.log().contains(good));
}

#[actix::test]
async fn a_token_is_renewed_for_as_long_as_there_is_another() {
    let node = Node::start(&[("ROOMCAST_JWT_SECRET", SECRET)]).await;
    let mut browser = Browser::start();
    let window = browser.open(&format!("{}/healthz", node.http_url())).await;
    window.run(ISSUER, vec![json!(SECRET)]).await;
    window
        .run(SHORT_LIVED, vec![json!(format!("{}/ws", node.ws_url()))])
        .await;
    // Longer than two tokens live.
    window.sees("run.reasons.length >= 6").await;
    let report = window
        .run(
            "return [run.client.state, run.errors, [...run.sessions].filter(Boolean).length, run.reasons]",
            vec![],
        )
        .await;
    let reasons = report[3].as_array().expect("a list");
    assert_eq!(report[0], "live");
    assert_eq!(report[1], json!([]));
    assert_eq!(report[2], 1, "it is one connection all the time");
    assert_eq!(reasons[0], "connect");
    assert!(reasons[1..].iter().all(|reason| reason == "renew"), "{reasons:?}");
    assert_eq!(
        window
            .run("return run.frames.some((text) => /eyJ/.test(text))", vec![])
            .await,
        Value::Bool(false)
    );
}
