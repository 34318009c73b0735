//! Numbered messages on a schedule, and the account of what became of them.
//!
//! - Message `i` falls due at `i / rate` and carries that moment; latency counts from there, so a generator or a
//!   server that falls behind shows in it, instead of thinning out the load.
//! - Each room has its own numbers and one publisher, and a member is in one room, so each member must see
//!   0, 1, 2, … A number beyond the next one opens a gap; one that closes a gap later was reordered, one that
//!   was there before is a duplicate, and a gap that is never closed is a loss.
//! - Plain sessions get no answer to SUBSCRIBE: members are known to be in when a probe has reached each of them.

use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::Outcome;
use super::fleet::Fleet;
use super::histogram::Histogram;

/// A text begins with this mark, the room (6 hex digits), the number (8) and the due time in nanoseconds (16).
const MARK: u8 = b'~';
const MARKED_LENGTH: usize = 31;
/// Bytes of the shortest text with room for all that.
pub(crate) const SMALLEST_MESSAGE: usize = MARKED_LENGTH;

/// The number of messages that only find out who is in.
const PROBE_NUMBER: u32 = u32::MAX;
/// The same as it is on the wire.
pub(crate) const PROBE: &str = "ffffffff";

const READY_DEADLINE: Duration = Duration::from_secs(30);
/// What the end of a run may take beyond the time over which messages fall due.
const RUN_DEADLINE: Duration = Duration::from_secs(90);
/// Rooms that one session of [`Crowd::hold`] is in: the server's default limit.
const ROOMS_PER_HOLDER: usize = 1000;

/// What is sent to whom.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rooms: usize,
    /// In each room.
    pub(crate) members: usize,
    /// Messages per second, over all rooms.
    pub(crate) rate: f64,
    pub(crate) burst: usize,
    pub(crate) seconds: f64,
    /// Bytes of a text.
    pub(crate) size: usize,
    pub(crate) publishers: usize,
    pub(crate) v1: bool,
    /// How long silence must last before what is missing counts as lost.
    pub(crate) silence: Duration,
}

/// What became of it.
pub(crate) struct Tally {
    pub(crate) published: u64,
    /// Each message once per member.
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// Missing to members whose connection was closed.
    pub(crate) forgone: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    /// Of another room, or not as it was sent.
    pub(crate) misrouted: u64,
    /// Answered with an error frame.
    pub(crate) refused: u64,
    /// Connections that the server closed.
    pub(crate) closed: u64,
    /// Those of them that were told that they were too slow (4008).
    pub(crate) too_slow: u64,
    /// From the due time to the read.
    pub(crate) latency: Histogram,
    /// From the due time to the generator's write: its own share of the latency.
    pub(crate) lag: Histogram,
    /// From the first due time to the last delivery.
    pub(crate) span: Duration,
}

/// Publishers and members, connected and subscribed.
pub(crate) struct Crowd {
    plan: Plan,
    fleet: Fleet,
    publishers: Range<usize>,
    members: Vec<Member>,
    first_member: usize,
    started: Instant,
    json: Vec<u8>,
}

struct Member {
    room: u32,
    next: u32,
    missing: Vec<u32>,
    ready: bool,
}

impl Crowd {
    /// Connects all, and returns when every member has been seen to be in its room. Publishers and members may be on
    /// nodes of their own.
    pub(crate) fn gather(publish_at: SocketAddr, join_at: SocketAddr, plan: Plan) -> Outcome<Self> {
        let mut fleet = Fleet::new()?;
        let publishers = fleet.connect(publish_at, plan.publishers, plan.v1)?;
        let numbers = fleet.connect(join_at, plan.rooms * plan.members, plan.v1)?;
        let first_member = numbers.start;
        let mut members = Vec::with_capacity(numbers.len());
        for number in numbers {
            let room = (number - first_member) / plan.members;
            fleet.queue(number, &subscribe(&room_name(room)));
            fleet.flush(number);
            members.push(Member {
                room: room as u32,
                next: 0,
                missing: Vec::new(),
                ready: false,
            });
        }
        let started = Instant::now();
        let mut crowd = Self {
            plan,
            fleet,
            publishers,
            members,
            first_member,
            started,
            json: Vec::new(),
        };
        crowd.fleet.idle(Duration::from_millis(100))?;
        crowd.probe()?;
        Ok(crowd)
    }

