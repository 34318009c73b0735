//! The demo page in a real browser, against a real node.
//!
//! - What a user sees is asked of the page by its `data-testid`s; what a user does is done with keys and clicks.
//! - Where a second person is only there to be heard, a client of the tests' own plays it.

mod client;
mod history;
mod people;
mod presence;
mod rolling;
mod tokens;

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use crate::support::browser::{BROWSER_PATIENCE, Browser, Window};
use crate::support::client::Client;
use crate::support::node::Node;
use crate::support::proxy::Proxy;
use crate::support::{eventually, free_port};

const ENTER: &str = "\u{e007}";

/// A name of one byte more than a room may have.
const LONG_NAME: &str = concat!(
    "0123456789012345678901234567890123456789012345678901234567890123",
    "0123456789012345678901234567890123456789012345678901234567890123",
    "0123456789012345678901234567890123456789012345678901234567890123",
    "0123456789012345678901234567890123456789012345678901234567890123",
);

#[actix::test]
async fn two_people_in_two_windows_talk_and_the_console_stays_clean() {
    let node = Node::start(&[]).await;
    let mut browser = Browser::start();
    let ann = browser.open(&node.http_url()).await;
    let ben = browser.open(&node.http_url()).await;
    ann.rename("Ann").await;
    ben.rename("Ben").await;
    ann.join("kitchen").await;
    ben.join("kitchen").await;

    ann.say("Is anybody here?").await;
    ben.shows(&[theirs("Ann", "Is anybody here?")]).await;
    ben.say("I am.").await;
    ann.shows(&[own("Ann", "Is anybody here?"), theirs("Ben", "I am.")])
        .await;
    ben.say("And hungry.").await;
    ann.say("Soup is ready.").await;
    // Which of the two came first is the room's to say, and both are told the same.
    let texts = ["And hungry.", "Soup is ready."];
    eventually("both messages, in one order", async || {
        let (at_ann, at_ben) = (ann.texts("text").await, ben.texts("text").await);
        let complete = at_ann.len() == 4 && texts.iter().all(|text| at_ann.iter().any(|shown| shown == text));
        (complete && at_ann == at_ben).then_some(())
    })
    .await;

    ann.click("leave").await;
    ann.sees("document.querySelectorAll('[data-testid=room-tab]').length === 0")
        .await;
    ben.say("Ann?").await;
    ben.sees("document.querySelectorAll('[data-testid=message]').length === 5")
        .await;
    ann.join("kitchen").await;
    ann.sees("document.querySelectorAll('[data-testid=message]').length === 5")
        .await;
    ben.say("There you are.").await;
    eventually("the same at both", async || {
        let (at_ann, at_ben) = (ann.texts("text").await, ben.texts("text").await);
        (at_ann.len() == 6 && at_ann == at_ben).then_some(())
    })
    .await;

    assert_eq!(ann.console().await, Vec::<String>::new());
    assert_eq!(ben.console().await, Vec::<String>::new());
    // It would have been seen: the page may not even run a script that it contains itself.
    let inline =
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = true'}))";
    ann.run(inline, vec![]).await;
    eventually("a violation of the page's policy", async || {
        let console = ann.console().await.join("");
        console.contains("Content Security Policy").then_some(())
    })
    .await;
    assert_eq!(ann.run("return window.ran ?? null", vec![]).await, json!(null));
}

/// Of the package of the client, which lies beside the page.
const NOT_OF_THE_PAGE: [&str; 2] = ["/README.md", "/package.json"];

#[actix::test]
async fn every_file_of_the_page_is_in_the_program() {
    let node = Node::start(&[]).await;
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/static")).expect("a directory") {
        let name = file.expect("an entry").file_name();
        let path = match name.to_str().expect("UTF-8") {
            "index.html" => "/".to_owned(),
            name => format!("/{name}"),
        };
        let status = if NOT_OF_THE_PAGE.contains(&path.as_str()) {
            404
        } else {
            200
        };
        assert_eq!(node.get(&path).await.0, status, "{path}");
    }
}

