//! The floor: the least that delivering to sockets one by one can cost.
//!
//! One thread, one epoll, no timers, no queues between threads, no limits, no history. It knows the generator's
//! three commands by a byte search and writes the frames that the server would write. It runs in a process of
//! its own, so that its cost is read in the same way as the server's, and ends when its standard input does.
//!
//! - By default each delivery is one `write`, the price of a server that never coalesces.
//! - `coalesce`: all that a turn of the loop has for a socket goes out in one `write`.
//! - `fault KIND N`: the N-th measured delivery is dropped, duplicated or swapped with the member's next one.
//!   That is how the generator's counters are checked.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::load::PROBE;
use super::outbox::Outbox;
use super::{Outcome, frame};

/// The hidden first argument that makes this binary a floor.
pub(crate) const SUBCOMMAND: &str = "floor-process";

const LISTENER: u64 = u64::MAX;
const STDIN: u64 = u64::MAX - 1;

/// What a real `message` frame of `roomcast.v1` carries besides the room, the text and the offset.
const V1_TAIL: &str = r#","session":"0123456789abcdef","time":1732420000123}"#;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Drop,
    Duplicate,
    Swap,
}

impl Fault {
    pub(crate) const ALL: [Self; 3] = [Self::Drop, Self::Duplicate, Self::Swap];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Duplicate => "duplicate",
            Self::Swap => "swap",
        }
    }
}

/// Serves until standard input ends.
pub(crate) fn run(arguments: &[String]) -> Outcome<()> {
    let mut floor = Floor::listen()?;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "coalesce" => floor.out.coalesce = true,
            _ => {
                let kind = words
                    .next()
                    .and_then(|name| Fault::ALL.into_iter().find(|kind| kind.name() == name));
                let number = words.next().and_then(|number| number.parse().ok());
                floor.out.fault = kind.zip(number);
            }
        }
    }
    println!("floor on http://{}", floor.listener.local_addr()?);
    floor.serve()
}

struct Floor {
    epoll: OwnedFd,
    listener: TcpListener,
    peers: Vec<Option<Peer>>,
    numbers: HashMap<Vec<u8>, usize>,
    rooms: Vec<Room>,
    scratch: Vec<u8>,
    frame: Vec<u8>,
    out: Out,
}

#[derive(Default)]
struct Room {
    members: Vec<usize>,
    offset: u64,
}

struct Peer {
    stream: TcpStream,
    upgraded: bool,
    v1: bool,
    rooms: Vec<usize>,
    /// The beginning of a frame whose end has not come yet.
    partial: Vec<u8>,
    pending: Outbox,
    /// Whether writability is asked for.
    watched: bool,
}

/// How frames leave.
#[derive(Default)]
struct Out {
    coalesce: bool,
    dirty: Vec<usize>,
    fault: Option<(Fault, u64)>,
    held: Option<(usize, Vec<u8>)>,
}

