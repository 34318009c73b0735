//! The command line.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, value_parser};

use super::load::SMALLEST_MESSAGE;
use super::scenario::Scenario;

const ABOUT: &str = "Delivers numbered messages through the server and through a bare epoll loop (the floor), \
in turn, and prints what each paid for it. ROOMCAST_* variables are handed on to the server.";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broker {
    Memory,
    Redis,
}

/// What is run, as asked for; `None` leaves the scenario's own value.
pub(crate) struct Options {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) rooms: Option<usize>,
    pub(crate) members: Option<usize>,
    pub(crate) rate: Option<f64>,
    pub(crate) burst: usize,
    pub(crate) seconds: Option<f64>,
    pub(crate) size: usize,
    pub(crate) publishers: usize,
    pub(crate) pairs: Option<usize>,
    pub(crate) broker: Broker,
    pub(crate) v1: bool,
    pub(crate) coalesce: bool,
    /// `None` puts a second floor in the server's place: its ratio is the noise.
    pub(crate) server: Option<PathBuf>,
    pub(crate) smoke: bool,
}

/// Reads the arguments, the program's name first; prints help or what is wrong, and exits.
pub(crate) fn parse(arguments: &[String]) -> Options {
    let matches = command().get_matches_from(arguments);
    let one = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let count = |name: &str| matches.get_one::<u32>(name).map(|&count| count as usize);
    let float = |name: &str| matches.get_one::<f64>(name).copied();
    // `cargo bench` says --bench; `cargo test` says nothing and gets the smoke test.
    let smoke = matches.get_flag("smoke") || arguments.len() == 1;
    Options {
        scenarios: match one("scenario") {
            Some(name) if name != "all" => Scenario::ALL.into_iter().filter(|s| s.name() == name).collect(),
            _ => Scenario::ALL.to_vec(),
        },
        rooms: count("rooms"),
        members: count("members"),
        rate: float("rate"),
        burst: count("burst").unwrap_or(1),
        seconds: float("seconds"),
        size: count("size").unwrap_or(100),
        publishers: count("publishers").unwrap_or(1),
        pairs: count("pairs"),
        broker: if one("broker") == Some("redis") {
            Broker::Redis
        } else {
            Broker::Memory
        },
        v1: one("dialect") == Some("v1"),
        coalesce: one("floor") == Some("coalesce"),
        server: match matches.get_one::<PathBuf>("server") {
            Some(path) if path.as_os_str() == "floor" => None,
            Some(path) => Some(path.clone()),
            None => Some(env!("CARGO_BIN_EXE_roomcast").into()),
        },
        smoke,
    }
}

fn command() -> Command {
    let names = Scenario::ALL
        .iter()
        .map(|scenario| scenario.name())
        .chain(["all"]);
    Command::new("delivery")
        .about(ABOUT)
        .arg(choice("scenario", "What to run [default: all]", names))
        .arg(number(
            "rooms",
            "Rooms that get messages (small-rooms), or that exist besides (rooms)",
            1,
        ))
        .arg(number(
            "members",
            "Members of each room; sessions, for idle and connect",
            1,
        ))
        .arg(float("rate", "Messages per second, over all rooms"))
        .arg(number(
            "burst",
            "Messages that fall due together, at the same rate [default: 1]",
            1,
        ))
        .arg(float("seconds", "How long messages are sent"))
        .arg(number(
            "size",
            "Bytes of a message's text [default: 100]",
            SMALLEST_MESSAGE as i64,
        ))
        .arg(number(
            "publishers",
            "Connections that publish; a room has one of them [default: 1]",
            1,
        ))
        .arg(number("pairs", "Runs of each side [default: 5; idle: 2]", 1))
        .arg(choice(
            "broker",
            "What the server runs on; redis-server is started [default: memory]",
            ["memory", "redis"],
        ))
        .arg(choice(
            "dialect",
            "What the members speak [default: plain]",
            ["plain", "v1"],
        ))
        .arg(choice(
            "floor",
            "One write per delivery, or per socket and turn [default: write]",
            ["write", "coalesce"],
        ))
        .arg(
            Arg::new("server")
                .long("server")
                .value_parser(value_parser!(PathBuf))
                .help(
                    "The server's binary [default: this package's]; `floor` compares the floor with itself",
                ),
        )
        .arg(
            Arg::new("smoke")
                .long("smoke")
                .action(ArgAction::SetTrue)
                .help("Self-check and every scenario in small; also what runs without any argument"),
        )
        .arg(
            Arg::new("bench")
                .long("bench")
                .action(ArgAction::SetTrue)
                .hide(true),
        )
}

fn number(name: &'static str, help: &'static str, least: i64) -> Arg {
    Arg::new(name)
        .long(name)
        .value_parser(value_parser!(u32).range(least..=1_000_000))
        .help(help)
}

fn float(name: &'static str, help: &'static str) -> Arg {
    let positive = |text: &str| match text.parse::<f64>() {
        Ok(value) if (0.01..=1e7).contains(&value) => Ok(value),
        _ => Err("a number from 0.01 to 10000000 is expected"),
    };
    Arg::new(name).long(name).value_parser(positive).help(help)
}

fn choice(name: &'static str, help: &'static str, values: impl IntoIterator<Item = &'static str>) -> Arg {
    Arg::new(name)
        .long(name)
        .value_parser(PossibleValuesParser::new(values))
        .help(help)
}