    /// Occupies so many other rooms with additional sessions; these speak v1, whose answers tell when it is done.
    pub(crate) fn hold(&mut self, address: SocketAddr, rooms: usize) -> Outcome<()> {
        let holders = self
            .fleet
            .connect(address, rooms.div_ceil(ROOMS_PER_HOLDER), true)?;
        for room in 0..rooms {
            let number = holders.start + room / ROOMS_PER_HOLDER;
            self.fleet.queue(number, &subscribe(&format!("held-{room}")));
        }
        holders.for_each(|number| self.fleet.flush(number));
        self.fleet
            .collect(rooms, "other rooms were confirmed", &mut |_, text, _| {
                is_subscribed(text)
            })?;
        self.fleet.idle(Duration::from_millis(200))
    }

    /// Sends probes to rooms with members that have not seen one, until all have.
    fn probe(&mut self) -> Outcome<()> {
        let began = Instant::now();
        loop {
            let mut rooms: Vec<u32> = self.members.iter().filter(|m| !m.ready).map(|m| m.room).collect();
            rooms.dedup();
            if rooms.is_empty() {
                break;
            }
            if began.elapsed() > READY_DEADLINE {
                return Err(format!("{} rooms had members without messages after 30 s", rooms.len()).into());
            }
            for room in rooms {
                self.queue(room as usize, PROBE_NUMBER, 0);
            }
            self.flush();
            let wave = Instant::now();
            while wave.elapsed() < Duration::from_millis(500) && self.members.iter().any(|m| !m.ready) {
                let (first, members) = (self.first_member, &mut self.members);
                self.fleet
                    .turn(Duration::from_millis(50), &mut |number, text, _| {
                        if let Some(member) =
                            number.checked_sub(first).and_then(|index| members.get_mut(index))
                        {
                            member.ready |=
                                Marked::read(text).is_some_and(|mark| mark.number == PROBE_NUMBER);
                        }
                    })?;
            }
        }
        self.fleet.idle(Duration::from_millis(300))
    }

    fn queue(&mut self, room: usize, number: u32, due: u64) {
        let publisher = self.publishers.start + room % self.publishers.len();
        let (json, padding) = (&mut self.json, self.plan.size - MARKED_LENGTH);
        json.clear();
        let id = if self.plan.v1 { r#""id":1,"# } else { "" };
        let name = room_name(room);
        // Writing to memory does not fail.
        let _ = write!(
            json,
            r#"{{"type":"sendMessage",{id}"roomId":"{name}","message":"~{room:06x}{number:08x}{due:016x}{:x<padding$}"}}"#,
            ""
        );
        self.fleet.queue(publisher, json);
    }

    fn flush(&mut self) {
        self.publishers
            .clone()
            .for_each(|number| self.fleet.flush(number));
    }

    pub(crate) fn sessions(&self) -> usize {
        self.publishers.len() + self.members.len()
    }

    /// Sends all messages on schedule and waits until nothing more comes.
    pub(crate) fn run(&mut self) -> Outcome<Tally> {
        self.run_at(self.plan.rate, self.plan.seconds)
    }

    /// The same at another rate. May be repeated for as long as nothing went astray.
    pub(crate) fn run_at(&mut self, rate: f64, seconds: f64) -> Outcome<Tally> {
        let plan = Plan {
            rate,
            seconds,
            ..self.plan
        };
        for member in &mut self.members {
            member.next = 0;
            member.missing.clear();
        }
        let deadline = RUN_DEADLINE + Duration::from_secs_f64(seconds);
        let total = (plan.rate * plan.seconds).round().max(1.0) as usize;
        let expected = (total * plan.members) as u64;
        let due =
            |message: usize| Duration::from_secs_f64((message / plan.burst * plan.burst) as f64 / plan.rate);
        let mut tally = Tally::new(total as u64);
        self.started = Instant::now();
        let (mut sent, mut last) = (0, self.started);
        loop {
            let now = self.started.elapsed();
            let waiting = sent;
            while sent < total && due(sent) <= now {
                let due = due(sent);
                tally.lag.record((now - due).as_nanos() as u64);
                self.queue(
                    sent % plan.rooms,
                    (sent / plan.rooms) as u32,
                    due.as_nanos() as u64,
                );
                sent += 1;
            }
            if sent > waiting {
                self.flush();
            }
            let timeout = if sent < total {
                due(sent).saturating_sub(now)
            } else {
                Duration::from_millis(100)
            };
            let (first, members, started) = (self.first_member, &mut self.members, self.started);
            let texts = self.fleet.turn(timeout, &mut |number, text, read| {
                let member = number.checked_sub(first).and_then(|index| members.get_mut(index));
                tally.account(member, text, plan.size, read - started);
            })?;
            if texts > 0 {
                last = Instant::now();
            }
            let enough = if tally.delivered < expected {
                plan.silence
            } else {
                Duration::from_millis(100)
            };
            if sent == total && self.fleet.all_sent() && last.elapsed() > enough {
                break;
            }
            if now > deadline {
                return Err(format!(
                    "{sent} of {total} messages sent, {} of {expected} deliveries in {now:.0?}",
                    tally.delivered
                )
                .into());
            }
        }
        (tally.closed, tally.too_slow) = (self.fleet.closed, self.fleet.too_slow);
        for (index, member) in self.members.iter().enumerate() {
            let published = (total + plan.rooms - 1 - member.room as usize) / plan.rooms;
            let missing = (member.missing.len() + published.saturating_sub(member.next as usize)) as u64;
            if self.fleet.is_open(self.first_member + index) {
                tally.lost += missing;
            } else {
                tally.forgone += missing;
            }
        }
        Ok(tally)
    }
}

/// What the head of a text says.
struct Marked {
    room: u32,
    number: u32,
    due: u64,
}

impl Marked {
    fn read(text: &[u8]) -> Option<Self> {
        let start = text.iter().position(|&byte| byte == MARK)?;
        let mark = text.get(start + 1..start + MARKED_LENGTH)?;
        Some(Self {
            room: hex(&mark[..6])? as u32,
            number: hex(&mark[6..14])? as u32,
            due: hex(&mark[14..])?,
        })
    }
}

/// Each byte's value as a hexadecimal digit, or [`NO_DIGIT`]. A table, because this is most of what the generator does
/// for a delivery.
const DIGITS: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
};
const NO_DIGIT: u8 = 0x80;

