//! What sessions cost that say little: coming and going, and the memory that they hold.

use std::time::{Duration, Instant};

use super::Outcome;
use super::fleet::Fleet;
use super::frame;
use super::load::{is_subscribed, subscribe};
use super::process::{Running, Target, Usage, resident};
use super::report::{Reading, compared, fact, fault};

/// Messages that each session sends to itself.
const EXCHANGES: usize = 20;
const EXCHANGED: &str = "exchanged-0123456789";
/// Messages of the burst, and their bytes.
const BURST: usize = 100;
const BURST_BYTES: usize = 1_000;
/// What each message of the burst begins with.
const BURST_MARK: &str = "~burst";

/// Memory per session: connected, in a room of its own, after some exchanges, and `wait` after a burst to all.
pub(crate) fn memory(target: &Target, sessions: usize, v1: bool, wait: Duration) -> Outcome<Vec<Reading>> {
    let (running, mut fleet) = warmed_up(target, v1)?;
    let pid = running.pid();
    let kib_each = |before: u64, after: u64| (after as f64 - before as f64) / sessions as f64;
    let empty = resident(pid)?;
    let numbers = fleet.connect(running.address(), sessions, v1)?;
    settle(&running, &mut fleet)?;
    let connected = resident(pid)?;

    for number in numbers.clone() {
        fleet.queue(number, &subscribe(&own_room(number)));
        fleet.flush(number);
    }
    settle(&running, &mut fleet)?;
    let joined = resident(pid)?;

    exchange(&mut fleet, numbers.clone())?;
    settle(&running, &mut fleet)?;
    let exchanged = resident(pid)?;

    for number in numbers.clone() {
        fleet.queue(number, &subscribe("burst"));
        fleet.flush(number);
    }
    settle(&running, &mut fleet)?;
    let padding = BURST_BYTES - BURST_MARK.len();
    let message = format!(
        r#"{{"type":"sendMessage","roomId":"burst","message":"{BURST_MARK}{:x<padding$}"}}"#,
        ""
    );
    let publisher = numbers.start;
    for _ in 0..BURST {
        fleet.queue(publisher, message.as_bytes());
    }
    fleet.flush(publisher);
    fleet.collect(BURST * sessions, "deliveries of the burst", &mut |_, text, _| {
        frame::find(&text[..text.len().min(80)], BURST_MARK.as_bytes()).is_some()
    })?;
    let at_burst = resident(pid)?;
    fleet.idle(wait)?;
    let after_burst = resident(pid)?;
    Ok(vec![
        compared("resident, KiB per session, connected", kib_each(empty, connected)),
        compared("... in a room of its own", kib_each(empty, joined)),
        compared("... after 20 exchanges each", kib_each(empty, exchanged)),
        compared("... at the end of 100 x 1 kB to each", kib_each(empty, at_burst)),
        compared(
            format!("... {} s later", wait.as_secs_f64()),
            kib_each(empty, after_burst),
        ),
        fact("resident, KiB, without sessions", empty as f64),
        fault("connections closed", fleet.closed),
    ])
}

