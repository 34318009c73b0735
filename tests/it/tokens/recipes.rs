//! The recipes of docs/tokens.md, run as they stand there.

use std::process::Command;

use serde_json::{Value, json};

use super::{SECRET, code, recipe, server, subscribe};
use crate::support::client::Client;
use crate::support::node::{run_to_end, ws_url};

const PAGE: &str = include_str!("../../../docs/tokens.md");

/// The block of the page in this language.
fn block(language: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).expect("a block");
    rest.split_once("```").expect("its end").0
}

/// Checks that a token does what the page says of it.
async fn assert_good(token: &str) {
    let server = server(&[]);
    let url = format!("{}/ws?token={token}", ws_url(&server));
    let mut client = Client::connect(&url, &["roomcast.v1"]).await;
    assert_eq!(client.json().await["type"], "welcome");
    client.subscribe("lobby").await;
    client.subscribe("team-7-plans").await;
    assert_eq!(code(&mut client, subscribe("team-8-plans")).await, "forbidden");
    client.publish("lobby", "hi").await;
    let mut sender = Value::Null;
    while sender.is_null() {
        sender = client.json().await["sender"].take();
    }
    assert_eq!(sender, "ann");
    // It has an end, so it can be renewed with itself.
    let reply = client.call(json!({"type": "AUTH", "token": token})).await;
    let left = super::seconds_until(reply["expires"].as_f64().expect("an end") / 1_000.0);
    assert!((500.0..=600.0).contains(&left), "{reply}");
}

/// Runs a recipe and checks the token that it prints; on a machine that has no such interpreter there is nothing to run.
async fn run(program: &str, argument: &str, language: &str) {
    let mut command = Command::new(program);
    command
        .args([argument, block(language)])
        .env("ROOMCAST_JWT_SECRET", SECRET);
    if Command::new(program).arg("--version").output().is_err() {
        eprintln!("{program} is not there; its recipe was not run");
        return;
    }
    let (status, stdout, stderr) = run_to_end(command);
    assert!(status.success(), "{stderr}");
    assert_good(stdout.trim()).await;
}

#[actix::test]
async fn the_recipe_for_node_works() {
    run("node", "--eval", "js").await;
}

#[actix::test]
async fn the_recipe_for_python_works() {
    run("python3", "-c", "python").await;
}

#[actix::test]
async fn the_recipe_for_rust_works_and_is_the_one_on_the_page() {
    assert_good(&recipe::token(SECRET, "ann")).await;
    let source = include_str!("recipe.rs");
    let (_, source) = source.split_once("\n\n").expect("a head page");
    assert_eq!(block("rust"), source.replace("pub(super) ", ""));
}
