//! What there is to run, in which sizes, and against what.

use std::thread;
use std::time::Duration;

use super::floor::Fault;
use super::load::{Crowd, Plan};
use super::options::{Options, Side};
use super::process::{Running, Target};
use super::report::{Column, Section, print_table};
use super::{Outcome, joins, most, sessions, traffic};

const HISTORY: &str = "ROOMCAST_HISTORY_SIZE";
const HISTORY_OFF_AND_ON: [(&str, u64); 2] = [("history off", 0), ("history on", 1_000)];
const BACKLOG: &str = "ROOMCAST_MAX_BACKLOG";
/// Where the most is looked for, the generator may be the slow reader: it must not be cut off for that.
const AMPLE_BACKLOG: u64 = 64 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    Fan,
    SmallRooms,
    FanMax,
    RoomsMax,
    TwoNodes,
    Joins,
    Memory,
    History,
    Rooms,
    Connect,
}

/// Names for several scenarios.
pub(crate) const GROUPS: [(&str, &[Scenario]); 3] = [
    ("main", &[Scenario::Fan, Scenario::SmallRooms]),
    (
        "all-long",
        &[
            Scenario::FanMax,
            Scenario::RoomsMax,
            Scenario::TwoNodes,
            Scenario::Joins,
            Scenario::Memory,
        ],
    ),
    ("all", &Scenario::ALL),
];

impl Scenario {
    pub(crate) const ALL: [Self; 10] = [
        Self::Fan,
        Self::SmallRooms,
        Self::FanMax,
        Self::RoomsMax,
        Self::TwoNodes,
        Self::Joins,
        Self::Memory,
        Self::History,
        Self::Rooms,
        Self::Connect,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fan => "fan",
            Self::SmallRooms => "small-rooms",
            Self::FanMax => "fan-max",
            Self::RoomsMax => "rooms-max",
            Self::TwoNodes => "two-nodes",
            Self::Joins => "joins",
            Self::Memory => "memory",
            Self::History => "history",
            Self::Rooms => "rooms",
            Self::Connect => "connect",
        }
    }

    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Fan => "one room, many members",
            Self::SmallRooms => "many rooms, few members each",
            Self::FanMax => {
                "fan: the most without loss and with p99 within 200 ms, and at 1.5 and 2 times that"
            }
            Self::RoomsMax => "the same for small-rooms",
            Self::TwoNodes => "publishers on one node, members on another, through Redis",
            Self::Joins => "joining and leaving on Redis: flapping, all at once, and again after a lost link",
            Self::Memory => "resident memory per session and per room",
            Self::History => "what history costs the server and Redis",
            Self::Rooms => "one room's price beside many others",
            Self::Connect => "the price of coming and going",
        }
    }

    /// The scenario, or those of the group, of this name.
    pub(crate) fn named(name: &str) -> Vec<Self> {
        match GROUPS.iter().find(|(group, _)| *group == name) {
            Some((_, scenarios)) => scenarios.to_vec(),
            None => Self::ALL
                .into_iter()
                .filter(|scenario| scenario.name() == name)
                .collect(),
        }
    }
}

/// A scenario's sizes. `members` are sessions where there are no rooms to be members of.
struct Sizes {
    rooms: usize,
    members: usize,
    rate: f64,
    seconds: f64,
    rounds: usize,
    publishers: usize,
}

impl Sizes {
    fn new(rooms: usize, members: usize, rate: f64, seconds: f64, rounds: usize) -> Self {
        Self {
            rooms,
            members,
            rate,
            seconds,
            rounds,
            publishers: 1,
        }
    }

    /// With what was asked for in place of the scenario's own.
    fn or(self, options: &Options) -> Self {
        Self {
            rooms: options.rooms.unwrap_or(self.rooms),
            members: options.members.unwrap_or(self.members),
            rate: options.rate.unwrap_or(self.rate),
            seconds: options.seconds.unwrap_or(self.seconds),
            rounds: options.rounds.unwrap_or(self.rounds),
            publishers: options.publishers.unwrap_or(self.publishers),
        }
    }

