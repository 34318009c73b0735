//! Every counter and gauge, named with its unit. A leaf: it knows nothing of what it counts.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// What the process counts. One for the process; cloning an `Arc` of it shares the numbers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open WebSocket sessions.
    pub sessions: Gauge,
    /// Sessions that have begun.
    pub sessions_opened: Counter,
    /// Sessions that have ended, by whom and with which code.
    pub sessions_closed: Family<ClosedLabel, Counter>,
    /// Bytes that wait for the sessions' peers, as of when the workers last looked.
    pub session_backlog_bytes: Gauge,
    /// Bytes of commands that are not answered yet.
    pub commands_under_way_bytes: Gauge,
    /// Sessions that were ended by a mistake of ours.
    pub session_panics: Counter,
    /// Rooms with a member or somebody who waits to become one, on this node.
    pub rooms: Gauge,
    /// Memberships on this node.
    pub memberships: Gauge,
    /// Text frames that arrived.
    pub frames_received: Counter,
    /// Messages that the broker delivered to this node.
    pub messages: Counter,
    /// Messages that were put into a session's mailbox.
    pub deliveries: Counter,
    /// Error frames that were sent, by code.
    pub errors: Family<CodeLabel, Counter>,
    /// Sessions that were ended by the server, by reason.
    pub evictions: Family<EvictionLabel, Counter>,
    /// Payloads on a room's channel that are not ours to understand.
    pub payloads_dropped: Counter,
    /// Messages that were dropped because the sessions were too far behind.
    pub messages_missed: Counter,
    /// Attempts to connect to Redis.
    pub redis_dials: Counter,
    /// Redis connections that were lost.
    pub redis_losses: Counter,
    /// Bytes of publishes that are not answered yet.
    pub publish_queue_bytes: Gauge,
    /// Bytes of messages between the broker's link and the sessions' mailboxes.
    pub transit_bytes: Gauge,
}

/// The code of an error frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    /// As it stands on the wire.
    pub code: &'static str,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClosedLabel {
    /// By whom.
    pub by: &'static str,
    /// The close code: all that the server uses, the usual ones of peers, else `other`; `none` without one.
    pub code: &'static str,
}

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// The server, with a close frame.
    Server,
    /// The peer, with a close frame.
    Peer,
    /// The server, by resetting a connection whose peer did not read.
    Cut,
    /// Nobody: the connection was lost.
    Loss,
}

impl ClosedBy {
    /// For the log, and as a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Peer => "peer",
            Self::Cut => "cut",
            Self::Loss => "loss",
        }
    }
}

/// Why the server ended a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EvictionLabel {
    /// The reason.
    pub reason: Eviction,
}

/// Reasons for ending a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Eviction {
    /// It did not read what it was sent.
    Slow,
    /// Nothing was heard of it.
    Mute,
    /// It read nothing at all; its socket was cut.
    Stuck,
    /// It violated RFC 6455.
    Violation,
}

