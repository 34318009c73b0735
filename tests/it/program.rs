//! The program as operators see it: its command line, its settings, its signals.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, ExitStatus};

use roomcast::config::SETTINGS;

use crate::support::client::Client;
use crate::support::node::{Node, run_program, run_to_end};
use crate::support::raw::Request;
use crate::support::{eventually, free_port};

/// A secret that must never be shown.
const SECRET: &str = "hunter2";

/// Runs the program with settings that it cannot use, and checks that it says so as it should: in one line, which is
/// returned.
fn refusal(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let (status, stdout, stderr) = run_program(arguments, variables);
    refusal_in(&format!("{arguments:?} {variables:?}"), status, &stdout, &stderr)
}

fn refusal_in(what: &str, status: ExitStatus, stdout: &str, stderr: &str) -> String {
    assert_eq!(status.code(), Some(2), "{what}: {status}, {stderr:?}");
    assert_eq!(stdout, "", "{what}");
    assert!(
        stderr.ends_with('\n') && stderr.lines().count() == 1,
        "{what}: {stderr:?} is not one line"
    );
    stderr.to_owned()
}

/// A value that each setting refuses.
const BAD_VALUES: &[(&str, &str)] = &[
    ("PORT", "65536"),
    ("HOST", "not a host"),
    ("ROOMCAST_WORKERS", "0"),
    ("ROOMCAST_REDIS_PREFIX", "a\tb"),
    ("ROOMCAST_REDIS_CA", "/nonexistent/ca.pem"),
    ("ROOMCAST_REDIS_INSECURE", "maybe"),
    ("ROOMCAST_HISTORY_SIZE", "-1"),
    ("ROOMCAST_HISTORY_TTL", "0"),
    ("ROOMCAST_KEY_TTL", "1.5"),
    ("ROOMCAST_MAX_MESSAGE", "0"),
    ("ROOMCAST_MAX_BACKLOG", "12"),
    ("ROOMCAST_MAX_ROOMS", "none"),
    ("ROOMCAST_MAX_CONNECTIONS", "0"),
    ("ROOMCAST_RATE", "-5"),
    ("ROOMCAST_HEARTBEAT", "0"),
    ("ROOMCAST_DRAIN", "25s"),
    ("ROOMCAST_ALLOWED_ORIGINS", "chat.example"),
    ("ROOMCAST_JWT_ISSUER", "a\tb"),
    ("ROOMCAST_JWT_AUDIENCE", "a\tb"),
    ("ROOMCAST_CONFORMANCE", "yes"),
    ("RUST_LOG", "roomcast=loud"),
];

// ---- What it says

#[actix::test]
async fn the_banner_says_where_it_serves_and_which_broker_it_uses() {
    let node = Node::start(&[]).await;
    let banner = node.banner();
    assert!(
        banner.contains(&format!("http://{}/", node.address())),
        "{banner}"
    );
    assert!(banner.contains("embedded"), "{banner}");
    assert!(banner.contains(env!("CARGO_PKG_VERSION")), "{banner}");
    assert!(banner.ends_with('\n'), "{banner:?}");

    let port = free_port();
    let url = format!("redis://user:{SECRET}@127.0.0.1:{port}/0");
    let node = Node::start(&[("REDIS_URL", &url)]).await;
    let banner = node.banner();
    assert!(
        banner.contains(&format!("127.0.0.1:{port}")) && banner.contains("Redis"),
        "{banner}"
    );
    assert!(!banner.contains(SECRET), "{banner}");
    assert!(!banner.contains("embedded"), "{banner}");
}

#[actix::test]
async fn a_node_without_its_redis_serves_says_so_and_keeps_its_password_to_itself() {
    let url = format!("redis://:{SECRET}@127.0.0.1:{}", free_port());
    let node = Node::start(&[("REDIS_URL", &url), ("RUST_LOG", "roomcast=trace")]).await;
    assert_eq!(node.get("/healthz").await.0, 200);
    let (status, reason) = node.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(!reason.trim().is_empty());
    eventually("a log line about Redis", async || {
        node.log().contains("edis").then_some(())
    })
    .await;
    assert!(
        !node.log().contains(SECRET) && !reason.contains(SECRET),
        "{}",
        node.log()
    );
}

