//! Invitations: how the page makes them, and how it takes them.

use serde_json::json;

use super::{own, theirs};
use crate::support::browser::Browser;
use crate::support::node::Node;

/// What `encodeURIComponent` is for.
const ROOM: &str = "küche <b>&/#?= 100%";
const ENCODED: &str = "k%C3%BCche%20%3Cb%3E%26%2F%23%3F%3D%20100%25";

/// Keeps what is written to the clipboard, which a test's browser would not show.
const CLIPBOARD: &str = "Object.defineProperty(navigator, 'clipboard', \
    { value: { writeText: async (text) => { window.copied = text; } } })";

#[actix::test]
async fn an_invitation_is_copied_and_leads_a_guest_into_the_room_once_there_is_a_name() {
    let node = Node::start(&[]).await;
    let link = format!("{}/#room={ENCODED}", node.http_url());
    let mut browser = Browser::start();
    let ann = browser.open(&node.http_url()).await;
    ann.rename("Ann").await;
    ann.join(ROOM).await;
    ann.run(CLIPBOARD, vec![]).await;
    ann.click("invite").await;
    ann.sees_with("window.copied === arguments[0]", vec![json!(link)])
        .await;
    ann.sees("document.getElementById('invite').textContent === 'Copied'")
        .await;

    let guest = browser.open(&link).await;
    guest.find("invitation").await;
    assert_eq!(guest.texts("invitation-room").await, [ROOM]);
    guest.has_rooms(&[]).await;
    guest.click("accept").await;
    guest
        .sees("document.querySelector('[data-testid=guest-error]').textContent === 'Please choose a name.'")
        .await;
    guest.fill("guest-name", "<b>Ben</b>").await;
    guest.click("accept").await;
    guest.is_in(ROOM).await;
    guest.say("Here I am.").await;
    ann.shows(&[theirs("<b>Ben</b>", "Here I am.")]).await;
    // Who has a name is not asked again, and neither is who follows a link in an open page.
    guest.run("location.hash = '#room=garden'", vec![]).await;
    guest.is_in("garden").await;
    for window in [ann, guest] {
        assert_eq!(window.console().await, Vec::<String>::new());
    }
}

#[actix::test]
async fn without_a_clipboard_the_invitation_is_shown_to_be_copied() {
    let node = Node::start(&[]).await;
    let mut browser = Browser::start();
    let window = browser.open(&node.http_url()).await;
    window.resize(320, 568).await;
    window.join(ROOM).await;
    window.fits().await;
    window
        .run(
            "Object.defineProperty(navigator, 'clipboard', { value: undefined })",
            vec![],
        )
        .await;
    window.click("invite").await;
    window.find("invite-link").await;
    window.fits().await;
    let selected = "(({ value, selectionStart, selectionEnd }) => value.slice(selectionStart, selectionEnd)) \
        (document.querySelector('[data-testid=invite-link]'))";
    let link = format!("{}/#room={ENCODED}", node.http_url());
    window
        .sees_with(&format!("{selected} === arguments[0]"), vec![json!(link)])
        .await;
    window.click("invite-close").await;
    window
        .sees("document.activeElement.dataset.testid === 'invite'")
        .await;
}

#[actix::test]
async fn a_guest_may_stay_without_a_name_or_give_it_where_everybody_does() {
    let node = Node::start(&[]).await;
    let link = format!("{}/#room=kitchen", node.http_url());
    let mut browser = Browser::start();
    let nameless = browser.open(&link).await;
    nameless.resize(320, 568).await;
    nameless.fits().await;
    nameless.click("guest-anonymous").await;
    nameless.is_in("kitchen").await;
    nameless.say("hello").await;
    nameless.shows(&[own("anonymous", "hello")]).await;

    let named = browser.open(&link).await;
    named.find("invitation").await;
    // Not forgotten with the page.
    named.reload().await;
    named.find("invitation").await;
    named.rename("Cat").await;
    named.is_in("kitchen").await;
    named.sees("document.getElementById('invitation').hidden").await;
}
