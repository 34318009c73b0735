//! Tokens on real sockets: who is let in, what they may do, until when, and that nobody else gets to see a token.

mod expiry;
mod handshake;
mod log;
mod recipe;
mod recipes;
mod session;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_test::TestServer;
use serde_json::{Value, json};

use crate::support::client::{Client, without_place};
use crate::support::node::{test_server, ws_url};
use crate::support::tokens::Signer;

const SECRET: &str = "a secret of more than thirty-two bytes";

fn signer() -> Signer {
    Signer::secret(SECRET)
}

/// A server that checks the tokens of [`signer`], with these settings beside.
fn server(variables: &[(&str, &str)]) -> TestServer {
    let mut all = vec![("ROOMCAST_JWT_SECRET", SECRET)];
    all.extend(variables);
    test_server(&all)
}

/// Seconds since 1970, so long from now.
fn seconds_from_now(seconds: f64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.as_secs_f64() + seconds
}

/// The time until a moment that [`seconds_from_now`] gave; negative if it is over.
fn seconds_until(moment: f64) -> f64 {
    moment - seconds_from_now(0.0)
}

/// The subprotocols of a v1 handshake with this token.
async fn connect_v1(url: &str, token: &str) -> Client {
    let entry = format!("roomcast.token.{token}");
    Client::connect(&format!("{url}/ws"), &["roomcast.v1", &entry]).await
}

/// A v1 session with a token of these claims, its welcome already read.
async fn v1(server: &TestServer, claims: &Value) -> Client {
    let mut client = connect_v1(&ws_url(server), &signer().sign(claims)).await;
    assert_eq!(client.json().await["type"], "welcome");
    client
}

/// A plain session with a token of these claims.
async fn plain(server: &TestServer, claims: &Value) -> Client {
    let token = signer().sign(claims);
    Client::connect(&format!("{}/ws?token={token}", ws_url(server)), &[]).await
}

/// A v1 session that has shown no token.
async fn stranger(url: &str) -> Client {
    Client::connect(&format!("{url}/ws"), &["roomcast.v1"]).await
}

/// Shows a token with these claims, and returns the answer.
async fn auth(client: &mut Client, claims: &Value) -> Value {
    let token = signer().sign(claims);
    client.call(json!({"type": "AUTH", "token": token})).await
}

/// The code of the error that this command is answered with.
async fn code(client: &mut Client, command: Value) -> String {
    let reply = client.call(command).await;
    assert_eq!(reply["type"], "error", "{reply}");
    assert!(
        reply["message"]
            .as_str()
            .is_some_and(|message| message.len() < 400),
        "{reply}"
    );
    reply["code"].as_str().expect("a code").to_owned()
}

fn subscribe(room: &str) -> Value {
    json!({"type": "SUBSCRIBE", "room": room})
}

fn publish(room: &str, message: &str) -> Value {
    json!({"type": "sendMessage", "room": room, "message": message})
}

/// Checks that the session gets answers, and that nothing else has come before this one.
async fn assert_served(client: &mut Client) {
    assert_eq!(client.call(json!({"type": "PING"})).await["type"], "pong");
}

/// Publishes to a room of which the session is a member, and returns the message that it hears.
async fn hear_oneself(client: &mut Client, room: &str) -> Value {
    client.publish(room, "hello").await;
    let (mut message, mut frames) = (Value::Null, 0);
    while frames < 2 {
        let frame = client.json().await;
        frames += 1;
        if frame["type"] == "message" {
            message = without_place(frame);
        } else {
            assert_eq!(frame["type"], "sent", "{frame}");
        }
    }
    message
}

const SECOND: Duration = Duration::from_secs(1);