#[actix::test]
async fn messages_of_another_room_are_counted_until_it_is_looked_at() {
    let node = Node::start(&[]).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.join("kitchen").await;
    window.join("garden").await;
    let mut other = named(&node.ws_url(), "Ben").await;
    other.publish("kitchen", "one").await;
    other.publish("kitchen", "two").await;
    other.publish("garden", "sunny").await;

    window.shows(&[theirs("Ben", "sunny")]).await;
    window.has_unread("kitchen", Some("2")).await;
    window.has_unread("garden", None).await;
    window.sees("document.title.startsWith('(2) garden')").await;
    window.look_at("kitchen").await;
    window.shows(&[theirs("Ben", "one"), theirs("Ben", "two")]).await;
    window.has_unread("kitchen", None).await;
    window.sees("document.title.startsWith('kitchen')").await;
}

#[actix::test]
async fn markup_in_messages_and_names_is_shown_as_text() {
    const MARKUP: &str =
        "<img src=x onerror=\"window.ran = true\"><b>bold</b><script>window.ran = true</script>";
    let node = Node::start(&[]).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.rename(MARKUP).await;
    window.join(MARKUP).await;
    window.say(MARKUP).await;
    window.shows(&[own(MARKUP, MARKUP)]).await;
    let mut other = named(&node.ws_url(), "%3Cb%3EBen%3C%2Fb%3E").await;
    other.publish(MARKUP, MARKUP).await;
    window
        .shows(&[own(MARKUP, MARKUP), theirs("<b>Ben</b>", MARKUP)])
        .await;
    other.publish(MARKUP, json!({ "html": MARKUP })).await;
    window
        .sees("document.querySelectorAll('[data-testid=message]').length === 3")
        .await;

    window.click("frames-toggle").await;
    window.find("frame").await;
    let made = "document.body.querySelectorAll('b, script, img:not([src=\"/favicon.svg\"])').length";
    assert_eq!(window.run(&format!("return {made}"), vec![]).await, 0);
    assert_eq!(window.run("return window.ran ?? null", vec![]).await, json!(null));
    assert_eq!(window.console().await, Vec::<String>::new());
}

#[actix::test]
async fn a_room_that_is_left_is_heard_no_more() {
    let node = Node::start(&[]).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.join("kitchen").await;
    window.join("garden").await;
    window.click("leave").await;
    window.has_rooms(&["kitchen"]).await;
    eventually("a node without the room", async || {
        (node.metric("roomcast_rooms").await == 1).then_some(())
    })
    .await;

    let mut other = named(&node.ws_url(), "Ben").await;
    other.publish("garden", "unheard").await;
    other.publish("kitchen", "heard").await;
    window.shows(&[theirs("Ben", "heard")]).await;
    // It is forgotten for good, and not only hidden.
    window.reload().await;
    window.is_in("kitchen").await;
    window.has_rooms(&["kitchen"]).await;
}

#[actix::test]
async fn a_node_that_was_killed_is_found_again_once_it_is_back() {
    let port = free_port().to_string();
    let start = async || Node::start(&[("PORT", &port)]).await;
    let node = start().await;
    let mut browser = Browser::start();
    let ann = browser.open(&node.http_url()).await;
    let ben = browser.open(&node.http_url()).await;
    ann.rename("Ann").await;
    ben.rename("Ben").await;
    for window in [&ann, &ben] {
        window.join("garden").await;
        window.join("kitchen").await;
    }
    ann.say("before").await;
    ben.shows(&[theirs("Ann", "before")]).await;
    ann.shows(&[own("Ann", "before")]).await;

    drop(node);
    for window in [&ann, &ben] {
        window.is_reconnecting().await;
        window.is_out_of("kitchen").await;
    }
    ann.say("meanwhile").await;
    ann.shows(&[own("Ann", "before"), pending("Ann", "meanwhile")])
        .await;

    let _node = start().await;
    for window in [&ann, &ben] {
        window.is_live().await;
        window.is_in("kitchen").await;
        window.is_in("garden").await;
    }
    ben.shows(&[theirs("Ann", "before"), theirs("Ann", "meanwhile")])
        .await;
    ben.say("after").await;
    ann.shows(&[
        own("Ann", "before"),
        own("Ann", "meanwhile"),
        theirs("Ben", "after"),
    ])
    .await;
    ben.look_at("garden").await;
    ben.say("sunny").await;
    ann.has_unread("garden", Some("1")).await;
}

