//! Joining and leaving on Redis: as fast as it goes, all at once, and again after the link was lost.
//!
//! What Redis executed is read from Redis, because a join and a leave that meet in the server cancel each other out
//! and are no operations. An operation is one channel; how many a call has is seen by MONITOR in a second of its own,
//! after the one in which costs are counted. Redis's view of the channels also says when the last has arrived.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::Connection;

use super::Outcome;
use super::fleet::Fleet;
use super::frame;
use super::histogram::Histogram;
use super::load::{is_subscribed, subscribe};
use super::process::{RedisServer, Running, Target, Usage, info_field};
use super::report::{Reading, compared, fact, fault};
use super::sessions::{join_rooms, settle, warmed_up};

const DEADLINE: Duration = Duration::from_secs(60);
/// How often Redis is asked about its channels.
const CHANNELS_EVERY: Duration = Duration::from_millis(5);
/// How often the bystander asks.
const PING_EVERY: Duration = Duration::from_millis(2);
/// A plain session is answered only when it errs; what it has sent before was read by then.
const MARKER: &[u8] = br#"{"type":"marker"}"#;
/// Markers of a plain session under way.
const BATCHES: usize = 2;

/// Half of the sessions speak v1: each has `rooms` commands under way and, for each room, joins when it has left and
/// leaves when it has joined. The others are plain: they join `rooms` rooms and leave those of the batch before, two
/// such batches ahead of the server. No room is shared, so each join is a first-in and each leave a last-out.
pub(crate) fn flapping(
    target: &Target,
    sessions: usize,
    rooms: usize,
    duration: Duration,
) -> Outcome<Vec<Reading>> {
    let running = Running::start(target)?;
    let mut fleet = Fleet::new()?;
    let plain = fleet.connect(running.address(), sessions / 2, false)?;
    let v1 = fleet.connect(running.address(), sessions - sessions / 2, true)?;
    settle(&running, &mut fleet)?;
    let mut redis = running.redis()?.connect()?;
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query(&mut redis)?;
    let meter = running.meter()?;

    let mut flappers = Flappers::start(&mut fleet, plain, v1, rooms);
    let began = Instant::now();
    while began.elapsed() < duration {
        flappers.turn(&mut fleet, true)?;
    }
    let sending = began.elapsed().as_secs_f64();
    let spent = meter.read()?;
    let calls = calls(&mut redis)?;
    let (commands, replies) = (flappers.commands as f64, flappers.replies as f64);
    let channels_per_call = watch_calls(running.redis()?, || {
        let began = Instant::now();
        while began.elapsed() < duration.min(Duration::from_secs(1)) {
            flappers.turn(&mut fleet, true)?;
        }
        Ok(())
    })?;
    // Each ends in one room of its own, and in nothing else.
    flappers.end(&mut fleet);
    let stopped = Instant::now();
    let (mut answered, mut right, mut asked) = (None, None, stopped);
    while answered.is_none() || right.is_none() {
        flappers.turn(&mut fleet, false)?;
        if answered.is_none() && flappers.open == 0 {
            answered = Some(stopped.elapsed());
        }
        if right.is_none() && asked.elapsed() >= CHANNELS_EVERY {
            asked = Instant::now();
            let channels: Vec<String> = redis::cmd("PUBSUB")
                .arg("CHANNELS")
                .arg("flap-*")
                .query(&mut redis)?;
            let all_ends = channels.iter().all(|channel| channel.starts_with("flap-end-"));
            if all_ends && channels.len() == sessions {
                right = Some(stopped.elapsed());
            }
        }
        if stopped.elapsed() > DEADLINE {
            break;
        }
    }
    let operations: f64 = (0..2)
        .map(|verb| calls[verb] as f64 * channels_per_call[verb])
        .sum();
    let each = |used: Usage| used.microseconds() / operations;
    let milliseconds = |lag: Option<Duration>| lag.unwrap_or(DEADLINE).as_secs_f64() * 1e3;
    Ok(vec![
        compared("operations in Redis per second", operations / sending),
        fact("SUBSCRIBE calls in Redis", calls[0] as f64),
        fact("channels in each", channels_per_call[0]),
        fact("UNSUBSCRIBE calls in Redis", calls[1] as f64),
        fact("channels in each of these", channels_per_call[1]),
        fact("commands sent per second", commands / sending),
        fact("v1 replies per second", replies / sending),
        compared("server: cpu, us per operation", each(spent.server())),
        compared(
            "server: cpu, us per command",
            spent.server().microseconds() / commands,
        ),
        compared("Redis: cpu, us per operation", spent.redis.map_or(f64::NAN, each)),
        fact("generator: cpu, us per operation", each(spent.generator)),
        compared("at the end: all answered after, ms", milliseconds(answered)),
        compared("at the end: channels right after, ms", milliseconds(right)),
        fault("channels wrong after a minute", u64::from(right.is_none())),
        fault("answers missing after a minute", flappers.open as u64),
        fault("refused", flappers.refused),
        fault("connections closed", fleet.closed),
    ])
}