    fn plan(&self, options: &Options) -> Plan {
        Plan {
            rooms: self.rooms,
            members: self.members,
            rate: self.rate,
            burst: options.burst,
            seconds: self.seconds,
            size: options.size,
            publishers: self.publishers,
            v1: options.v1,
            silence: Duration::from_millis(if options.smoke { 1_000 } else { 3_000 }),
        }
    }

    fn describe(&self, options: &Options) -> String {
        let Self {
            rooms,
            members,
            rate,
            seconds,
            ..
        } = self;
        format!(
            "{rooms} x {members} members, {} bytes, {rate} messages/s in bursts of {}, {seconds} s, {} publishers, {}",
            options.size,
            options.burst,
            self.publishers,
            dialect(options)
        )
    }
}

fn dialect(options: &Options) -> &'static str {
    if options.v1 { "roomcast.v1" } else { "plain" }
}

/// Runs all that was asked for and prints the tables; false if a message went astray.
pub(crate) fn run(options: &Options) -> Outcome<bool> {
    let mut sections = Vec::new();
    let mut failure = None;
    let mut keep =
        |outcome: Outcome<()>| failure = failure.take().or(outcome.err().map(|error| error.to_string()));
    if options.smoke {
        // What is checked is that it works, not how fast: all at the same time, and most of each is waiting.
        let (checked, outcomes) = thread::scope(|scope| {
            let check = scope.spawn(|| self_check(options).map_err(|error| error.to_string()));
            let start = |&scenario| {
                scope.spawn(move || {
                    let mut sections = Vec::new();
                    let outcome = compare(scenario, options, &mut sections);
                    (sections, outcome.map_err(|error| error.to_string()))
                })
            };
            let threads: Vec<_> = options.scenarios.iter().map(start).collect();
            let outcomes: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
            (check.join(), outcomes)
        });
        keep(
            checked
                .map_err(|_| "the self-check panicked")?
                .map_err(Into::into),
        );
        for outcome in outcomes {
            let (found, outcome) = outcome.map_err(|_| "a scenario panicked")?;
            sections.extend(found);
            keep(outcome.map_err(Into::into));
        }
    } else {
        for &scenario in &options.scenarios {
            let outcome = compare(scenario, options, &mut sections);
            let failed = outcome.is_err();
            keep(outcome);
            if failed {
                break;
            }
        }
    }
    println!("medians of all rounds; \"x\": ratio to the first side, median of all rounds (least-most)");
    sections.iter().for_each(Section::print);
    let table: Vec<&Section> = sections
        .iter()
        .filter(|section| GROUPS[0].1.iter().any(|scenario| scenario.name() == section.name))
        .collect();
    if !table.is_empty() {
        println!("\nThe same in short: us of CPU, ms from the scheduled time, KiB resident");
        print_table(&table, &COLUMNS);
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let faults: f64 = sections.iter().map(Section::faults).sum();
    if faults > 0.0 {
        println!("\nFAILED: {faults} deliveries, answers or connections went astray");
    }
    Ok(faults == 0.0)
}

const fn column(name: &'static str, head: [&'static str; 2], width: usize, ratio: bool) -> Column {
    Column {
        name,
        head,
        width,
        ratio,
    }
}

const COLUMNS: [Column; 11] = [
    column(traffic::CPU_PER_DELIVERY, ["CPU per", "delivery"], 9, false),
    column(
        traffic::CPU_PER_DELIVERY,
        ["ratio to the", "first side"],
        18,
        true,
    ),
    column(traffic::CPU_PER_MESSAGE, ["CPU per", "message"], 9, false),
    column(traffic::REDIS_PER_MESSAGE, ["Redis", "CPU"], 7, false),
    column(traffic::SWITCHES, ["switches", "/message"], 10, false),
    column(traffic::DELIVERIES, ["deliveries", "/second"], 12, false),
    column(traffic::P50, ["", "p50"], 7, false),
    column(traffic::P99, ["", "p99"], 7, false),
    column(traffic::P999, ["", "p99.9"], 7, false),
    column(traffic::MEMORY, ["KiB per", "session"], 9, false),
    column(traffic::GENERATOR, ["generator", "/delivery"], 11, false),
];

