//! The recipes of docs/api.md for publishing from a back end, run as they stand there.

use std::process::Command;

use serde_json::json;

use super::{Site, TOKEN};
use crate::support::client::Client;
use crate::support::node::run_to_end;

const PAGE: &str = include_str!("../../../docs/api.md");

/// Runs the page's block in this language and hears what it publishes; on a machine that has no such interpreter there is
/// nothing to run.
async fn run(program: &str, arguments: &[&str], language: &str) {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).expect("a block");
    let block = rest.split_once("```").expect("its end").0;
    if Command::new(program).arg("--version").output().is_err() {
        eprintln!("{program} is not there; its recipe was not run");
        return;
    }
    let site = Site::embedded(&[]).await;
    let mut listener = Client::v1(&site.first().ws_url()).await;
    listener.subscribe("orders").await;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(block)
        .env("ROOMCAST", site.first().http_url())
        .env("TOKEN", TOKEN);
    let (status, _, stderr) = run_to_end(command);
    assert!(status.success(), "{stderr}");
    let heard = listener.json().await;
    assert_eq!(heard["message"], json!({"order": 17, "state": "paid"}));
    assert_eq!((&heard["room"], &heard["offset"]), (&json!("orders"), &json!(1)));
}

#[actix::test]
async fn the_recipe_for_node_publishes() {
    run("node", &["--input-type=module", "--eval"], "js").await;
}

#[actix::test]
async fn the_recipe_for_python_publishes() {
    run("python3", &["-c"], "python").await;
}
