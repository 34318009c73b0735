//! The command line.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, value_parser};

use super::load::SMALLEST_MESSAGE;
use super::plain;
use super::process::Target;
use super::scenario::{GROUPS, Scenario};

const ABOUT: &str = "Delivers numbered messages through the server and through a bare epoll loop (the floor), in turn, \
and prints what each paid for it. Without arguments: the main table, in under five minutes. ROOMCAST_* variables are \
handed on to the server.";

/// What can stand on a side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// One write per delivery.
    Floor,
    /// One write per socket and turn.
    Coalescing,
    /// The server's shape and nothing else; speaks the plain dialect only.
    Plain,
    /// The server on the embedded broker.
    Embedded,
    /// The server on a Redis of its own.
    Redis,
    /// The same two with the binary of `--baseline`.
    Baseline,
    BaselineRedis,
}

impl Side {
    const ALL: [Self; 7] = [
        Self::Floor,
        Self::Coalescing,
        Self::Plain,
        Self::Embedded,
        Self::Redis,
        Self::Baseline,
        Self::BaselineRedis,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Coalescing => "coalescing",
            Self::Plain => "plain",
            Self::Embedded => "embedded",
            Self::Redis => "redis",
            Self::Baseline => "baseline",
            Self::BaselineRedis => "base-redis",
        }
    }
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
    pub(crate) publishers: Option<usize>,
    pub(crate) rounds: Option<usize>,
    pub(crate) v1: bool,
    sides: Option<Vec<Side>>,
    server: PathBuf,
    baseline: Option<PathBuf>,
    pub(crate) smoke: bool,
}

impl Options {
    /// The sides that were asked for, or else those given; with a baseline, that and the server.
    pub(crate) fn sides(&self, default: &[Side]) -> Vec<Target> {
        let sides = match (&self.sides, &self.baseline) {
            (Some(sides), _) => sides,
            (None, Some(_)) => &vec![Side::Baseline, Side::Embedded],
            (None, None) => &default.to_vec(),
        };
        sides.iter().map(|&side| self.target(side)).collect()
    }

    /// The server on Redis with this variable off and on; with a baseline, that and the server as they are.
    pub(crate) fn on_redis(&self, variable: &'static str, [off, on]: [(&str, u64); 2]) -> Vec<Target> {
        let server = |label: &str, path: &PathBuf| Target::server(label, path.clone(), true);
        match &self.baseline {
            Some(baseline) => vec![server("baseline", baseline), server("server", &self.server)],
            None => vec![
                server(off.0, &self.server).with(variable, off.1),
                server(on.0, &self.server).with(variable, on.1),
            ],
        }
    }

    /// The server's side that was asked for, or else the server on the embedded broker.
    pub(crate) fn one_server(&self) -> Target {
        let sides = self.sides(&[Side::Embedded]);
        let asked_for = sides.into_iter().rfind(Target::is_server);
        asked_for.unwrap_or_else(|| self.target(Side::Embedded))
    }

    fn target(&self, side: Side) -> Target {
        let label = side.name();
        let baseline = || self.baseline.clone().unwrap_or_else(|| self.server.clone());
        match side {
            Side::Floor => Target::floor(label, false),
            Side::Coalescing => Target::floor(label, true),
            Side::Plain => Target::own(label, [plain::SUBCOMMAND]),
            Side::Embedded => Target::server(label, self.server.clone(), false),
            Side::Redis => Target::server(label, self.server.clone(), true),
            Side::Baseline => Target::server(label, baseline(), false),
            Side::BaselineRedis => Target::server(label, baseline(), true),
        }
    }
}

