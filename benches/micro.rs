//! What the pure parts cost, one call at a time.
//!
//! ```sh
//! cargo bench --bench micro              # all, in less than a minute
//! cargo bench --bench micro -- payload   # those with this in their name
//! ```
//!
//! Nothing of a network or of actors is in these figures, so they say where the time of a delivery does *not* go, and
//! they show what grows with the number of rooms or members and should not. Each run is compared with the one before.
//!
//! What is private in the library is compiled here a second time, from the same files.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use roomcast::config::Config;
use roomcast::tokens::Verifier;

// The paths of the files below lead through these.
use roomcast::{broker, metrics, protocol};

use broker::RoomMessage;
use broker::history::{Arrival, Entry, Numbering, Page};
use protocol::client::{ClientFrame, RequestId};
use protocol::server::ServerFrame;
use protocol::{Content, Dialect, Epoch, Position, RoomName};
use roomcast::rooms::ledger::Ledger;
use roomcast::rooms::table::{RoomTable, Waiter};
use roomcast::rooms::timeline::{Timeline, Wish};
use roomcast::rooms::{RoomEvent, SessionId, WorkerId};

#[expect(dead_code, reason = "its users in the library use more of it")]
#[path = "../src/session/framing.rs"]
mod framing;

#[expect(dead_code, reason = "its users in the library use more of it")]
#[path = "../src/session/joiner.rs"]
mod joiner;

#[expect(dead_code, reason = "its users in the library use more of it")]
#[path = "../src/broker/redis/payload.rs"]
mod payload;

#[expect(dead_code, reason = "its users in the tests use more of it")]
#[path = "../tests/it/support/tokens.rs"]
mod tokens;

use framing::{FrameScanner, Scanned};
use joiner::Joiner;
use tokens::Signer;

/// The length of most messages, and of large ones.
const SIZES: [(&str, usize); 2] = [("100 B", 100), ("60 kB", 60_000)];

/// Rooms on the node.
const ROOMS: [usize; 3] = [10, 1_000, 100_000];

/// Members of one room.
const MEMBERS: [u64; 3] = [10, 1_000, 100_000];

const MAX_MESSAGE: usize = 65_536;

const WORKER: WorkerId = WorkerId(0);

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(500))
        .sample_size(20)
        .nresamples(5_000)
        .configure_from_args();
    frames(&mut criterion);
    fragments(&mut criterion);
    commands(&mut criterion);
    server_frames(&mut criterion);
    payloads(&mut criterion);
    table(&mut criterion);
    ledger(&mut criterion);
    timeline(&mut criterion);
    token_checks(&mut criterion);
    criterion.final_summary();
}

/// A client's text frame. The mask is of no interest to what is measured here.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | u8::try_from(short).expect("less than 126")),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(length).expect("at most 64 KiB").to_be_bytes());
        }
    }
    frame.extend_from_slice(&[1, 2, 3, 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Scans input as it is read from a socket, and says how many frames ended in it.
fn scan(scanner: &mut FrameScanner, mut input: Bytes) -> usize {
    let mut frames = 0;
    while !input.is_empty() {
        if let Scanned::Pass { bytes, ends_frame } = scanner.scan(&mut input).expect("good frames") {
            black_box(bytes);
            frames += usize::from(ends_frame);
        }
    }
    frames
}

fn frames(criterion: &mut Criterion) {
    const PER_READ: usize = 64;
    let mut group = criterion.benchmark_group("framing");
    for (name, reads, frames) in [
        ("frame of 100 B", vec![frame(0x81, &[b'x'; 100])], 1),
        (
            "64 frames of 100 B in a read",
            vec![frame(0x81, &[b'x'; 100]).repeat(PER_READ)],
            PER_READ,
        ),
        (
            "frame of 60 kB in 16 KiB reads",
            frame(0x81, &vec![b'x'; 60_000])
                .chunks(16 * 1024)
                .map(<[u8]>::to_vec)
                .collect(),
            1,
        ),
    ] {
        let reads: Vec<Bytes> = reads.into_iter().map(Bytes::from).collect();
        let mut scanner = FrameScanner::new(MAX_MESSAGE as u64);
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let ended: usize = reads.iter().map(|read| scan(&mut scanner, read.clone())).sum();
                assert_eq!(ended, frames);
            });
        });
    }
    group.finish();
}