fn hex(digits: &[u8]) -> Option<u64> {
    let (value, seen) = digits.iter().fold((0, 0), |(value, seen), &digit| {
        let digit = DIGITS[usize::from(digit)];
        (value << 4 | u64::from(digit & 0xF), seen | digit)
    });
    (seen & NO_DIGIT == 0).then_some(value)
}

impl Tally {
    fn new(published: u64) -> Self {
        Self {
            published,
            delivered: 0,
            lost: 0,
            forgone: 0,
            duplicated: 0,
            reordered: 0,
            misrouted: 0,
            refused: 0,
            closed: 0,
            too_slow: 0,
            latency: Histogram::new(),
            lag: Histogram::new(),
            span: Duration::ZERO,
        }
    }

    /// Whether each member got each message once, and in order.
    pub(crate) fn is_clean(&self) -> bool {
        let astray = [
            self.lost,
            self.forgone,
            self.duplicated,
            self.reordered,
            self.misrouted,
        ];
        astray.iter().sum::<u64>() + self.refused + self.closed == 0
    }

    fn account(&mut self, member: Option<&mut Member>, text: &[u8], size: usize, read: Duration) {
        let Some(mark) = Marked::read(text) else {
            if text.starts_with(br#"{"type":"error""#) {
                if self.refused == 0 {
                    eprintln!("refused: {}", String::from_utf8_lossy(text));
                }
                self.refused += 1;
            }
            return;
        };
        match member {
            _ if mark.number == PROBE_NUMBER => {}
            Some(member) if member.room == mark.room && text.len() >= size => {
                if member.arrived(mark.number, self) {
                    self.delivered += 1;
                    self.latency
                        .record((read.as_nanos() as u64).saturating_sub(mark.due));
                    self.span = read;
                }
            }
            _ => self.misrouted += 1,
        }
    }
}

impl Member {
    /// Accounts for a number; false if it was there before.
    fn arrived(&mut self, number: u32, tally: &mut Tally) -> bool {
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
        } else if let Some(at) = self.missing.iter().position(|&missing| missing == number) {
            self.missing.swap_remove(at);
            tally.reordered += 1;
        } else {
            tally.duplicated += 1;
            return false;
        }
        true
    }
}

fn room_name(room: usize) -> String {
    format!("room-{room}")
}

pub(crate) fn subscribe(room: &str) -> Vec<u8> {
    format!(r#"{{"type":"SUBSCRIBE","id":1,"room":"{room}"}}"#).into_bytes()
}

pub(crate) fn is_subscribed(text: &[u8]) -> bool {
    text.starts_with(br#"{"type":"subscribed""#)
}