fn compare(scenario: Scenario, options: &Options, sections: &mut Vec<Section>) -> Outcome<()> {
    match scenario {
        Scenario::Fan | Scenario::SmallRooms => steady(scenario, options, sections),
        Scenario::FanMax | Scenario::RoomsMax => highest(scenario, options, sections),
        Scenario::TwoNodes => two_nodes(options, sections),
        Scenario::Joins => joining(options, sections),
        Scenario::Memory => memory(options, sections),
        Scenario::History => history(options, sections),
        Scenario::Rooms => rooms(options, sections),
        Scenario::Connect => connect(options, sections),
    }
}

fn fan(smoke: bool) -> Sizes {
    match smoke {
        false => Sizes::new(1, 1_000, 50.0, 6.0, 4),
        true => Sizes::new(1, 50, 100.0, 0.3, 1),
    }
}

fn small_rooms(smoke: bool) -> Sizes {
    match smoke {
        false => Sizes::new(1_000, 10, 2_000.0, 4.0, 4),
        true => Sizes::new(20, 3, 100.0, 0.3, 1),
    }
}

const ALL_SIDES: [Side; 4] = [Side::Floor, Side::Coalescing, Side::Embedded, Side::Redis];

fn steady(scenario: Scenario, options: &Options, sections: &mut Vec<Section>) -> Outcome<()> {
    let sizes = match scenario {
        Scenario::Fan => fan(options.smoke),
        _ => small_rooms(options.smoke),
    };
    let sizes = sizes.or(options);
    let title = format!("{}: {}", scenario.name(), sizes.describe(options));
    let plan = sizes.plan(options);
    sections.push(Section::run(
        scenario.name(),
        title,
        &options.sides(&ALL_SIDES),
        sizes.rounds,
        |side| traffic::steady(side, 0, plan, !options.smoke),
    )?);
    Ok(())
}

fn highest(scenario: Scenario, options: &Options, sections: &mut Vec<Section>) -> Outcome<()> {
    let sizes = match (scenario, options.smoke) {
        (Scenario::FanMax, false) => Sizes::new(1, 1_000, 50.0, 2.0, 2),
        (Scenario::FanMax, true) => Sizes::new(1, 20, 50.0, 0.2, 1),
        (_, false) => Sizes {
            publishers: 8,
            ..Sizes::new(1_000, 10, 4_000.0, 2.0, 2)
        },
        (_, true) => Sizes::new(5, 4, 50.0, 0.2, 1),
    };
    let sizes = sizes.or(options);
    let search = most::Search {
        plan: sizes.plan(options),
        // In small, one step up and none between.
        doublings: if options.smoke { 1 } else { 16 },
        halvings: if options.smoke { 0 } else { 3 },
        latency_bound: Duration::from_millis(if options.smoke { 5_000 } else { 200 }),
    };
    let title = format!("{}: from {}", scenario.name(), sizes.describe(options));
    let sides: Vec<Target> = options
        .sides(&ALL_SIDES)
        .into_iter()
        .map(|side| side.with(BACKLOG, AMPLE_BACKLOG))
        .collect();
    sections.push(Section::run(
        scenario.name(),
        title,
        &sides,
        sizes.rounds,
        |side| most::find(side, &search),
    )?);
    Ok(())
}