fn fragments(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("joiner");
    let (ascii, wide) = ("x".repeat(60_000), "€".repeat(20_000));
    for (name, text, size) in [
        ("60 kB in 4 fragments", &ascii, 15_000),
        ("60 kB in 600 fragments", &ascii, 100),
        // The border cuts characters.
        ("60 kB of 3-byte characters in 600 fragments", &wide, 100),
    ] {
        let fragments: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        let (last, before) = fragments.split_last().expect("not empty");
        let mut joiner = Joiner::new(false);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                joiner.begin_text(black_box(before[0])).expect("a text");
                for fragment in &before[1..] {
                    joiner.add(black_box(fragment)).expect("a text");
                }
                joiner.end(black_box(last)).expect("a text")
            });
        });
    }
    group.finish();
}

/// Letters and spaces, in which nothing has to be escaped.
fn text(bytes: usize) -> String {
    "all work and no play ".chars().cycle().take(bytes).collect()
}

/// Every tenth character has to be escaped.
fn quoted_text(bytes: usize) -> String {
    "she said \"".chars().cycle().take(bytes).collect()
}

/// A JSON value of about so many bytes: records of some fields.
fn json(bytes: usize) -> String {
    const RECORD: &str = r#"{"id":1234567,"name":"ann","tags":["a","b"],"x":-1.25,"ok":true}"#;
    let records = (bytes / (RECORD.len() + 1)).max(1);
    format!("[{}]", vec![RECORD; records].join(","))
}

fn string(text: &str) -> String {
    serde_json::to_string(text).expect("a string always serializes")
}

fn commands(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let publish =
        |message: &str| format!(r#"{{"type":"sendMessage","id":7,"roomId":"room1","message":{message}}}"#);
    let mut cases = vec![
        (
            "SUBSCRIBE".to_owned(),
            r#"{"type":"SUBSCRIBE","room":"room1"}"#.to_owned(),
        ),
        (
            "SUBSCRIBE after a position".to_owned(),
            r#"{"type":"SUBSCRIBE","id":1,"room":"room1","after":41,"epoch":"k3f9x0abcd"}"#.to_owned(),
        ),
    ];
    for (name, size) in SIZES {
        cases.push((
            format!("sendMessage, string of {name}"),
            publish(&string(&text(size))),
        ));
        cases.push((
            format!("sendMessage, escaped string of {name}"),
            publish(&string(&quoted_text(size))),
        ));
        cases.push((format!("sendMessage, JSON of {name}"), publish(&json(size))));
    }
    for (name, frame) in cases {
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                ClientFrame::decode(black_box(&frame), Dialect::V1, MAX_MESSAGE).expect("a command")
            });
        });
    }
    group.finish();
}

fn room(number: usize) -> RoomName {
    RoomName::new(&format!("room-{number}")).expect("a valid name")
}

fn message(content: Content) -> RoomMessage {
    RoomMessage {
        room: room(1),
        content,
        sender: Some("ann".into()),
        session: Some("0123abcd-0-42".into()),
        time: Some(1_732_420_000_123),
    }
}

/// Contents with a name, in all sizes.
fn contents() -> Vec<(String, Content)> {
    let mut contents = Vec::new();
    for (name, size) in SIZES {
        contents.push((format!("string of {name}"), Content::text(text(size))));
        contents.push((
            format!("escaped string of {name}"),
            Content::text(quoted_text(size)),
        ));
        contents.push((format!("JSON of {name}"), Content::json(json(size))));
    }
    contents
}