#[actix::test]
async fn a_connection_that_is_cut_is_replaced() {
    let node = Node::start(&[]).await;
    let proxy = Proxy::start(node.address()).await;
    let mut browser = Browser::start();
    let window = browser.open(&proxy.http_url()).await;
    let mut other = named(&node.ws_url(), "Ben").await;
    window.rename("Ann").await;
    window.join("kitchen").await;

    proxy.cut();
    window.is_reconnecting().await;
    window.is_out_of("kitchen").await;
    eventually("a node that has noticed", async || {
        (node.metric("roomcast_sessions").await == 1).then_some(())
    })
    .await;
    proxy.resume();
    window.is_live().await;
    window.is_in("kitchen").await;
    other.publish("kitchen", "welcome back").await;
    window.shows(&[theirs("Ben", "welcome back")]).await;
    window.say("here I am").await;
    window
        .shows(&[theirs("Ben", "welcome back"), own("Ann", "here I am")])
        .await;
}

#[actix::test]
async fn a_connection_that_has_gone_dead_is_noticed_and_replaced() {
    let node = Node::start(&[("ROOMCAST_HEARTBEAT", "1")]).await;
    let proxy = Proxy::start(node.address()).await;
    let mut browser = Browser::start();
    let window = browser.open(&proxy.http_url()).await;
    window.rename("Ann").await;
    window.join("kitchen").await;
    let accepted = proxy.accepted();

    // Nothing closes the socket, and what the node says about it does not get through.
    proxy.stall();
    window.is_reconnecting().await;
    eventually("another connection", async || {
        (proxy.accepted() > accepted).then_some(())
    })
    .await;
    proxy.resume();
    window.is_live().await;
    window.is_in("kitchen").await;
    let mut other = named(&node.ws_url(), "Ben").await;
    other.publish("kitchen", "welcome back").await;
    window.shows(&[theirs("Ben", "welcome back")]).await;
    window.say("here I am").await;
    window
        .shows(&[theirs("Ben", "welcome back"), own("Ann", "here I am")])
        .await;
}

#[actix::test]
async fn a_quiet_connection_is_left_alone() {
    let node = Node::start(&[("ROOMCAST_HEARTBEAT", "1")]).await;
    let proxy = Proxy::start(node.address()).await;
    let mut browser = Browser::start();
    let window = browser.open(&proxy.http_url()).await;
    window.join("kitchen").await;
    window.click("frames-toggle").await;
    let accepted = proxy.accepted();
    // Two questions about its life, answered, are longer than a mute peer is kept by either side.
    let pongs = "[...document.querySelectorAll('[data-testid=frame]')] \
        .filter((frame) => frame.textContent.includes('\"pong\"')).length";
    window.sees(&format!("{pongs} >= 2")).await;
    window.is_live().await;
    assert_eq!(proxy.accepted(), accepted);
}

#[actix::test]
async fn a_room_that_cannot_be_joined_is_refused_at_the_form() {
    let node = Node::start(&[("ROOMCAST_MAX_ROOMS", "1")]).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.is_live().await;
    // By the page itself.
    window.fill("room-input", &format!("{LONG_NAME}{ENTER}")).await;
    window.has_join_error("at most 255 bytes").await;
    window.has_rooms(&[]).await;
    // The mistake is forgotten when it is mended.
    window.join(&LONG_NAME[1..]).await;
    assert_eq!(window.texts("join-error").await, [""]);
    // By the node.
    window.fill("room-input", &format!("garden{ENTER}")).await;
    window.has_join_error("Cannot join “garden”").await;
    window.has_rooms(&[&LONG_NAME[1..]]).await;
    window.say("still works").await;
    window.shows(&[own("anonymous", "still works")]).await;
}

