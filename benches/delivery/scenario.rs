//! What is run, in which sizes, and what is read off each run.

use std::process;
use std::time::Duration;

use super::Outcome;
use super::fleet::Fleet;
use super::floor::Fault;
use super::load::{Crowd, Plan, Tally, subscribe};
use super::options::{Broker, Options};
use super::process::{Running, Target, Usage, resident};
use super::report::{Kind, Reading, Section};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// One room, many members.
    Fan,
    /// One room's price must not depend on how many others there are.
    Rooms,
    /// Many rooms, few members each.
    SmallRooms,
    /// What history costs Redis.
    History,
    /// Memory of sessions that say nothing.
    Idle,
    /// The price of coming and going.
    Connect,
}

impl Scenario {
    pub(crate) const ALL: [Self; 6] = [
        Self::Fan,
        Self::Rooms,
        Self::SmallRooms,
        Self::History,
        Self::Idle,
        Self::Connect,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fan => "fan",
            Self::Rooms => "rooms",
            Self::SmallRooms => "small-rooms",
            Self::History => "history",
            Self::Idle => "idle",
            Self::Connect => "connect",
        }
    }

    fn sizes(self, smoke: bool) -> Sizes {
        let (rooms, members, rate, seconds, pairs) = match (self, smoke) {
            (Self::Fan, false) => (1, 1_000, 50.0, 10.0, 5),
            (Self::Rooms, false) => (10_000, 10, 1_000.0, 3.0, 5),
            (Self::SmallRooms, false) => (1_000, 10, 2_000.0, 5.0, 5),
            (Self::History, false) => (10, 2, 2_000.0, 4.0, 5),
            (Self::Idle, false) => (0, 10_000, 0.0, 0.0, 2),
            (Self::Connect, false) => (0, 5_000, 0.0, 0.0, 5),
            (Self::Fan, true) => (1, 50, 100.0, 0.5, 1),
            (Self::Rooms, true) => (100, 5, 100.0, 0.5, 1),
            (Self::SmallRooms, true) => (20, 3, 100.0, 0.5, 1),
            (Self::History, true) => (3, 2, 100.0, 0.5, 1),
            (Self::Idle | Self::Connect, true) => (0, 100, 0.0, 0.0, 1),
        };
        Sizes {
            rooms,
            members,
            rate,
            seconds,
            pairs,
        }
    }
}

/// `rooms` are those that get messages, or for [`Scenario::Rooms`] the others.
struct Sizes {
    rooms: usize,
    members: usize,
    rate: f64,
    seconds: f64,
    pairs: usize,
}

/// One side of a comparison: the process, and how many other rooms are held in it.
struct Side {
    label: String,
    target: Target,
    held: usize,
}

/// Runs all that was asked for and prints the table; false if a message went astray.
pub(crate) fn run(options: &Options) -> Outcome<bool> {
    if options.smoke {
        self_check(options)?;
    }
    let mut sections = Vec::new();
    let mut failure = None;
    for &scenario in &options.scenarios {
        match compare(scenario, options) {
            Ok(section) => sections.push(section),
            Err(error) => {
                failure = Some(format!("{}: {error}", scenario.name()));
                break;
            }
        }
    }
    println!("medians of both sides; ratio of the second to the first, pair by pair");
    sections.iter().for_each(Section::print);
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let faults: f64 = sections.iter().map(Section::faults).sum();
    if faults > 0.0 {
        println!("\nFAILED: {faults} deliveries or connections went astray");
    }
    Ok(faults == 0.0)
}