#[test]
fn help_lists_every_setting_with_its_group_default_and_variable() {
    for argument in ["--help", "-h"] {
        let (status, help, stderr) = run_program(&[argument], &[]);
        assert!(status.success() && stderr.is_empty(), "{stderr}");
        // Lines are wrapped to the terminal.
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in SETTINGS {
            assert!(
                words.contains(setting.variable),
                "{} is not in {help}",
                setting.variable
            );
            let Some(flag) = setting.flag() else { continue };
            assert!(
                help.contains(&format!("\n{}:\n", setting.group)),
                "{} is not in {help}",
                setting.group
            );
            let at = words
                .find(&format!("--{flag} <"))
                .unwrap_or_else(|| panic!("--{flag} is not in {help}"));
            let entry = &words[at..];
            let variable = format!("[env: {}]", setting.variable);
            let end = entry
                .find(&variable)
                .unwrap_or_else(|| panic!("{variable} is not in {help}"));
            assert!(
                !entry[2..end].contains(" --"),
                "{variable} does not belong to --{flag}"
            );
            if !setting.default.is_empty() {
                let default = format!("[default: {}]", setting.default);
                assert!(
                    entry[..end].contains(&default),
                    "{default} of --{flag} is not in {help}"
                );
            }
        }
    }
}

#[test]
fn the_version_is_told() {
    let (status, version, _) = run_program(&["--version"], &[]);
    assert!(status.success());
    assert_eq!(version, format!("roomcast {}\n", env!("CARGO_PKG_VERSION")));
}

// ---- Settings

#[test]
fn a_bad_value_stops_the_start_with_one_line_that_says_all() {
    for (variable, value) in BAD_VALUES {
        let line = refusal(&[], &[(variable, value)]);
        assert!(line.contains(variable), "{line}");
        assert!(
            line.contains(&value.escape_debug().to_string()),
            "{value:?} is not in {line}"
        );
        assert!(line.contains("allowed"), "{line} does not say what is allowed");
    }
}

#[test]
fn every_open_setting_refuses_something() {
    for setting in SETTINGS.iter().filter(|setting| !setting.secret) {
        let is_tried = BAD_VALUES
            .iter()
            .any(|(variable, _)| *variable == setting.variable);
        assert!(is_tried, "{} is not tried", setting.variable);
    }
}

#[test]
fn a_bad_value_of_a_flag_is_refused_alike() {
    for (variable, value) in BAD_VALUES {
        let setting = SETTINGS.iter().find(|setting| setting.variable == *variable);
        let flag = setting.and_then(|setting| setting.flag()).expect("a flag");
        let line = refusal(&[&format!("--{flag}"), value], &[]);
        assert!(
            line.contains(variable) || line.contains(&format!("--{flag}")),
            "{line}"
        );
        assert!(line.contains("allowed"), "{line} does not say what is allowed");
    }
}

#[test]
fn numbers_are_whole_and_within_their_ranges() {
    for variable in [
        "PORT",
        "ROOMCAST_MAX_MESSAGE",
        "ROOMCAST_HEARTBEAT",
        "ROOMCAST_RATE",
    ] {
        for value in ["x", "-1", "1.0", "1e3", "0x10", "99999999999999999999999", "١"] {
            let line = refusal(&[], &[(variable, value)]);
            assert!(line.contains(variable) && line.contains(value), "{line}");
        }
    }
}

