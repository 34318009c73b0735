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
use super::outbox::Outbox;
use super::{Outcome, frame};

/// Upgrades under way at once: fewer than any listener's backlog, so that no SYN is dropped and sent again.
const UPGRADES_AT_ONCE: usize = 64;
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the frames that are waited for may stay away.
const FRAME_DEADLINE: Duration = Duration::from_secs(30);
/// The close code for a consumer that is too slow.
const TOO_SLOW: u16 = 4008;
/// Bytes taken per read.
const READ: usize = 1 << 16;
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
    /// Those of them that were told that they were too slow.
    pub(crate) too_slow: u64,
    /// From before `connect` until the 101 was read.
    pub(crate) upgrades: Histogram,
}

struct Connection {
    stream: Option<TcpStream>,
    opened: Instant,
    upgraded: bool,
    /// The beginning of a frame whose end has not come yet.
    partial: Vec<u8>,
    pending: Outbox,
    close_code: Option<u16>,
}

impl Fleet {
    pub(crate) fn new() -> Outcome<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            connections: Vec::new(),
            events: Vec::with_capacity(EVENTS_PER_TURN),
            scratch: vec![0; READ],
            unsent: Vec::new(),
            upgraded: 0,
            closed: 0,
            too_slow: 0,
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
        self.connections.push(Connection {
            stream: Some(stream),
            opened,
            upgraded: false,
            partial: Vec::new(),
            pending: Outbox::default(),
            close_code: None,
        });
        Ok(())
    }

    /// Puts a text frame in the connection's output; [`Self::flush`] sends it.
    pub(crate) fn queue(&mut self, number: usize, json: &[u8]) {
        frame::push_masked(self.connections[number].pending.tail(), frame::TEXT, json);
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

    pub(crate) fn is_open(&self, number: usize) -> bool {
        self.connections[number].stream.is_some()
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
            // Behind what was kept of the last read, so that a frame in two pieces is whole again in one place.
            let kept = connection.partial.len();
            if self.scratch.len() < kept + READ {
                self.scratch.resize(kept + READ, 0);
            }
            let length = match stream.read(&mut self.scratch[kept..kept + READ]) {
                Ok(length) if length > 0 => kept + length,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    continue;
                }
                _ => {
                    connection.stream = None;
                    self.closed += 1;
                    self.too_slow += u64::from(connection.close_code == Some(TOO_SLOW));
                    continue;
                }
            };
            self.scratch[..kept].copy_from_slice(&connection.partial);
            connection.partial.clear();
            let now = Instant::now();
            let (was_upgraded, idle) = (connection.upgraded, connection.pending.is_empty());
            let (used, found) =
                connection.split(&self.scratch[..length], &mut |text| on_text(number, text, now))?;
            connection.partial.extend_from_slice(&self.scratch[used..length]);
            texts += found;
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

    /// Takes input until `count` texts were such that `counts`; fails when none has come for too long.
    pub(crate) fn collect(
        &mut self,
        count: usize,
        what: &str,
        counts: &mut impl FnMut(usize, &[u8], Instant) -> bool,
    ) -> Outcome<()> {
        let (mut seen, mut progress) = (0, Instant::now());
        while seen < count {
            let before = seen;
            self.turn(Duration::from_millis(100), &mut |number, text, read| {
                seen += usize::from(counts(number, text, read));
            })?;
            if seen > before {
                progress = Instant::now();
            } else if progress.elapsed() > FRAME_DEADLINE {
                return Err(format!(
                    "{seen} of {count} {what}, then none for {} s",
                    FRAME_DEADLINE.as_secs()
                )
                .into());
            }
        }
        Ok(())
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
        let sent = self.stream.as_mut().map(|stream| self.pending.write_to(stream));
        if !matches!(sent, Some(Ok(()))) {
            // Reading finds out, and counts, that it is closed.
            self.pending.clear();
        }
        self.pending.is_empty()
    }

    /// Hands out the texts of what was read, after the answer to the upgrade; returns how many bytes it used, and how
    /// many texts there were.
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
                frame::PING => frame::push_masked(self.pending.tail(), frame::PONG, payload),
                frame::CLOSE => {
                    self.close_code = payload.first_chunk().map(|&code| u16::from_be_bytes(code));
                }
                _ => {}
            }
            used += header.end;
        }
        Ok((used, texts))
    }
}