fn server_frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let (id, room) = (RequestId::Number(7), room(1));
    let position = Position {
        offset: 45,
        epoch: Epoch::new("k3f9x0abcd"),
    };
    group.bench_function("sent", |bencher| {
        bencher.iter(|| {
            let (id, room, position) = (Some(black_box(&id)), black_box(&room), Some(&position));
            ServerFrame::Sent { id, room, position }.encode()
        });
    });
    for (name, content) in contents() {
        let message = message(content);
        group.throughput(Throughput::Bytes(message.content.text.len() as u64));
        group.bench_function(format!("message, {name}"), |bencher| {
            bencher.iter_batched(
                || RoomEvent::message(message.clone(), Some(45)),
                |event| event.frame(Dialect::V1).map(|frame| frame.text_bytes()),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn payloads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("payload");
    for (name, content) in contents() {
        let message = message(content);
        group.throughput(Throughput::Bytes(message.content.text.len() as u64));
        group.bench_function(format!("encode, {name}"), |bencher| {
            bencher.iter(|| payload::encode(black_box(&message)));
        });
        // As the publish script ends it.
        let mut numbered = payload::encode_open(&message);
        numbered.extend_from_slice(
            br#","offset":45,"epoch":"k3f9x0abcd","seal":"0123456789abcdef","time":1732420000123}"#,
        );
        group.bench_function(format!("decode, {name}"), |bencher| {
            bencher.iter(|| {
                let arrival = payload::decode(&message.room, black_box(&numbered), 8 * MAX_MESSAGE);
                assert!(arrival.as_ref().is_ok_and(|arrival| arrival.claim.is_some()));
                arrival
            });
        });
    }
    group.finish();
}

fn waiter(serial: u64) -> Waiter {
    Waiter {
        session: SessionId::new(WORKER, serial),
        ticket: Some(1),
        dialect: Dialect::V1,
        wish: Wish::default(),
    }
}

fn enter(table: &mut RoomTable, room: &RoomName, serial: u64) {
    let _ = table.join(room, waiter(serial));
    assert_eq!(table.admit(room, None, |_| Some(())).len(), 1);
}

/// The same in another order, always the same one: rooms are not asked for in the order in which they were made.
fn shuffled(mut rooms: Vec<RoomName>) -> Vec<RoomName> {
    fastrand::Rng::with_seed(1).shuffle(&mut rooms);
    rooms
}

fn table(criterion: &mut Criterion) {
    /// Rooms of a session that is there before.
    const ROOMS_EACH: usize = 100;
    /// The one that comes and goes. A low number: the worst place in a sorted list.
    const NEWCOMER: u64 = 1;
    let mut group = criterion.benchmark_group("table");
    for count in ROOMS {
        let rooms: Vec<RoomName> = (0..count).map(room).collect();
        let mut table = RoomTable::new(usize::MAX);
        for (number, room) in rooms.iter().enumerate() {
            let first = 2 + (number / ROOMS_EACH * 2) as u64;
            enter(&mut table, room, first);
            enter(&mut table, room, first + 1);
        }
        let rooms = shuffled(rooms);
        let mut next = rooms.iter().cycle();
        group.bench_function(
            BenchmarkId::new("join and leave, others stay, rooms", count),
            |bencher| {
                bencher.iter(|| {
                    let room = next.next().expect("it goes round");
                    enter(&mut table, room, NEWCOMER);
                    table.leave(SessionId::new(WORKER, NEWCOMER), room)
                });
            },
        );
        let empty = RoomName::new("empty").expect("a valid name");
        group.bench_function(BenchmarkId::new("first in, last out, rooms", count), |bencher| {
            bencher.iter(|| {
                enter(&mut table, black_box(&empty), NEWCOMER);
                table.leave(SessionId::new(WORKER, NEWCOMER), &empty)
            });
        });
        group.bench_function(BenchmarkId::new("members, rooms", count), |bencher| {
            bencher.iter(|| {
                let room = next.next().expect("it goes round");
                table.members(room)[0].1.clone()
            });
        });
    }
    for count in MEMBERS {
        let room = room(1);
        let mut table = RoomTable::new(usize::MAX);
        for serial in 0..count {
            enter(&mut table, &room, NEWCOMER + 1 + serial);
        }
        group.bench_function(BenchmarkId::new("join and leave, members", count), |bencher| {
            bencher.iter(|| {
                enter(&mut table, black_box(&room), NEWCOMER);
                table.leave(SessionId::new(WORKER, NEWCOMER), &room)
            });
        });
        group.bench_function(
            BenchmarkId::new("join and leave while the list is in use, members", count),
            |bencher| {
                bencher.iter(|| {
                    let in_use = table.members(&room)[0].1.clone();
                    enter(&mut table, &room, NEWCOMER);
                    let _ = table.leave(SessionId::new(WORKER, NEWCOMER), &room);
                    in_use.len()
                });
            },
        );
    }
    group.finish();
}

/// A ledger with so many live rooms.
fn live(rooms: &[RoomName]) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.link_up(1);
    for room in rooms {
        ledger.want(room);
    }
    let _ = ledger.take_commands();
    for room in rooms {
        assert!(ledger.opened(1, room));
    }
    let _ = ledger.take_commands();
    ledger
}

fn ledger(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger");
    for count in ROOMS {
        let rooms: Vec<RoomName> = (0..count).map(room).collect();
        let mut ledger = live(&rooms);
        let newcomer = RoomName::new("newcomer").expect("a valid name");
        group.bench_function(
            BenchmarkId::new("a room opens and closes, rooms", count),
            |bencher| {
                bencher.iter(|| {
                    ledger.want(black_box(&newcomer));
                    let opening = ledger.take_commands();
                    assert!(ledger.opened(1, &newcomer));
                    let _ = ledger.take_commands();
                    ledger.unwant(&newcomer);
                    let closing = ledger.take_commands();
                    ledger.closed(1, &newcomer);
                    let _ = ledger.take_commands();
                    (opening, closing)
                });
            },
        );
        let rooms = shuffled(rooms);
        let mut next = rooms.iter().cycle();
        group.bench_function(
            BenchmarkId::new("unwanted and wanted in one turn, rooms", count),
            |bencher| {
                bencher.iter(|| {
                    let room = next.next().expect("it goes round");
                    ledger.unwant(room);
                    ledger.want(room);
                    ledger.take_commands()
                });
            },
        );
        let mut generation = 1;
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(
            BenchmarkId::new("all again on a new link, rooms", count),
            |bencher| {
                bencher.iter(|| {
                    generation += 1;
                    ledger.link_up(generation);
                    let commands = ledger.take_commands();
                    assert_eq!(commands.subscribe.len(), count);
                    for room in &commands.subscribe {
                        ledger.opened(generation, room);
                    }
                    ledger.take_commands()
                });
            },
        );
    }
    group.finish();
}

/// A timeline whose members have been told everything up to offset `top`.
fn current(numbering: &Numbering, top: u64) -> Timeline {
    let mut timeline = Timeline::new(room(1), 1_000, 64 * 1024);
    let _ = timeline.next_read(1, true).expect("its place is to be asked for");
    let told = timeline.read(1, page(numbering, top, Vec::new()));
    assert!(told.is_empty() && timeline.is_current());
    timeline
}

fn page(numbering: &Numbering, top: u64, entries: Vec<Entry>) -> Page {
    Page {
        numbering: numbering.clone(),
        top,
        entries,
    }
}

fn timeline(criterion: &mut Criterion) {
    /// Messages held behind the one that is missing.
    const HELD: u64 = 100;
    let mut group = criterion.benchmark_group("timeline");
    let numbering = Numbering::fresh();
    let message = message(Content::text(text(100)));
    let arrival = |offset| Arrival {
        message: message.clone(),
        claim: Some(numbering.claim(offset)),
    };
    group.bench_function("seal", |bencher| {
        bencher.iter(|| numbering.seal(black_box(1_234_567)));
    });
    let (mut in_order, mut offset) = (current(&numbering, 0), 0);
    group.bench_function("message in order", |bencher| {
        bencher.iter_batched(
            || {
                offset += 1;
                arrival(offset)
            },
            |arrival| in_order.arrived(arrival, true).expect("it is next"),
            BatchSize::SmallInput,
        );
    });
    let mut unnumbered = current(&numbering, 0);
    group.bench_function("message without an offset", |bencher| {
        bencher.iter_batched(
            || Arrival::unnumbered(message.clone()),
            |arrival| unnumbered.arrived(arrival, true).expect("it is delivered"),
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(HELD));
    group.bench_function("100 messages held behind a hole, and released", |bencher| {
        bencher.iter_batched(
            || {
                let held: Vec<Arrival> = (2..2 + HELD).map(arrival).collect();
                let missing = Entry {
                    offset: 1,
                    message: message.clone(),
                };
                (current(&numbering, 0), held, page(&numbering, 1, vec![missing]))
            },
            |(mut timeline, held, page)| {
                for arrival in held {
                    assert!(timeline.arrived(arrival, true).is_none());
                }
                assert!(timeline.next_read(2, true).is_some());
                let told = timeline.read(2, page);
                assert_eq!(told.len() as u64, HELD + 1);
                told
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// What a handshake pays for its token, and a command for the rights in it.
fn token_checks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("token");
    let claims = serde_json::json!({
        "sub": "ann", "exp": 4_000_000_000_u64, "iss": "https://id.example", "aud": "chat",
        "rooms": ["lobby", "team-7-*", "user-ann-*"], "publish": ["lobby"],
    });
    for signer in [
        Signer::secret(&text(32)),
        Signer::rsa(),
        Signer::ec(),
        Signer::ed(),
    ] {
        let lookup = |name: &str| {
            let (variable, value) = signer.setting();
            (name == variable).then(|| value.into())
        };
        let config = Config::load(["roomcast"], &lookup).expect("good settings");
        let verifier = Verifier::new(&config.token_keys.expect("a key")).expect("a good key");
        let token = signer.sign(&claims);
        group.bench_function(signer.algorithm(), |bencher| {
            bencher.iter(|| {
                verifier
                    .verify(black_box(&token), SystemTime::now())
                    .expect("a good token")
            });
        });
    }
    let entries: Vec<String> = (0..100).map(|number| format!("room-{number}-*")).collect();
    let rights = roomcast::tokens::Rights::new(Some(entries.iter().map(String::as_str)), None::<[&str; 0]>);
    group.bench_function("a right that is the last of 100", |bencher| {
        bencher.iter(|| assert!(rights.may_join(black_box("room-99-x"))));
    });
    group.finish();
}