fn two_nodes(options: &Options, sections: &mut Vec<Section>) -> Outcome<()> {
    let rates: &[f64] = if options.smoke { &[50.0] } else { &[20.0, 500.0] };
    let rates = options.rate.map_or(rates.to_vec(), |rate| vec![rate]);
    for rate in rates {
        let sizes = match options.smoke {
            false => Sizes::new(1, 100, rate, 10.0, 3),
            true => Sizes::new(1, 10, rate, 0.3, 1),
        };
        let sizes = sizes.or(options);
        let deliveries = sizes.rate * sizes.members as f64;
        let title = format!(
            "two-nodes: {deliveries} deliveries/s: {}",
            sizes.describe(options)
        );
        let plan = sizes.plan(options);
        let sides: Vec<Target> = options
            .on_redis(HISTORY, HISTORY_OFF_AND_ON)
            .into_iter()
            .map(|side| side.nodes(2))
            .collect();
        sections.push(Section::run("two-nodes", title, &sides, sizes.rounds, |side| {
            traffic::across_nodes(side, plan, !options.smoke)
        })?);
    }
    Ok(())
}

fn joining(options: &Options, sections: &mut Vec<Section>) -> Outcome<()> {
    let sides = options.on_redis(HISTORY, HISTORY_OFF_AND_ON);
    let (flap, at_once, relink) = match options.smoke {
        false => (
            Sizes::new(16, 64, 0.0, 4.0, 3),
            Sizes::new(1, 10_000, 0.0, 0.0, 3),
            Sizes::new(100, 1_000, 0.0, 0.0, 2),
        ),
        true => (
            Sizes::new(2, 6, 0.0, 0.2, 1),
            Sizes::new(1, 50, 0.0, 0.0, 1),
            Sizes::new(10, 10, 0.0, 0.0, 1),
        ),
    };
    let flap = flap.or(options);
    let title = format!(
        "joins, flapping: {} sessions (half of them plain, half roomcast.v1) with {} rooms each under way, {} s",
        flap.members, flap.rooms, flap.seconds
    );
    let seconds = Duration::from_secs_f64(flap.seconds);
    sections.push(Section::run("joins", title, &sides, flap.rounds, |side| {
        joins::flapping(side, flap.members, flap.rooms, seconds)
    })?);
    let at_once = at_once.or(options);
    let title = format!(
        "joins, at once: {} sessions, each a room of its own, roomcast.v1",
        at_once.members
    );
    sections.push(Section::run("joins", title, &sides, at_once.rounds, |side| {
        joins::all_at_once(side, at_once.members)
    })?);
    let relink = relink.or(options);
    let title = format!(
        "joins, link killed: {} sessions x {} rooms, roomcast.v1",
        relink.members, relink.rooms
    );
    sections.push(Section::run("joins", title, &sides, relink.rounds, |side| {
        joins::link_killed(side, relink.members, relink.rooms)
    })?);
    Ok(())
}

fn memory(options: &Options, sections: &mut Vec<Section>) -> Outcome<()> {
    let (of_sessions, of_rooms, wait) = match options.smoke {
        false => (
            Sizes::new(1, 10_000, 0.0, 0.0, 1),
            Sizes::new(100, 1_000, 0.0, 0.0, 1),
            Duration::from_secs(10),
        ),
        true => (
            Sizes::new(1, 50, 0.0, 0.0, 1),
            Sizes::new(5, 10, 0.0, 0.0, 1),
            Duration::from_millis(200),
        ),
    };
    // The embedded broker keeps the history in the same process, where it would be taken for the sessions'.
    let sides: Vec<Target> = options
        .sides(&[Side::Floor, Side::Embedded, Side::Redis])
        .into_iter()
        .map(|side| {
            if side.is_on_redis() {
                side
            } else {
                side.with(HISTORY, 0)
            }
        })
        .collect();
    let sizes = of_sessions.or(options);
    let title = format!(
        "memory: {} sessions, {}; embedded without history",
        sizes.members,
        dialect(options)
    );
    sections.push(Section::run("memory", title, &sides, sizes.rounds, |side| {
        sessions::memory(side, sizes.members, options.v1, wait)
    })?);
    let sizes = of_rooms.or(options);
    let title = format!(
        "memory, rooms: {} sessions without and with {} rooms each, {}",
        sizes.members,
        sizes.rooms,
        dialect(options)
    );
    sections.push(Section::run("memory", title, &sides, sizes.rounds, |side| {
        sessions::memory_of_rooms(side, sizes.members, sizes.rooms, options.v1)
    })?);
    Ok(())
}