struct Flappers {
    rooms: usize,
    first_v1: usize,
    sessions: Range<usize>,
    /// Batches that a plain session has begun; by their parity the rooms are named.
    batches: Vec<usize>,
    /// Answers that are owed to all of them.
    open: usize,
    commands: u64,
    replies: u64,
    refused: u64,
}

/// What an answer means.
enum Answer {
    Joined,
    Left,
    Marker,
    Refused,
}

impl Flappers {
    fn start(fleet: &mut Fleet, plain: Range<usize>, v1: Range<usize>, rooms: usize) -> Self {
        let mut flappers = Self {
            rooms,
            first_v1: v1.start,
            sessions: plain.start..v1.end,
            batches: vec![0; plain.end],
            open: 0,
            commands: 0,
            replies: 0,
            refused: 0,
        };
        for number in plain {
            for _ in 0..BATCHES {
                flappers.batch(fleet, number);
            }
            fleet.flush(number);
        }
        for number in v1 {
            for slot in 0..rooms {
                flappers.command(fleet, number, "SUBSCRIBE", slot);
            }
            fleet.flush(number);
        }
        flappers
    }

    /// Takes answers, and with `going_on` sends what follows them; without, only what leaves again what was joined.
    fn turn(&mut self, fleet: &mut Fleet, going_on: bool) -> Outcome<()> {
        let mut answers = Vec::new();
        fleet.turn(Duration::from_millis(2), &mut |number, text, _| {
            if let Some(answer) = Answer::read(text) {
                answers.push((number, id_of(text), answer));
            }
        })?;
        let mut touched = Vec::new();
        for (number, id, answer) in answers {
            self.open = self.open.saturating_sub(1);
            match (answer, id) {
                (Answer::Marker, _) if going_on => self.batch(fleet, number),
                (Answer::Marker, _) => {}
                (Answer::Joined, Some(slot)) if slot < self.rooms => {
                    self.replies += 1;
                    self.command(fleet, number, "UNSUBSCRIBE", slot);
                }
                (Answer::Left, Some(slot)) => {
                    self.replies += 1;
                    if going_on {
                        self.command(fleet, number, "SUBSCRIBE", slot);
                    }
                }
                (Answer::Joined, _) => {}
                (Answer::Left | Answer::Refused, _) => self.refused += 1,
            }
            touched.push(number);
        }
        touched.dedup();
        touched.into_iter().for_each(|number| fleet.flush(number));
        Ok(())
    }