impl EncodeLabelValue for Eviction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let name = match self {
            Self::Slow => "slow",
            Self::Mute => "mute",
            Self::Stuck => "stuck",
            Self::Violation => "violation",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("roomcast");
        let sessions = Gauge::default();
        let sessions_opened = Counter::default();
        let sessions_closed = Family::default();
        let session_backlog_bytes = Gauge::default();
        let commands_under_way_bytes = Gauge::default();
        let session_panics = Counter::default();
        let rooms = Gauge::default();
        let memberships = Gauge::default();
        let frames_received = Counter::default();
        let messages = Counter::default();
        let deliveries = Counter::default();
        let errors = Family::default();
        let evictions = Family::default();
        let payloads_dropped = Counter::default();
        let messages_missed = Counter::default();
        let redis_dials = Counter::default();
        let redis_losses = Counter::default();
        let publish_queue_bytes = Gauge::default();
        let transit_bytes = Gauge::default();
        registry.register("sessions", "Open WebSocket sessions", sessions.clone());
        registry.register(
            "sessions_opened",
            "Sessions that have begun",
            sessions_opened.clone(),
        );
        registry.register(
            "sessions_closed",
            "Sessions that have ended, by whom and with which code",
            sessions_closed.clone(),
        );
        registry.register_with_unit(
            "session_backlog",
            "What waits for the sessions' peers",
            Unit::Bytes,
            session_backlog_bytes.clone(),
        );
        registry.register_with_unit(
            "commands_under_way",
            "Commands of sessions that are not answered yet",
            Unit::Bytes,
            commands_under_way_bytes.clone(),
        );
        registry.register(
            "session_panics",
            "Sessions ended by a mistake of the server",
            session_panics.clone(),
        );
        registry.register("rooms", "Rooms occupied on this node", rooms.clone());
        registry.register(
            "memberships",
            "Sessions in rooms, each pair counted",
            memberships.clone(),
        );
        registry.register(
            "frames_received",
            "Text frames that arrived",
            frames_received.clone(),
        );
        registry.register(
            "messages",
            "Messages that the broker delivered to this node",
            messages.clone(),
        );
        registry.register(
            "deliveries",
            "Messages put into a session's mailbox",
            deliveries.clone(),
        );
        registry.register("errors", "Error frames by code", errors.clone());
        registry.register(
            "evictions",
            "Sessions ended by the server, by reason",
            evictions.clone(),
        );
        registry.register(
            "payloads_dropped",
            "Payloads on a channel not understood",
            payloads_dropped.clone(),
        );
        registry.register(
            "messages_missed",
            "Messages dropped because the sessions were too far behind; with history they are read again",
            messages_missed.clone(),
        );
        registry.register("redis_dials", "Attempts to connect to Redis", redis_dials.clone());
        registry.register("redis_losses", "Redis connections lost", redis_losses.clone());
        registry.register_with_unit(
            "publish_queue",
            "Publishes that are not answered yet",
            Unit::Bytes,
            publish_queue_bytes.clone(),
        );
        registry.register_with_unit(
            "transit",
            "Messages between the broker's link and the sessions' mailboxes",
            Unit::Bytes,
            transit_bytes.clone(),
        );
        Self {
            registry,
            sessions,
            sessions_opened,
            sessions_closed,
            session_backlog_bytes,
            commands_under_way_bytes,
            session_panics,
            rooms,
            memberships,
            frames_received,
            messages,
            deliveries,
            errors,
            evictions,
            payloads_dropped,
            messages_missed,
            redis_dials,
            redis_losses,
            publish_queue_bytes,
            transit_bytes,
        }
    }
}

impl Metrics {
    /// Counts a session that the server ends.
    pub fn evicted(&self, reason: Eviction) {
        self.evictions.get_or_create(&EvictionLabel { reason }).inc();
    }

    /// Counts a session that has ended.
    pub fn closed(&self, by: ClosedBy, code: Option<u16>) {
        let by = by.as_str();
        let code = code.map_or("none", code_label);
        self.sessions_closed
            .get_or_create(&ClosedLabel { by, code })
            .inc();
    }

    /// Counts an error frame.
    pub fn refused(&self, code: &'static str) {
        self.errors.get_or_create(&CodeLabel { code }).inc();
    }

    /// All of it as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }
}

/// A close code as a label. Peers may send thousands of them, so that all but the usual ones are one.
fn code_label(code: u16) -> &'static str {
    match code {
        1000 => "1000",
        1001 => "1001",
        1002 => "1002",
        1007 => "1007",
        1008 => "1008",
        1009 => "1009",
        1011 => "1011",
        1012 => "1012",
        1013 => "1013",
        4008 => "4008",
        4009 => "4009",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_names_units_and_labels() {
        let metrics = Metrics::default();
        metrics.evicted(Eviction::Slow);
        metrics.refused("bad_json");
        metrics.publish_queue_bytes.inc_by(7);
        let text = metrics.encode();
        for line in [
            "roomcast_evictions_total{reason=\"slow\"} 1",
            "roomcast_errors_total{code=\"bad_json\"} 1",
            "roomcast_publish_queue_bytes 7",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