#[actix::test]
async fn a_message_that_is_too_long_fails_where_it_stands() {
    let node = Node::start(&[("ROOMCAST_MAX_MESSAGE", "100")]).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.join("kitchen").await;
    let fits = "x".repeat(100);
    let refused = "y".repeat(101);
    // So long that the node does not even read it, and closes the connection.
    let unread = "z".repeat(6 * 100 + 4096 + 1);

    window.say(&fits).await;
    window.say(&refused).await;
    window
        .shows(&[own("anonymous", &fits), failed("anonymous", &refused)])
        .await;
    let error = window.texts("send-error").await.join("");
    assert!(error.starts_with("Too long to send."), "{error}");

    window.paste(&unread).await;
    window
        .shows(&[
            own("anonymous", &fits),
            failed("anonymous", &refused),
            failed("anonymous", &unread),
        ])
        .await;
    let errors = window.texts("send-error").await;
    assert!(errors[1].starts_with("Too long to send."), "{errors:?}");
    window.is_live().await;
    window.is_in("kitchen").await;

    window.click("discard").await;
    window
        .shows(&[own("anonymous", &fits), failed("anonymous", &unread)])
        .await;
    window.click("edit").await;
    window.shows(&[own("anonymous", &fits)]).await;
    window.say("shorter").await;
    window
        .shows(&[own("anonymous", &fits), own("anonymous", "shorter")])
        .await;
}

#[actix::test]
async fn on_a_phone_everything_is_within_reach() {
    let node = Node::start(&[("ROOMCAST_MAX_MESSAGE", "1000")]).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.resize(360, 640).await;
    window.fits().await;
    window.click("join-lobby").await;
    window.is_in("lobby").await;
    window.fits().await;
    window.rename("Ann").await;
    window.join(&LONG_NAME[1..]).await;
    window.fits().await;

    let word = "x".repeat(900);
    let mut other = named(&node.ws_url(), &"n".repeat(128)).await;
    other.publish(&LONG_NAME[1..], word.as_str()).await;
    other.publish(&LONG_NAME[1..], json!({ "key": word })).await;
    other.publish("lobby", "hello").await;
    window.has_unread("lobby", Some("1")).await;
    window
        .sees("document.querySelectorAll('[data-testid=message]').length === 2")
        .await;
    window.fits().await;
    window.paste(&"y".repeat(1001)).await;
    window.find("send-error").await;
    window.fits().await;
    window.fill("composer", "sent with the button").await;
    window.click("send").await;
    window
        .sees("document.querySelectorAll('[data-testid=message][data-state=sent]').length === 1")
        .await;
    window.click("frames-toggle").await;
    window.fits().await;
    window.click("frames-close").await;

    drop(node);
    window.find("retry").await;
    window.fits().await;
}

#[actix::test]
async fn above_a_phones_keyboard_buttons_stay_where_they_are_pressed() {
    let node = Node::start(&[]).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.resize(360, 420).await;
    window.join("garden").await;
    window.click("log").await;
    window.join("kitchen").await;
    window.fill("composer", "by button").await;
    // While a message is written, the fields make room for it.
    window
        .sees("document.querySelector('[data-testid=name]').offsetParent === null")
        .await;
    window.click("send").await;
    window.shows(&[own("anonymous", "by button")]).await;
    window.click("room-tab").await;
    window.shows(&[]).await;
    window.fill("composer", "a draft").await;
    window.click("leave").await;
    window.has_rooms(&["kitchen"]).await;
    window.click("composer").await;
    window.click("leave").await;
    window.has_rooms(&[]).await;
    window
        .sees("document.activeElement.dataset.testid === 'room-input'")
        .await;
}

/// What users do on the page.
impl Window {
    async fn is_live(&self) {
        self.has_state("live").await;
    }

    async fn is_reconnecting(&self) {
        self.has_state("reconnecting").await;
    }

    async fn has_state(&self, state: &str) {
        let shown = "document.querySelector('[data-testid=status]').dataset.state === arguments[0]";
        self.sees_with(shown, vec![state.into()]).await;
    }

    /// Takes a name, which opens a new connection.
    async fn rename(&self, name: &str) {
        self.fill("name", &format!("{name}{ENTER}")).await;
        self.is_live().await;
    }

    async fn join(&self, room: &str) {
        self.fill("room-input", room).await;
        self.click("join").await;
        self.is_in(room).await;
    }

    async fn is_in(&self, room: &str) {
        let shown = format!("{TAB_OF_ROOM}?.dataset.membership === 'joined'");
        self.sees_with(&shown, vec![room.into()]).await;
    }

    async fn is_out_of(&self, room: &str) {
        let shown = format!("{TAB_OF_ROOM}?.dataset.membership === 'joining'");
        self.sees_with(&shown, vec![room.into()]).await;
    }