fn compare(scenario: Scenario, options: &Options) -> Outcome<Section> {
    let defaults = scenario.sizes(options.smoke);
    let sizes = Sizes {
        rooms: options.rooms.unwrap_or(defaults.rooms),
        members: options.members.unwrap_or(defaults.members),
        rate: options.rate.unwrap_or(defaults.rate),
        seconds: options.seconds.unwrap_or(defaults.seconds),
        pairs: options.pairs.unwrap_or(defaults.pairs),
    };
    let side = |label: &str, target, held| Side {
        label: label.to_owned(),
        target,
        held,
    };
    let (floor, server) = (Target::floor(options), Target::server(options));
    let sides = match scenario {
        Scenario::Rooms => [
            side("1 room", server.clone(), 0),
            side(&format!("{} rooms", sizes.rooms + 1), server, sizes.rooms),
        ],
        Scenario::History => [
            side("off", server.clone().keeping(0), 0),
            side("history", server.keeping(1_000), 0),
        ],
        _ => [side("floor", floor, 0), side(server.name(), server, 0)],
    };
    let mut pairs = Vec::new();
    for pair in 1..=sizes.pairs {
        let run = |side: &Side| {
            eprintln!("{} {pair}/{}: {}", scenario.name(), sizes.pairs, side.label);
            match scenario {
                Scenario::Idle => idle(&side.target, sizes.members, options.v1),
                Scenario::Connect => connect(&side.target, sizes.members, options.v1),
                _ => traffic(&side.target, side.held, plan(scenario, &sizes, options)),
            }
        };
        pairs.push([run(&sides[0])?, run(&sides[1])?]);
    }
    let title = title(scenario, &sizes, options);
    Ok(Section {
        title,
        sides: sides.map(|side| side.label),
        pairs,
    })
}

fn plan(scenario: Scenario, sizes: &Sizes, options: &Options) -> Plan {
    Plan {
        rooms: if scenario == Scenario::Rooms {
            1
        } else {
            sizes.rooms
        },
        members: sizes.members,
        rate: sizes.rate,
        burst: options.burst,
        seconds: sizes.seconds,
        size: options.size,
        publishers: options.publishers,
        v1: options.v1,
    }
}

fn title(scenario: Scenario, sizes: &Sizes, options: &Options) -> String {
    let Sizes {
        rooms,
        members,
        rate,
        seconds,
        pairs,
    } = sizes;
    let name = scenario.name();
    let dialect = if options.v1 { "roomcast.v1" } else { "plain" };
    let broker = if options.broker == Broker::Redis {
        "Redis"
    } else {
        "embedded broker"
    };
    let floor = if options.coalesce {
        "coalescing floor"
    } else {
        "one-write floor"
    };
    let setting = format!("{dialect}, {broker}, {floor}, {pairs} pairs");
    let traffic = format!(
        "{} bytes, {rate} messages/s in bursts of {}, {seconds} s",
        options.size, options.burst
    );
    match scenario {
        Scenario::History => {
            format!("{name}: {rooms} x {members} members, {traffic}; {dialect}, Redis, {pairs} pairs")
        }
        Scenario::Fan | Scenario::SmallRooms => {
            format!("{name}: {rooms} x {members} members, {traffic}; {setting}")
        }
        Scenario::Rooms => {
            format!(
                "{name}: {members} members of one room, without and with {rooms} other rooms, {traffic}; {setting}"
            )
        }
        Scenario::Idle | Scenario::Connect => format!("{name}: {members} sessions; {setting}"),
    }
}

fn cost(name: &'static str, value: f64) -> Reading {
    Reading {
        name,
        kind: Kind::Cost,
        value,
    }
}

fn fact(name: &'static str, value: f64) -> Reading {
    Reading {
        name,
        kind: Kind::Fact,
        value,
    }
}

fn fault(name: &'static str, count: u64) -> Reading {
    Reading {
        name,
        kind: Kind::Fault,
        value: count as f64,
    }
}

fn microseconds(usage: Usage) -> f64 {
    usage.cpu.as_secs_f64() * 1e6
}

fn traffic(target: &Target, held: usize, plan: Plan) -> Outcome<Vec<Reading>> {
    let running = Running::start(target)?;
    let redis = running.redis.as_ref().map(|guard| guard.pid());
    let mut crowd = Crowd::gather(running.address, plan)?;
    if held > 0 {
        crowd.hold(running.address, held)?;
    }
    let own = process::id();
    let before = (
        Usage::of(running.pid())?,
        Usage::of(own)?,
        redis.map(Usage::of).transpose()?,
    );
    let tally = crowd.run()?;
    let used = Usage::of(running.pid())?.since(before.0);
    let own_used = Usage::of(own)?.since(before.1);
    let (messages, deliveries) = (tally.published as f64, tally.delivered as f64);
    let mut readings = vec![
        cost("cpu, us per delivery", microseconds(used) / deliveries),
        cost("cpu, us per message", microseconds(used) / messages),
        cost("context switches per message", used.switches as f64 / messages),
        fact("deliveries per second", deliveries / tally.span.as_secs_f64()),
        cost("latency p50, ms", tally.latency.quantile_ms(0.5)),
        cost("latency p99, ms", tally.latency.quantile_ms(0.99)),
        cost("latency p99.9, ms", tally.latency.quantile_ms(0.999)),
        cost("latency max, ms", tally.latency.max_ms()),
        fact("generator: late sends p99, ms", tally.lag.quantile_ms(0.99)),
        fact(
            "generator: cpu, us per delivery",
            microseconds(own_used) / deliveries,
        ),
    ];
    readings.extend(astray(&tally));
    if let (Some(pid), Some(before)) = (redis, before.2) {
        let used = Usage::of(pid)?.since(before);
        readings.push(cost("Redis: cpu, us per message", microseconds(used) / messages));
    }
    Ok(readings)
}