    /// Sends what the last state is: plain sessions leave all, and each joins a last room.
    fn end(&mut self, fleet: &mut Fleet) {
        for number in self.sessions.clone() {
            if number < self.first_v1 {
                for parity in 0..2 {
                    self.plain(fleet, number, "UNSUBSCRIBE", parity);
                }
            }
            let room = format!("flap-end-{number}");
            let json = format!(r#"{{"type":"SUBSCRIBE","id":{},"room":"{room}"}}"#, self.rooms);
            fleet.queue(number, json.as_bytes());
            self.commands += 1;
            self.open += 1;
            if number < self.first_v1 {
                fleet.queue(number, MARKER);
            }
            fleet.flush(number);
        }
    }

    fn batch(&mut self, fleet: &mut Fleet, number: usize) {
        let batch = self.batches[number];
        self.batches[number] += 1;
        if batch > 0 {
            self.plain(fleet, number, "UNSUBSCRIBE", (batch - 1) % 2);
        }
        self.plain(fleet, number, "SUBSCRIBE", batch % 2);
        fleet.queue(number, MARKER);
        self.open += 1;
    }

    fn plain(&mut self, fleet: &mut Fleet, number: usize, command: &str, parity: usize) {
        for slot in 0..self.rooms {
            let json = format!(r#"{{"type":"{command}","room":"flap-{number}-{parity}-{slot}"}}"#);
            fleet.queue(number, json.as_bytes());
        }
        self.commands += self.rooms as u64;
    }

    fn command(&mut self, fleet: &mut Fleet, number: usize, command: &str, slot: usize) {
        let json = format!(r#"{{"type":"{command}","id":{slot},"room":"flap-{number}-{slot}"}}"#);
        fleet.queue(number, json.as_bytes());
        self.commands += 1;
        self.open += 1;
    }
}

impl Answer {
    fn read(text: &[u8]) -> Option<Self> {
        let kind = frame::json_string(text, br#""type":""#)?;
        match kind {
            b"subscribed" => Some(Self::Joined),
            b"unsubscribed" => Some(Self::Left),
            b"error" if frame::find(text, b"unknown_type").is_some() => Some(Self::Marker),
            b"error" => Some(Self::Refused),
            _ => None,
        }
    }
}

fn id_of(text: &[u8]) -> Option<usize> {
    const FIELD: &[u8] = br#""id":"#;
    let digits = &text[frame::find(text, FIELD)? + FIELD.len()..];
    let end = digits.iter().position(|digit| !digit.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

const VERBS: [&str; 2] = ["subscribe", "unsubscribe"];

/// The calls of each of the [`VERBS`] that Redis has executed.
fn calls(redis: &mut Connection) -> Outcome<[u64; 2]> {
    let info: String = redis::cmd("INFO").arg("commandstats").query(redis)?;
    Ok(VERBS.map(|verb| {
        let line: Option<String> = info_field(&info, &format!("cmdstat_{verb}:calls="));
        let digits = line.and_then(|line| line.split(',').next()?.parse().ok());
        digits.unwrap_or(0)
    }))
}

/// How many channels a call of each of the [`VERBS`] has while `traffic` runs.
fn watch_calls(redis: &RedisServer, traffic: impl FnOnce() -> Outcome<()>) -> Outcome<[f64; 2]> {
    let mut monitor = redis.monitor()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut seen, mut bytes, mut piece) = ([[0_u64; 2]; 2], Vec::new(), vec![0; 1 << 16]);
            while !stop.load(Ordering::Relaxed) {
                // A timeout is a moment without commands.
                let length = monitor.read(&mut piece).unwrap_or(0);
                bytes.extend_from_slice(&piece[..length]);
                let whole = bytes
                    .iter()
                    .rposition(|&byte| byte == b'\n')
                    .map_or(0, |end| end + 1);
                for line in bytes[..whole].split(|&byte| byte == b'\n') {
                    count_channels(line, &mut seen);
                }
                bytes.drain(..whole);
            }
            seen
        });
        let outcome = traffic();
        stop.store(true, Ordering::Relaxed);
        let seen = watch.join().map_err(|_| "the watch panicked")?;
        outcome.map(|()| seen.map(|[calls, channels]| channels as f64 / calls.max(1) as f64))
    })
}

/// Adds a line of MONITOR, `TIME [DATABASE ADDRESS] "VERB" "CHANNEL" …`, to the calls and channels of its verb.
fn count_channels(line: &[u8], seen: &mut [[u64; 2]; 2]) {
    let mut words = line.split(|&byte| byte == b'"').skip(1).step_by(2);
    let Some(word) = words.next() else {
        return;
    };
    if let Some(verb) = VERBS
        .iter()
        .position(|verb| word.eq_ignore_ascii_case(verb.as_bytes()))
    {
        seen[verb][0] += 1;
        seen[verb][1] += words.count() as u64;
    }
}

/// Every session joins a room of its own, all at the same time.
pub(crate) fn all_at_once(target: &Target, sessions: usize) -> Outcome<Vec<Reading>> {
    let (running, mut fleet) = warmed_up(target, true)?;
    let numbers = fleet.connect(running.address(), sessions, true)?;
    settle(&running, &mut fleet)?;
    let meter = running.meter()?;
    let began = Instant::now();
    for number in numbers {
        fleet.queue(number, &subscribe(&format!("own-{number}")));
        fleet.flush(number);
    }
    let mut times = Histogram::new();
    fleet.collect(sessions, "joins were confirmed", &mut |_, text, read| {
        let counts = is_subscribed(text);
        if counts {
            times.record((read - began).as_nanos() as u64);
        }
        counts
    })?;
    let spent = meter.read()?;
    let each = sessions as f64;
    let redis = spent.redis.map_or(f64::NAN, |used| used.microseconds() / each);
    Ok(vec![
        compared("half of them in after, ms", times.quantile_ms(0.5)),
        compared("all in after, ms", times.max_ms()),
        compared("server: cpu, us per join", spent.server().microseconds() / each),
        compared("Redis: cpu, us per join", redis),
        fact(
            "generator: cpu, us per join",
            spent.generator.microseconds() / each,
        ),
        fault("connections closed", fleet.closed),
    ])
}

/// The link of a node with many rooms is killed; a bystander asks for PONGs all the while.
pub(crate) fn link_killed(target: &Target, sessions: usize, rooms: usize) -> Outcome<Vec<Reading>> {
    let (running, mut fleet) = warmed_up(target, true)?;
    let mut redis = running.redis()?.connect()?;
    let numbers = fleet.connect(running.address(), sessions, true)?;
    let bystander = fleet.connect(running.address(), 1, true)?.start;
    settle(&running, &mut fleet)?;
    let began = Instant::now();
    join_rooms(&mut fleet, numbers, rooms, true)?;
    let joined = began.elapsed();
    settle(&running, &mut fleet)?;

    let before = channels(&mut redis)?;
    let meter = running.meter()?;
    let mut calm = Pings::new(bystander);
    calm.run(&mut fleet, Duration::from_secs(1), &AtomicBool::new(false))?;
    // Asked on a thread of its own: the bystander must not wait for a busy Redis.
    let healed = AtomicBool::new(false);
    let mut pings = Pings::new(bystander);
    let idle = meter.read()?;
    let cut = Instant::now();
    let took = thread::scope(|scope| -> Outcome<Option<Duration>> {
        let watch = scope.spawn(|| -> Result<Option<Duration>, String> {
            let took = heal(&mut redis, before, cut);
            healed.store(true, Ordering::Relaxed);
            took.map_err(|error| error.to_string())
        });
        pings.run(&mut fleet, DEADLINE, &healed)?;
        Ok(watch.join().map_err(|_| "the watch panicked")??)
    })?;
    // With history the rooms are read after that, and the bystander must not notice.
    pings.run(&mut fleet, Duration::from_secs(2), &AtomicBool::new(false))?;
    settle(&running, &mut fleet)?;
    let spent = meter.read()?;
    let cpu = spent.server().since(idle.server()).cpu;
    let redis_cpu = spent
        .redis
        .zip(idle.redis)
        .map(|(now, before)| now.since(before).cpu);
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    Ok(vec![
        fact("joining them all before, ms", milliseconds(joined)),
        compared(
            "all subscribed again after, ms",
            took.map_or(f64::NAN, milliseconds),
        ),
        compared("longest PING meanwhile, ms", pings.times.max_ms()),
        compared("p99 PING meanwhile, ms", pings.times.quantile_ms(0.99)),
        fact("longest PING in the second before, ms", calm.times.max_ms()),
        compared("server: cpu until all is quiet, ms", milliseconds(cpu)),
        compared(
            "Redis: cpu until all is quiet, ms",
            redis_cpu.map_or(f64::NAN, milliseconds),
        ),
        fault("not subscribed again within a minute", u64::from(took.is_none())),
        fault("PINGs without a PONG", pings.open.len() as u64),
        fault("connections closed", fleet.closed),
    ])
}

/// Kills the links and waits until there are as many channels as before.
fn heal(redis: &mut Connection, before: u64, cut: Instant) -> Outcome<Option<Duration>> {
    let killed: u64 = redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "pubsub"])
        .query(redis)?;
    if killed == 0 {
        return Err("there was no link to kill".into());
    }
    if channels(redis)? >= before {
        return Err("the killed link's channels are still there".into());
    }
    while cut.elapsed() < DEADLINE {
        if channels(redis)? >= before {
            return Ok(Some(cut.elapsed()));
        }
        thread::sleep(CHANNELS_EVERY);
    }
    Ok(None)
}