    async fn has_rooms(&self, rooms: &[&str]) {
        let shown = "[...document.querySelectorAll('[data-testid=room-tab]')] \
            .map((tab) => tab.dataset.room).join('\\n') === arguments[0]";
        self.sees_with(shown, vec![rooms.join("\n").into()]).await;
    }

    async fn look_at(&self, room: &str) {
        let click = format!("{TAB_OF_ROOM}.click()");
        self.run(&click, vec![room.into()]).await;
    }

    async fn has_join_error(&self, part: &str) {
        let shown = "document.querySelector('[data-testid=join-error]').textContent.includes(arguments[0])";
        self.sees_with(shown, vec![part.into()]).await;
    }

    async fn say(&self, text: &str) {
        self.fill("composer", &format!("{text}{ENTER}")).await;
    }

    /// [`Window::say`] for texts that take too long to type.
    async fn paste(&self, text: &str) {
        let field = self.find("composer").await;
        let paste = "document.querySelector('[data-testid=composer]').value = arguments[0]";
        self.run(paste, vec![text.into()]).await;
        field.send_keys(ENTER).await.expect("an editable field");
    }

    /// Waits until exactly these messages are shown in the room that is looked at.
    async fn shows(&self, expected: &[Shown]) {
        let script = "return [...document.querySelectorAll('[data-testid=message]')].map((message) => ({ \
            sender: message.querySelector('[data-testid=sender]').textContent, \
            text: message.querySelector('[data-testid=text]').textContent, \
            own: message.dataset.own === 'true', state: message.dataset.state}))";
        let deadline = Instant::now() + BROWSER_PATIENCE;
        loop {
            let shown: Vec<Shown> = serde_json::from_value(self.run(script, vec![]).await).expect("messages");
            if shown == expected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{expected:#?} was awaited and this is shown: {shown:#?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until this stands at the room's tab, leaving out the word that only screen readers get.
    async fn has_unread(&self, room: &str, count: Option<&str>) {
        let badge = format!("{TAB_OF_ROOM}.querySelector('[data-testid=unread]')");
        let shown = format!("({badge}.hidden ? null : {badge}.firstChild.textContent) === arguments[1]");
        self.sees_with(&shown, vec![room.into(), count.into()]).await;
    }

    /// Checks that nothing sticks out at the side: neither the page nor an element that its box does not scroll or cut.
    async fn fits(&self) {
        let script = "const scrolls = (element) => element !== null \
                && (getComputedStyle(element).overflowX !== 'visible' || scrolls(element.parentElement)); \
            const out = [...document.body.querySelectorAll('*')].filter((element) => { \
                const {left, right, width} = element.getBoundingClientRect(); \
                return width > 0 && (left < -0.5 || right > innerWidth + 0.5) && !scrolls(element.parentElement); \
            }).map((element) => `${element.tagName} ${element.id} ${element.className}`); \
            const wide = document.documentElement.scrollWidth; \
            return wide > innerWidth ? [`the page: ${wide}`, ...out] : out";
        assert_eq!(self.run(script, vec![]).await, json!([]));
    }
}

/// The tab of the room `arguments[0]`.
const TAB_OF_ROOM: &str = "[...document.querySelectorAll('[data-testid=room-tab]')] \
    .find((tab) => tab.dataset.room === arguments[0])";

/// A message as the page shows it.
#[derive(Debug, PartialEq, Deserialize)]
struct Shown {
    sender: String,
    text: String,
    own: bool,
    state: String,
}

fn shown(sender: &str, text: &str, own: bool, state: &str) -> Shown {
    Shown {
        sender: sender.to_owned(),
        text: text.to_owned(),
        own,
        state: state.to_owned(),
    }
}

fn own(sender: &str, text: &str) -> Shown {
    shown(sender, text, true, "sent")
}

fn pending(sender: &str, text: &str) -> Shown {
    shown(sender, text, true, "sending")
}

fn failed(sender: &str, text: &str) -> Shown {
    shown(sender, text, true, "failed")
}

fn theirs(sender: &str, text: &str) -> Shown {
    shown(sender, text, false, "received")
}

/// A `roomcast.v1` session with a name, which is part of a URL.
async fn named(ws_url: &str, name: &str) -> Client {
    let mut client = Client::connect(&format!("{ws_url}/ws?user={name}"), &["roomcast.v1"]).await;
    assert_eq!(client.json().await["type"], "welcome");
    client
}
