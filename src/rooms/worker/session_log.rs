//! What a worker tells the log of its sessions: when they begin, how they end, who was not let in. Peers can provoke any
//! number of these lines, so each kind is limited; the next line says how many were left out.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use log::info;

use super::Attached;
use crate::metrics::ClosedBy;
use crate::metrics::labels::Label;
use crate::rooms::SessionId;
use crate::throttle::Throttle;

/// Lines of each kind in a second.
const LINES_PER_SECOND: u64 = 20;

/// The throttles of one worker.
#[derive(Debug)]
pub(super) struct SessionLog {
    opened: RefCell<Throttle>,
    closed: RefCell<Throttle>,
    refused: RefCell<Throttle>,
}

impl SessionLog {
    pub(super) fn new() -> Self {
        let throttle = || RefCell::new(Throttle::per_second(LINES_PER_SECOND));
        Self {
            opened: throttle(),
            closed: throttle(),
            refused: throttle(),
        }
    }

    pub(super) fn opened(&self, id: SessionId, session: &Attached) {
        if let Some(unlogged) = self.opened.borrow_mut().pass(session.since) {
            info!(
                "session opened: session={id} peer={} dialect={:?}{}",
                Peer(session.peer),
                session.dialect,
                Unlogged(unlogged)
            );
        }
    }

    pub(super) fn closed(&self, id: SessionId, session: &Attached, by: ClosedBy, code: Option<u16>) {
        let now = Instant::now();
        if let Some(unlogged) = self.closed.borrow_mut().pass(now) {
            info!(
                "session closed: session={id} peer={} by={} code={} lasted={:.1}s{}",
                Peer(session.peer),
                by.as_str(),
                Code(code),
                now.saturating_duration_since(session.since).as_secs_f64(),
                Unlogged(unlogged)
            );
        }
    }

    pub(super) fn refused(&self, peer: Option<SocketAddr>, status: u16, problem: &str) {
        if let Some(unlogged) = self.refused.borrow_mut().pass(Instant::now()) {
            info!(
                "handshake refused: peer={} status={status} problem={problem:?}{}",
                Peer(peer),
                Unlogged(unlogged)
            );
        }
    }
}

struct Peer(Option<SocketAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("unknown"),
        }
    }
}

struct Code(Option<u16>);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(code) => code.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// At a line's end: how many like it were left out before it.
struct Unlogged(u64);

impl fmt::Display for Unlogged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " unlogged={count}"),
        }
    }
}
