//! What a session is given by the handshake: its node, its worker, its peer, and what it may do.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::protocol::Dialect;
use crate::protocol::close::CloseCode;
use crate::rooms::hub::Hub;
use crate::rooms::worker::Worker;
use crate::tokens::{Grant, Verifier};

/// What a session needs to know of its node, its worker and its peer.
pub struct Seat {
    /// The node's singletons.
    pub hub: Hub,
    /// The worker that runs the session.
    pub worker: Rc<Worker>,
    /// The process's numbers.
    pub metrics: Arc<Metrics>,
    /// The node's name on the wire.
    pub node: Arc<str>,
    /// How the peer is spoken to.
    pub dialect: Dialect,
    /// The peer's user.
    pub user: User,
    /// Where tokens are checked.
    pub verifier: Option<Arc<Verifier>>,
    /// What the token of the handshake grants, if there was one.
    pub grant: Option<Grant>,
    /// Resets the connection. A session whose peer does not read is frozen, and cannot end itself.
    pub cut: Rc<dyn Fn()>,
    /// What it does with what it is sent.
    pub service: Service,
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
    /// Limits.
    pub limits: Limits,
    /// Close at once with this code instead of serving.
    pub turned_away: Option<CloseCode>,
    /// Held as long as the session lives.
    pub place: Rc<dyn std::any::Any>,
}

/// The user of a session: none, or one for the rest of its life from when it is known. Cloning shares it.
pub type User = Rc<OnceCell<Arc<str>>>;

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Rooms.
    Rooms,
    /// Sending every message back, for conformance suites.
    Echo,
}

/// What a session may do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes that a message counts on the wire before the connection is closed for it.
    pub max_frame: u64,
    /// Bytes of text in a message.
    pub max_message: usize,
    /// Bytes that may wait for the peer.
    pub max_backlog: usize,
    /// Commands per second.
    pub rate: Option<u32>,
    /// Silence after which the peer is asked whether it is there.
    pub heartbeat: Duration,
}