fn channels(redis: &mut Connection) -> Outcome<u64> {
    let info: String = redis::cmd("INFO").arg("stats").query(redis)?;
    Ok(info_field(&info, "pubsub_channels:").ok_or("INFO has no pubsub_channels")?)
}

/// PINGs on a schedule, each timed from when it was due.
struct Pings {
    session: usize,
    open: std::collections::VecDeque<Instant>,
    times: Histogram,
}

impl Pings {
    fn new(session: usize) -> Self {
        Self {
            session,
            open: std::collections::VecDeque::new(),
            times: Histogram::new(),
        }
    }

    /// Until the time is over or it is told to stop, and all are answered.
    fn run(&mut self, fleet: &mut Fleet, duration: Duration, stop: &AtomicBool) -> Outcome<()> {
        let began = Instant::now();
        let mut due = began;
        loop {
            let going_on = began.elapsed() < duration && !stop.load(Ordering::Relaxed);
            if !going_on && (self.open.is_empty() || began.elapsed() > duration + DEADLINE) {
                return Ok(());
            }
            while going_on && due <= Instant::now() {
                fleet.queue(self.session, br#"{"type":"PING","id":1}"#);
                self.open.push_back(due);
                due += PING_EVERY;
            }
            fleet.flush(self.session);
            let wait = due
                .saturating_duration_since(Instant::now())
                .max(Duration::from_micros(200));
            let (session, open, times) = (self.session, &mut self.open, &mut self.times);
            fleet.turn(wait, &mut |number, text, read| {
                if number == session
                    && text.starts_with(br#"{"type":"pong""#)
                    && let Some(due) = open.pop_front()
                {
                    times.record(read.saturating_duration_since(due).as_nanos() as u64);
                }
            })?;
        }
    }
}