fn astray(tally: &Tally) -> [Reading; 6] {
    [
        fault("lost", tally.lost),
        fault("duplicated", tally.duplicated),
        fault("reordered", tally.reordered),
        fault("misrouted", tally.misrouted),
        fault("refused", tally.refused),
        fault("connections closed", tally.closed),
    ]
}

/// Each session is in a room of its own.
fn idle(target: &Target, sessions: usize, v1: bool) -> Outcome<Vec<Reading>> {
    let (running, mut fleet) = warmed_up(target, v1)?;
    let kib_each = |before: u64, after: u64| (after as f64 - before as f64) / sessions as f64;
    let empty = resident(running.pid())?;
    let numbers = fleet.connect(running.address, sessions, v1)?;
    settle(&running, &mut fleet)?;
    let connected = resident(running.pid())?;
    for number in numbers {
        fleet.queue(number, &subscribe(&format!("idle-{number}")));
        fleet.flush(number);
    }
    settle(&running, &mut fleet)?;
    let joined = resident(running.pid())?;
    Ok(vec![
        cost("resident, KiB per session, connected", kib_each(empty, connected)),
        cost("resident, KiB per session, in a room", kib_each(empty, joined)),
        fact("resident, KiB, without sessions", empty as f64),
        fault("connections closed", fleet.closed),
    ])
}

fn connect(target: &Target, sessions: usize, v1: bool) -> Outcome<Vec<Reading>> {
    let (running, mut fleet) = warmed_up(target, v1)?;
    let before = Usage::of(running.pid())?;
    let began = std::time::Instant::now();
    let numbers = fleet.connect(running.address, sessions, v1)?;
    let took = began.elapsed();
    settle(&running, &mut fleet)?;
    let connected = Usage::of(running.pid())?;
    fleet.close(numbers);
    settle(&running, &mut fleet)?;
    let closed = Usage::of(running.pid())?;
    let each = |usage| microseconds(usage) / sessions as f64;
    Ok(vec![
        cost("cpu, us per connect", each(connected.since(before))),
        cost("cpu, us per close", each(closed.since(connected))),
        fact("connects per second", sessions as f64 / took.as_secs_f64()),
        cost("connect to 101 p50, ms", fleet.upgrades.quantile_ms(0.5)),
        cost("connect to 101 p99, ms", fleet.upgrades.quantile_ms(0.99)),
        fault("connections closed", fleet.closed),
    ])
}

/// Started, and past what only the first connections cost.
fn warmed_up(target: &Target, v1: bool) -> Outcome<(Running, Fleet)> {
    let running = Running::start(target)?;
    let mut fleet = Fleet::new()?;
    fleet.connect(running.address, 10, v1)?;
    settle(&running, &mut fleet)?;
    Ok((running, fleet))
}

/// Waits until the process has nothing more to do, or 10 s.
fn settle(running: &Running, fleet: &mut Fleet) -> Outcome<()> {
    for _ in 0..50 {
        let before = Usage::of(running.pid())?;
        fleet.idle(Duration::from_millis(200))?;
        if Usage::of(running.pid())?.since(before).cpu < Duration::from_millis(8) {
            break;
        }
    }
    Ok(())
}

/// A floor that drops, duplicates or swaps one delivery must be found out, and an honest one not be accused.
fn self_check(options: &Options) -> Outcome<()> {
    let sizes = Scenario::Fan.sizes(true);
    let plan = plan(Scenario::Fan, &sizes, options);
    for fault in [None].into_iter().chain(Fault::ALL.map(Some)) {
        let target = Target::Floor {
            coalesce: options.coalesce,
            fault: fault.map(|kind| (kind, 137)),
        };
        let running = Running::start(&target)?;
        let tally = Crowd::gather(running.address, plan)?.run()?;
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