fn history(options: &Options, sections: &mut Vec<Section>) -> Outcome<()> {
    let sides = options.on_redis(HISTORY, HISTORY_OFF_AND_ON);
    // All due within milliseconds: the publisher waits for nothing but its socket.
    let pipelined = match options.smoke {
        false => Sizes::new(10, 2, 1e7, 0.01, 4),
        true => Sizes::new(3, 2, 1e5, 0.01, 1),
    };
    let parts = [
        ("history, fan", fan(options.smoke), true),
        ("history, small-rooms", small_rooms(options.smoke), true),
        ("history, pipelined", pipelined, false),
    ];
    for (name, sizes, steady) in parts {
        let sizes = sizes.or(options);
        let plan = sizes.plan(options);
        let title = format!("{name}: {}", sizes.describe(options));
        sections.push(Section::run("history", title, &sides, sizes.rounds, |side| {
            traffic::steady(side, 0, plan, steady && !options.smoke)
        })?);
    }
    Ok(())
}

fn rooms(options: &Options, sections: &mut Vec<Section>) -> Outcome<()> {
    let sizes = match options.smoke {
        false => Sizes::new(10_000, 10, 1_000.0, 3.0, 5),
        true => Sizes::new(100, 5, 100.0, 0.3, 1),
    };
    let sizes = sizes.or(options);
    let others = sizes.rooms;
    let alone = Sizes { rooms: 1, ..sizes };
    let server = options.one_server();
    let title = format!(
        "rooms: without and with {others} other rooms, {}: {}",
        server.label,
        alone.describe(options)
    );
    let named = |label: String| server.clone().labelled(label);
    let sides = [named("1 room".to_owned()), named(format!("{} rooms", others + 1))];
    let plan = alone.plan(options);
    sections.push(Section::run("rooms", title, &sides, alone.rounds, |side| {
        let held = if side.label == sides[0].label { 0 } else { others };
        traffic::steady(side, held, plan, !options.smoke)
    })?);
    Ok(())
}

fn connect(options: &Options, sections: &mut Vec<Section>) -> Outcome<()> {
    let sizes = match options.smoke {
        false => Sizes::new(1, 5_000, 0.0, 0.0, 5),
        true => Sizes::new(1, 100, 0.0, 0.0, 1),
    };
    let sizes = sizes.or(options);
    let title = format!("connect: {} sessions, {}", sizes.members, dialect(options));
    let sides = options.sides(&[Side::Floor, Side::Embedded]);
    sections.push(Section::run("connect", title, &sides, sizes.rounds, |side| {
        sessions::connect(side, sizes.members, options.v1)
    })?);
    Ok(())
}

/// A floor that drops, duplicates or swaps one delivery must be found out, and an honest one not be accused.
fn self_check(options: &Options) -> Outcome<()> {
    let plan = fan(true).plan(options);
    for fault in [None].into_iter().chain(Fault::ALL.map(Some)) {
        let target = match fault {
            None => Target::floor("floor", false),
            Some(kind) => Target::faulty_floor(kind, 137),
        };
        let running = Running::start(&target)?;
        let tally = Crowd::gather(running.address(), running.address(), plan)?.run()?;
        let expected = match fault {
            None => [0, 0, 0],
            Some(Fault::Drop) => [1, 0, 0],
            Some(Fault::Duplicate) => [0, 1, 0],
            Some(Fault::Swap) => [0, 0, 1],
        };
        let counted = [tally.lost, tally.duplicated, tally.reordered];
        let name = fault.map_or("no fault", Fault::name);
        if counted != expected {
            return Err(format!("self-check, {name}: [lost, duplicated, reordered] = {counted:?}").into());
        }
        println!("self-check, {name}: found as it should be");
    }
    Ok(())
}