impl Floor {
    fn listen() -> Outcome<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(
            &epoll,
            std::io::stdin(),
            EventData::new_u64(STDIN),
            EventFlags::IN,
        )?;
        Ok(Self {
            epoll,
            listener,
            peers: Vec::new(),
            numbers: HashMap::new(),
            rooms: Vec::new(),
            scratch: vec![0; 1 << 16],
            frame: Vec::new(),
            out: Out::default(),
        })
    }

    fn serve(&mut self) -> Outcome<()> {
        let mut events: Vec<Event> = Vec::with_capacity(1024);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) => continue,
                waited => waited?,
            };
            for event in events.drain(..) {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    STDIN => return Ok(()),
                    peer => self.ready(peer as usize, event.flags),
                }
            }
            for index in std::mem::take(&mut self.out.dirty) {
                if let Some(peer) = &mut self.peers[index] {
                    peer.flush();
                    peer.watch(&self.epoll, index);
                }
            }
        }
    }

    fn accept(&mut self) -> Outcome<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let number = EventData::new_u64(self.peers.len() as u64);
            epoll::add(&self.epoll, &stream, number, EventFlags::IN)?;
            self.peers.push(Some(Peer::new(stream)));
        }
    }

    fn ready(&mut self, index: usize, flags: EventFlags) {
        let Some(peer) = &mut self.peers[index] else {
            return;
        };
        if flags.contains(EventFlags::OUT) {
            peer.flush();
            peer.watch(&self.epoll, index);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        match peer.stream.read(&mut self.scratch) {
            Ok(length) if length > 0 => {
                let mut scratch = std::mem::take(&mut self.scratch);
                let partial = std::mem::take(&mut peer.partial);
                if partial.is_empty() {
                    self.consume(index, &mut scratch[..length]);
                } else {
                    let mut joined = partial;
                    joined.extend_from_slice(&scratch[..length]);
                    self.consume(index, &mut joined);
                }
                self.scratch = scratch;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => self.leave(index),
        }
    }

    fn leave(&mut self, index: usize) {
        for room in self.peers[index]
            .take()
            .map(|peer| peer.rooms)
            .unwrap_or_default()
        {
            self.rooms[room].members.retain(|&member| member != index);
        }
    }

    fn consume(&mut self, index: usize, mut bytes: &mut [u8]) {
        if self.peers[index].as_ref().is_some_and(|peer| !peer.upgraded) {
            match frame::find(bytes, b"\r\n\r\n") {
                Some(end) => {
                    let (head, rest) = bytes.split_at_mut(end + 4);
                    self.upgrade(index, head);
                    bytes = rest;
                }
                None => return self.keep(index, bytes),
            }
        }
        while let Some(header) = frame::parse(bytes) {
            let (this, rest) = bytes.split_at_mut(header.end);
            let payload = &mut this[header.start..];
            if let Some(key) = header.mask {
                frame::unmask(payload, key);
            }
            if header.opcode == frame::TEXT {
                self.command(index, payload);
            }
            bytes = rest;
        }
        self.keep(index, bytes);
    }

    fn keep(&mut self, index: usize, rest: &[u8]) {
        if let (false, Some(peer)) = (rest.is_empty(), &mut self.peers[index]) {
            peer.partial = rest.to_vec();
        }
    }

    fn upgrade(&mut self, index: usize, head: &[u8]) {
        let key = frame::find(head, b"Sec-WebSocket-Key: ").map(|at| &head[at + 19..at + 43]);
        let accept = actix_http::ws::hash_key(key.unwrap_or_default());
        let Some(peer) = &mut self.peers[index] else {
            return;
        };
        peer.upgraded = true;
        peer.v1 = frame::find(head, b"roomcast.v1").is_some();
        self.frame.clear();
        self.frame.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ",
        );
        self.frame.extend_from_slice(&accept);
        if peer.v1 {
            self.frame
                .extend_from_slice(b"\r\nSec-WebSocket-Protocol: roomcast.v1");
        }
        self.frame.extend_from_slice(b"\r\n\r\n");
        if peer.v1 {
            let welcome = br#"{"type":"welcome","session":"0123456789abcdef","node":"floor","heartbeat":25}"#;
            frame::push_text(&mut self.frame, welcome);
        }
        self.out.send(&self.epoll, peer, index, &self.frame);
    }

    fn command(&mut self, index: usize, json: &[u8]) {
        if let Some(room) = frame::json_string(json, br#""roomId":""#) {
            let text = frame::json_string(json, br#""message":""#);
            return self.publish(index, room, text.unwrap_or_default());
        }
        let (Some(peer), Some(name)) = (&mut self.peers[index], frame::json_string(json, br#""room":""#))
        else {
            return;
        };
        let number = *self.numbers.entry(name.to_vec()).or_insert_with(|| {
            self.rooms.push(Room::default());
            self.rooms.len() - 1
        });
        self.rooms[number].members.push(index);
        peer.rooms.push(number);
        if peer.v1 {
            let reply = [
                br#"{"type":"subscribed","room":""#,
                name,
                br#"","offset":0,"epoch":"k3f9"}"#,
            ]
            .concat();
            self.frame.clear();
            frame::push_text(&mut self.frame, &reply);
            self.out.send(&self.epoll, peer, index, &self.frame);
        }
    }

    /// Writes the text to every member, and `sent` to a publisher that speaks v1. All members speak one dialect.
    fn publish(&mut self, publisher: usize, name: &[u8], text: &[u8]) {
        let Some(&number) = self.numbers.get(name) else {
            return;
        };
        let room = &mut self.rooms[number];
        room.offset += 1;
        let v1 = self.peers[publisher].as_ref().is_some_and(|peer| peer.v1);
        self.frame.clear();
        if v1 {
            let offset = room.offset.to_string();
            let parts: [&[u8]; 7] = [
                br#"{"type":"message","room":""#,
                name,
                br#"","message":""#,
                text,
                br#"","offset":"#,
                offset.as_bytes(),
                V1_TAIL.as_bytes(),
            ];
            frame::push_text(&mut self.frame, &parts.concat());
        } else {
            frame::push_text(&mut self.frame, text);
        }
        for &member in &room.members {
            let Some(peer) = &mut self.peers[member] else {
                continue;
            };
            if self.out.fault.is_none() && self.out.held.is_none() {
                self.out.send(&self.epoll, peer, member, &self.frame);
            } else {
                self.out.send_with_fault(&self.epoll, peer, member, &self.frame);
            }
        }
        if let (true, Some(peer)) = (v1, &mut self.peers[publisher]) {
            let offset = room.offset.to_string();
            let parts: [&[u8]; 5] = [
                br#"{"type":"sent","room":""#,
                name,
                br#"","offset":"#,
                offset.as_bytes(),
                br#","epoch":"k3f9"}"#,
            ];
            self.frame.clear();
            frame::push_text(&mut self.frame, &parts.concat());
            self.out.send(&self.epoll, peer, publisher, &self.frame);
        }
    }
}

impl Out {
    fn send(&mut self, epoll: &OwnedFd, peer: &mut Peer, index: usize, frame: &[u8]) {
        if self.coalesce {
            if peer.pending.is_empty() {
                self.dirty.push(index);
            }
            peer.pending.tail().extend_from_slice(frame);
            return;
        }
        let written = if peer.pending.is_empty() {
            peer.stream.write(frame).unwrap_or(0)
        } else {
            0
        };
        if written < frame.len() {
            peer.pending.tail().extend_from_slice(&frame[written..]);
            peer.watch(epoll, index);
        }
    }

    fn send_with_fault(&mut self, epoll: &OwnedFd, peer: &mut Peer, index: usize, frame: &[u8]) {
        let measured = frame::find(frame, PROBE.as_bytes()).is_none();
        let due = match &mut self.fault {
            Some((kind, left)) if measured => {
                *left = left.saturating_sub(1);
                (*left == 0).then_some(*kind)
            }
            _ => None,
        };
        if due.is_some() {
            self.fault = None;
        }
        match due {
            Some(Fault::Drop) => return,
            Some(Fault::Swap) => {
                self.held = Some((index, frame.to_vec()));
                return;
            }
            Some(Fault::Duplicate) => self.send(epoll, peer, index, frame),
            None => {}
        }
        self.send(epoll, peer, index, frame);
        if let Some((_, held)) = self.held.take_if(|(member, _)| *member == index) {
            self.send(epoll, peer, index, &held);
        }
    }
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            upgraded: false,
            v1: false,
            rooms: Vec::new(),
            partial: Vec::new(),
            pending: Outbox::default(),
            watched: false,
        }
    }

    fn flush(&mut self) {
        // A socket that fails is about to be read as closed.
        if self.pending.write_to(&mut self.stream).is_err() {
            self.pending.clear();
        }
    }

    /// Asks for writability exactly while something is pending.
    fn watch(&mut self, epoll: &OwnedFd, index: usize) {
        if self.watched != self.pending.is_empty() {
            return;
        }
        self.watched = !self.watched;
        let out = if self.watched {
            EventFlags::OUT
        } else {
            EventFlags::empty()
        };
        // A socket that cannot be watched any more is about to be read as closed.
        let _ = epoll::modify(
            epoll,
            &self.stream,
            EventData::new_u64(index as u64),
            EventFlags::IN | out,
        );
    }
}