/// Reads the arguments, the program's name first; prints help or what is wrong, and exits.
pub(crate) fn parse(arguments: &[String]) -> Options {
    let matches = command().get_matches_from(arguments);
    let several = |name: &str| -> Option<Vec<&String>> { Some(matches.get_many::<String>(name)?.collect()) };
    let count = |name: &str| matches.get_one::<u32>(name).map(|&count| count as usize);
    let float = |name: &str| matches.get_one::<f64>(name).copied();
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    // `cargo bench` says --bench; `cargo test` says nothing and gets the smoke test.
    let smoke = matches.get_flag("smoke") || arguments.len() == 1;
    let named = several("scenario");
    let by_default = if smoke { "all" } else { "main" };
    let names = named.map_or(vec![by_default], |names| {
        names.into_iter().map(String::as_str).collect()
    });
    let sides = several("sides").map(|names| {
        let side = |name: &String| Side::ALL.into_iter().find(|side| side.name() == name.as_str());
        names.into_iter().filter_map(side).collect()
    });
    Options {
        scenarios: names.into_iter().flat_map(Scenario::named).collect(),
        rooms: count("rooms"),
        members: count("members"),
        rate: float("rate"),
        burst: count("burst").unwrap_or(1),
        seconds: float("seconds"),
        size: count("size").unwrap_or(100),
        publishers: count("publishers"),
        rounds: count("rounds"),
        v1: matches
            .get_one::<String>("dialect")
            .is_some_and(|name| name == "v1"),
        sides,
        server: path("server").unwrap_or_else(|| env!("CARGO_BIN_EXE_roomcast").into()),
        baseline: path("baseline"),
        smoke,
    }
}

fn command() -> Command {
    let groups = GROUPS.iter().map(|(name, _)| *name);
    let names = Scenario::ALL.iter().map(|scenario| scenario.name()).chain(groups);
    let after = Scenario::ALL.map(|scenario| format!("  {:<14}{}\n", scenario.name(), scenario.what()));
    let groups: Vec<String> = GROUPS
        .iter()
        .map(|(name, scenarios)| {
            let members: Vec<&str> = scenarios.iter().map(|scenario| scenario.name()).collect();
            let members = if members.len() == Scenario::ALL.len() {
                "all of them".to_owned()
            } else {
                members.join(", ")
            };
            format!("  {name:<14}{members}\n")
        })
        .collect();
    Command::new("delivery")
        .about(ABOUT)
        .after_help(format!("Scenarios:\n{}\nGroups:\n{}", after.concat(), groups.concat()))
        .arg(choice("scenario", "What to run; several with commas [default: main]", names).value_delimiter(','))
        .arg(
            choice(
                "sides",
                "Who runs, in turn; the first is what the others are compared with. `floor,floor` shows the noise",
                Side::ALL.map(Side::name),
            )
            .value_delimiter(','),
        )
        .arg(number("rooms", "Rooms that get messages, or that exist besides (rooms), or are joined (joins)", 1))
        .arg(number("members", "Members of each room; sessions, for joins, memory and connect", 1))
        .arg(float("rate", "Messages per second, over all rooms; for fan-max and rooms-max the first one tried"))
        .arg(number("burst", "Messages that fall due together, at the same rate [default: 1]", 1))
        .arg(float("seconds", "How long messages are sent; for fan-max and rooms-max each step"))
        .arg(number("size", "Bytes of a message's text [default: 100]", SMALLEST_MESSAGE as i64))
        .arg(number("publishers", "Connections that publish; a room has one of them", 1))
        .arg(number("rounds", "Runs of each side", 1).visible_alias("pairs"))
        .arg(choice("dialect", "What the sessions speak [default: plain]", ["plain", "v1"]))
        .arg(file("server", "The server's binary [default: this package's]"))
        .arg(
            file("baseline", "Another binary of the server to compare with, such as the one before a change")
                .required_if_eq_any([("sides", Side::Baseline.name()), ("sides", Side::BaselineRedis.name())]),
        )
        .arg(
            Arg::new("smoke")
                .long("smoke")
                .action(ArgAction::SetTrue)
                .help("Self-check and every scenario in small; also what runs without any argument"),
        )
        .arg(Arg::new("bench").long("bench").action(ArgAction::SetTrue).hide(true))
}

fn file(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_parser(value_parser!(PathBuf))
        .help(help)
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
