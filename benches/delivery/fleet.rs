//! The generator's connections: nonblocking sockets behind one epoll, driven by one thread.
//!
//! It must cost less than what it measures, so a frame is split off by its header, its payload is handed out
//! where it was read, and nothing is allocated for it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::histogram::Histogram;
use super::{Outcome, frame};

/// Upgrades under way at once: fewer than any listener's backlog, so that no SYN is dropped and sent again.
const UPGRADES_AT_ONCE: usize = 64;
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);
/// Events taken per turn: few enough that a publish that falls due is not kept waiting.
const EVENTS_PER_TURN: usize = 128;

pub(crate) struct Fleet {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    events: Vec<Event>,
    scratch: Vec<u8>,
    /// Connections whose output the kernel did not take whole.
    unsent: Vec<usize>,
    upgraded: usize,
    /// Connections that the other end closed.
    pub(crate) closed: u64,
    /// From before `connect` until the 101 was read.
    pub(crate) upgrades: Histogram,
}

struct Connection {
    stream: Option<TcpStream>,
    opened: Instant,
    upgraded: bool,
    partial: Vec<u8>,
    pending: Vec<u8>,
}

impl Fleet {
    pub(crate) fn new() -> Outcome<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            connections: Vec::new(),
            events: Vec::with_capacity(EVENTS_PER_TURN),
            scratch: vec![0; 1 << 16],
            unsent: Vec::new(),
            upgraded: 0,
            closed: 0,
            upgrades: Histogram::new(),
        })
    }

    /// Opens `count` more WebSockets and returns their numbers. Frames that arrive meanwhile are dropped.
    pub(crate) fn connect(&mut self, address: SocketAddr, count: usize, v1: bool) -> Outcome<Range<usize>> {
        let request = frame::upgrade_request(&address.to_string(), v1);
        let numbers = self.connections.len()..self.connections.len() + count;
        let mut progress = Instant::now();
        while self.upgraded < numbers.end {
            let before = self.upgraded;
            while self.connections.len() < numbers.end.min(self.upgraded + UPGRADES_AT_ONCE) {
                self.open(address, &request)?;
            }
            self.turn(Duration::from_millis(100), &mut |_, _, _| {})?;
            if self.upgraded > before {
                progress = Instant::now();
            } else if self.closed > 0 || progress.elapsed() > UPGRADE_DEADLINE {
                return Err(format!(
                    "only {} of {} connections were upgraded",
                    self.upgraded, numbers.end
                )
                .into());
            }
        }
        Ok(numbers)
    }

    fn open(&mut self, address: SocketAddr, request: &[u8]) -> Outcome<()> {
        let opened = Instant::now();
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(request)?;
        stream.set_nonblocking(true)?;
        let number = EventData::new_u64(self.connections.len() as u64);
        epoll::add(&self.epoll, &stream, number, EventFlags::IN)?;
        let (partial, pending) = (Vec::new(), Vec::new());
        self.connections.push(Connection {
            stream: Some(stream),
            opened,
            upgraded: false,
            partial,
            pending,
        });
        Ok(())
    }

    /// Puts a text frame in the connection's output; [`Self::flush`] sends it.
    pub(crate) fn queue(&mut self, number: usize, json: &[u8]) {
        frame::push_masked(&mut self.connections[number].pending, frame::TEXT, json);
    }

    pub(crate) fn flush(&mut self, number: usize) {
        if !self.connections[number].flush() {
            self.unsent.push(number);
        }
    }

    /// Whether all that was flushed has left.
    pub(crate) fn all_sent(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Takes the given connections down.
    pub(crate) fn close(&mut self, numbers: Range<usize>) {
        for connection in &mut self.connections[numbers] {
            connection.stream = None;
        }
    }

    /// Waits at most `timeout` for input and hands out each text frame: the connection's number, the payload, and
    /// when it was read. Returns how many there were.
    pub(crate) fn turn(
        &mut self,
        timeout: Duration,
        on_text: &mut impl FnMut(usize, &[u8], Instant),
    ) -> Outcome<usize> {
        let timeout = if self.unsent.is_empty() {
            timeout
        } else {
            timeout.min(Duration::from_micros(500))
        };
        for number in std::mem::take(&mut self.unsent) {
            self.flush(number);
        }
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.events),
            Some(&Timespec::try_from(timeout)?),
        ) {
            Err(rustix::io::Errno::INTR) => return Ok(0),
            waited => waited?,
        };
        let mut texts = 0;
        for event in self.events.drain(..) {
            let number = event.data.u64() as usize;
            let connection = &mut self.connections[number];
            let Some(stream) = &mut connection.stream else {
                continue;
            };
            let length = match stream.read(&mut self.scratch) {
                Ok(length) if length > 0 => length,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    continue;
                }
                _ => {
                    connection.stream = None;
                    self.closed += 1;
                    continue;
                }
            };
            let now = Instant::now();
            let (was_upgraded, idle) = (connection.upgraded, connection.pending.is_empty());
            texts += connection.take(&self.scratch[..length], &mut |text| on_text(number, text, now))?;
            if connection.upgraded && !was_upgraded {
                self.upgraded += 1;
                self.upgrades.record((now - connection.opened).as_nanos() as u64);
            }
            if idle && !connection.pending.is_empty() {
                self.unsent.push(number);
            }
        }
        Ok(texts)
    }

    /// Takes and drops input for so long.
    pub(crate) fn idle(&mut self, duration: Duration) -> Outcome<()> {
        let until = Instant::now() + duration;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.turn(left, &mut |_, _, _| {})?;
        }
        Ok(())
    }
}

impl Connection {
    /// Sends what is pending; false if some of it is left.
    fn flush(&mut self) -> bool {
        match self.stream.as_mut().map(|stream| stream.write(&self.pending)) {
            Some(Ok(written)) => drop(self.pending.drain(..written)),
            Some(Err(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // Reading finds out, and counts, that it is closed.
            _ => self.pending.clear(),
        }
        self.pending.is_empty()
    }

    /// Consumes what was read: the answer to the upgrade, then frames.
    fn take(&mut self, read: &[u8], on_text: &mut impl FnMut(&[u8])) -> Outcome<usize> {
        if self.partial.is_empty() {
            let (used, texts) = self.split(read, on_text)?;
            self.partial.extend_from_slice(&read[used..]);
            return Ok(texts);
        }
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(read);
        let (used, texts) = self.split(&joined, on_text)?;
        joined.drain(..used);
        self.partial = joined;
        Ok(texts)
    }

    fn split(&mut self, bytes: &[u8], on_text: &mut impl FnMut(&[u8])) -> Outcome<(usize, usize)> {
        let (mut used, mut texts) = (0, 0);
        if !self.upgraded {
            let Some(end) = frame::find(bytes, b"\r\n\r\n") else {
                return Ok((0, 0));
            };
            let head = &bytes[..end];
            if !head.starts_with(b"HTTP/1.1 101") || frame::find(head, frame::ACCEPT.as_bytes()).is_none() {
                return Err(format!("upgrade refused: {}", String::from_utf8_lossy(head)).into());
            }
            self.upgraded = true;
            used = end + 4;
        }
        while let Some(header) = frame::parse(&bytes[used..]) {
            let payload = &bytes[used + header.start..used + header.end];
            match header.opcode {
                frame::TEXT => {
                    on_text(payload);
                    texts += 1;
                }
                frame::PING => frame::push_masked(&mut self.pending, frame::PONG, payload),
                // Of a close, the end of the stream that follows is what counts.
                _ => {}
            }
            used += header.end;
        }
        Ok((used, texts))
    }
}