#[test]
fn a_bad_value_with_line_breaks_still_takes_one_line() {
    let mut problems = Vec::new();
    for (variable, _) in BAD_VALUES {
        let (status, _, stderr) = run_program(&[], &[(variable, "8\n0=\u{1b}[31m!")]);
        assert_eq!(status.code(), Some(2), "{variable}: {stderr}");
        // An escape character is for a terminal to interpret.
        if stderr.lines().count() != 1 || stderr.contains('\u{1b}') || !stderr.contains(variable) {
            problems.push(stderr);
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn a_value_that_is_not_utf8_is_refused_and_does_not_count_as_unset() {
    let mut problems = Vec::new();
    for setting in SETTINGS {
        let mut program = Command::new(env!("CARGO_BIN_EXE_roomcast"));
        program
            .env_clear()
            .envs([("HOST", "127.0.0.1"), ("PORT", "0")])
            // It is checked last: where the value is passed over, this ends the program all the same.
            .env("RUST_LOG", "roomcast=loud")
            .env(setting.variable, OsStr::from_bytes(b"hunter2\xff"));
        let (status, stdout, stderr) = run_to_end(program);
        let line = refusal_in(setting.variable, status, &stdout, &stderr);
        if !line.starts_with(&format!("roomcast: {}", setting.variable)) {
            problems.push(setting.variable);
        }
        assert!(
            !setting.secret || !line.contains(SECRET),
            "a secret is shown: {line}"
        );
    }
    assert!(problems.is_empty(), "passed over: {problems:?}");
}

/// Looks like a key, and is none.
const NO_KEY: &str = "-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----";

/// Secrets that are refused: the variable that has to be named, and what is set. `DIR` has the files `good`, which
/// contains [`SECRET`], and `empty`.
const BAD_SECRETS: &[(&str, &[(&str, &str)])] = &[
    ("REDIS_URL", &[("REDIS_URL", "http://:hunter2@127.0.0.1")]),
    ("REDIS_URL", &[("REDIS_URL", "hunter2")]),
    ("REDIS_URL", &[("REDIS_URL", "redis://:hunter2@")]),
    ("REDIS_URL", &[("REDIS_URL", "redis://:hunter2@:6379")]),
    ("REDIS_URL", &[("REDIS_URL", "redis://:hunter2@127.0.0.1:99999")]),
    ("REDIS_URL", &[("REDIS_URL", "redis://:hunter2@127.0.0.1:port")]),
    ("REDIS_URL", &[("REDIS_URL", "redis://:hunter2@127.0.0.1/first")]),
    ("REDIS_URL", &[("REDIS_URL_FILE", "DIR/good")]),
    (
        "REDIS_URL",
        &[
            ("REDIS_URL", "redis://:hunter2@127.0.0.1"),
            ("REDIS_URL_FILE", "DIR/good"),
        ],
    ),
    (
        "ROOMCAST_JWT_PUBLIC_KEY",
        &[("ROOMCAST_JWT_PUBLIC_KEY", "hunter2")],
    ),
    (
        "ROOMCAST_JWT_PUBLIC_KEY",
        &[("ROOMCAST_JWT_PUBLIC_KEY_FILE", "DIR/good")],
    ),
    (
        "ROOMCAST_JWT_SECRET",
        &[("ROOMCAST_JWT_SECRET_PREVIOUS", "hunter2")],
    ),
    // Who knows a public key could sign with it.
    ("ROOMCAST_JWT_SECRET", &[("ROOMCAST_JWT_SECRET", NO_KEY)]),
    ("ROOMCAST_JWT_PUBLIC_KEY", &[("ROOMCAST_JWT_PUBLIC_KEY", NO_KEY)]),
    (
        "ROOMCAST_JWT_PUBLIC_KEY_PREVIOUS",
        &[
            ("ROOMCAST_JWT_PUBLIC_KEY", include_str!("../keys/rsa.pub.pem")),
            ("ROOMCAST_JWT_PUBLIC_KEY_PREVIOUS", NO_KEY),
        ],
    ),
    (
        "ROOMCAST_API_TOKEN",
        &[("ROOMCAST_API_TOKEN_FILE", "DIR/missing")],
    ),
    ("ROOMCAST_API_TOKEN", &[("ROOMCAST_API_TOKEN_FILE", "DIR/empty")]),
    (
        "ROOMCAST_METRICS_TOKEN",
        &[("ROOMCAST_METRICS_TOKEN_FILE", "DIR")],
    ),
    (
        "ROOMCAST_METRICS_TOKEN",
        &[
            ("ROOMCAST_METRICS_TOKEN", "hunter2"),
            ("ROOMCAST_METRICS_TOKEN_FILE", "DIR/good"),
        ],
    ),
];

#[test]
fn bad_secrets_are_refused_and_never_shown() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("empty"), "\n").expect("written");
    std::fs::write(directory.path().join("good"), SECRET).expect("written");
    let directory = directory.path().to_str().expect("UTF-8");
    let mut problems = Vec::new();
    for (variable, settings) in BAD_SECRETS {
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (*name, value.replace("DIR", directory)))
            .collect();
        let mut variables = vec![("HOST", "127.0.0.1"), ("PORT", "0")];
        variables.extend(settings.iter().map(|(name, value)| (*name, value.as_str())));
        let (status, stdout, stderr) = run_program(&[], &variables);
        assert!(!stderr.contains(SECRET), "a secret is shown: {stderr}");
        let says_what_is_right = stderr.contains("allowed") || stderr.contains("accepted");
        let says_all = stderr.contains(variable) && says_what_is_right && stderr.lines().count() == 1;
        if status.code() != Some(2) || !says_all || !stdout.is_empty() {
            problems.push(format!("{settings:?}: {status}, {stderr}"));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn unknown_flags_are_refused() {
    for arguments in [
        &["--prot", "80"][..],
        &["serve"],
        &["--port"],
        &["--port", "0", "--port", "0"],
    ] {
        let (status, stdout, stderr) = run_program(arguments, &[]);
        assert_eq!(
            (status.code(), stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}: {stderr}"
        );
        assert!(stderr.contains(arguments[0]), "{arguments:?}: {stderr}");
    }
}

#[test]
fn secrets_have_no_flags() {
    for setting in SETTINGS.iter().filter(|setting| setting.secret) {
        assert_eq!(setting.flag(), None);
        let flag = setting
            .variable
            .trim_start_matches("ROOMCAST_")
            .to_lowercase()
            .replace('_', "-");
        let joined = format!("--{flag}={SECRET}");
        for arguments in [&[format!("--{flag}").as_str(), SECRET][..], &[&joined]] {
            let (status, _, stderr) = run_program(arguments, &[]);
            assert_eq!(status.code(), Some(2), "{arguments:?}");
            assert!(!stderr.contains(SECRET), "a secret is shown: {stderr}");
        }
    }
}

#[actix::test]
async fn a_flag_beats_its_variable() {
    let node = Node::start_with(&["--heartbeat", "7"], &[("ROOMCAST_HEARTBEAT", "9")]).await;
    let heartbeat = async |node: &Node| {
        let url = format!("{}/ws", node.ws_url());
        let mut client = Client::connect(&url, &["roomcast.v1"]).await;
        client.json().await["heartbeat"].clone()
    };
    assert_eq!(heartbeat(&node).await, 7);
    let node = Node::start(&[("ROOMCAST_HEARTBEAT", "9")]).await;
    assert_eq!(heartbeat(&node).await, 9);
    // What is not used need not be good, and what is empty is not set.
    let node = Node::start_with(
        &["--heartbeat=7"],
        &[("ROOMCAST_HEARTBEAT", "x"), ("ROOMCAST_RATE", "")],
    )
    .await;
    assert_eq!(heartbeat(&node).await, 7);
}

#[actix::test]
async fn a_secret_may_come_from_a_file() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{SECRET}\r\n")).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let node = Node::start(&[("ROOMCAST_METRICS_TOKEN_FILE", path)]).await;
    assert_eq!(node.get("/metrics").await.0, 401);
    let authorization = format!("Bearer {SECRET}");
    let request = Request::get("/metrics").and("authorization", &authorization);
    assert_eq!(request.send(node.address()).await.1.status, 200);
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = taken.local_addr().expect("a bound socket").port().to_string();
    // 192.0.2.1 is for documentation, and nobody's.
    for (host, port) in [("127.0.0.1", port.as_str()), ("192.0.2.1", "0")] {
        let (status, stdout, stderr) = run_program(&[], &[("HOST", host), ("PORT", port)]);
        assert!(!status.success(), "{status}");
        assert_eq!(stdout, "", "no banner where nothing is served");
        assert!(stderr.contains(host) && stderr.contains(port), "{stderr}");
        assert!(stderr.contains("in use") || stderr.contains("assign"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn what_tokens_have_to_claim_is_not_set_without_a_key() {
    for variable in ["ROOMCAST_JWT_ISSUER", "ROOMCAST_JWT_AUDIENCE"] {
        let line = refusal(&[], &[(variable, "chat")]);
        assert!(
            line.contains(variable) && line.contains("ROOMCAST_JWT_SECRET"),
            "{line}"
        );
    }
}