/// Each session publishes to its own room and waits for the message, again and again, all at the same time.
fn exchange(fleet: &mut Fleet, numbers: std::ops::Range<usize>) -> Outcome<()> {
    let mut left = vec![EXCHANGES; numbers.end];
    let mut ready: Vec<usize> = numbers.clone().collect();
    let (mut waiting, mut progress) = (numbers.len(), Instant::now());
    while waiting > 0 {
        for number in ready.drain(..) {
            let room = own_room(number);
            let message = format!(r#"{{"type":"sendMessage","roomId":"{room}","message":"{EXCHANGED}"}}"#);
            fleet.queue(number, message.as_bytes());
            fleet.flush(number);
        }
        fleet.turn(Duration::from_millis(100), &mut |number, text, read| {
            if frame::find(text, EXCHANGED.as_bytes()).is_none() {
                return;
            }
            progress = read;
            left[number] = left[number].saturating_sub(1);
            match left[number] {
                0 => waiting -= 1,
                _ => ready.push(number),
            }
        })?;
        if progress.elapsed() > Duration::from_secs(30) {
            return Err(format!("{waiting} sessions wait for an exchange").into());
        }
    }
    Ok(())
}

/// Memory per room: the same sessions without and with so many rooms each.
pub(crate) fn memory_of_rooms(
    target: &Target,
    sessions: usize,
    rooms: usize,
    v1: bool,
) -> Outcome<Vec<Reading>> {
    let (running, mut fleet) = warmed_up(target, v1)?;
    let numbers = fleet.connect(running.address(), sessions, v1)?;
    settle(&running, &mut fleet)?;
    let without = resident(running.pid())?;
    let before = Usage::of(running.pid())?;
    join_rooms(&mut fleet, numbers, rooms, v1)?;
    settle(&running, &mut fleet)?;
    let with = resident(running.pid())?;
    let used = Usage::of(running.pid())?.since(before);
    let all = (sessions * rooms) as f64;
    Ok(vec![
        compared(
            "resident, bytes per room",
            (with as f64 - without as f64) * 1024.0 / all,
        ),
        compared("cpu, us per join", used.microseconds() / all),
        fault("connections closed", fleet.closed),
    ])
}

/// Each session joins so many rooms that nobody else is in; sessions that speak v1 are waited for.
pub(crate) fn join_rooms(
    fleet: &mut Fleet,
    numbers: std::ops::Range<usize>,
    rooms: usize,
    v1: bool,
) -> Outcome<()> {
    let all = numbers.len() * rooms;
    for number in numbers {
        for room in 0..rooms {
            fleet.queue(number, &subscribe(&format!("many-{number}-{room}")));
        }
        fleet.flush(number);
    }
    if v1 {
        fleet.collect(all, "rooms were confirmed", &mut |_, text, _| is_subscribed(text))?;
    }
    Ok(())
}

pub(crate) fn connect(target: &Target, sessions: usize, v1: bool) -> Outcome<Vec<Reading>> {
    let (running, mut fleet) = warmed_up(target, v1)?;
    let before = Usage::of(running.pid())?;
    let began = Instant::now();
    let numbers = fleet.connect(running.address(), sessions, v1)?;
    let took = began.elapsed();
    settle(&running, &mut fleet)?;
    let connected = Usage::of(running.pid())?;
    fleet.close(numbers);
    settle(&running, &mut fleet)?;
    let closed = Usage::of(running.pid())?;
    let each = |usage: Usage| usage.microseconds() / sessions as f64;
    Ok(vec![
        compared("cpu, us per connect", each(connected.since(before))),
        compared("cpu, us per close", each(closed.since(connected))),
        fact("connects per second", sessions as f64 / took.as_secs_f64()),
        compared("connect to 101 p50, ms", fleet.upgrades.quantile_ms(0.5)),
        compared("connect to 101 p99, ms", fleet.upgrades.quantile_ms(0.99)),
        fault("connections closed", fleet.closed),
    ])
}

/// Started, and past what only the first connections cost.
pub(crate) fn warmed_up(target: &Target, v1: bool) -> Outcome<(Running, Fleet)> {
    let running = Running::start(target)?;
    let mut fleet = Fleet::new()?;
    fleet.connect(running.address(), 10, v1)?;
    settle(&running, &mut fleet)?;
    Ok((running, fleet))
}

/// Waits until the process has nothing more to do, or 10 s.
pub(crate) fn settle(running: &Running, fleet: &mut Fleet) -> Outcome<()> {
    for _ in 0..50 {
        let before = Usage::of(running.pid())?;
        fleet.idle(Duration::from_millis(200))?;
        if Usage::of(running.pid())?.since(before).cpu < Duration::from_millis(8) {
            break;
        }
    }
    Ok(())
}

fn own_room(number: usize) -> String {
    format!("own-{number}")
}
