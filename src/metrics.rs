//! Every counter, gauge and histogram. A leaf: it knows nothing of what it counts.
//!
//! - A metric is declared once, in [`Metrics`]: the field's name is its name, the documentation its help text. A unit
//!   stands at the end of the name.
//! - The values of labels are enumerations ([`labels`]), or codes that the server chooses; nothing that comes from outside.
//! - Counting is an atomic addition; only times and codes of frames take a short lock.
//! - `docs/operations.md` has a table of all of them, and a test compares it with [`Metrics::list`].
//!
//! [`kinds`] is what there can be, [`process`] what is known of the process as a whole.

pub mod kinds;
pub mod labels;
mod process;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use self::kinds::{By, ByCode, Catalogue, FloatGauge, Latency, Listed, metrics};
use self::labels::{
    ApiRoute, BadPayload, Connection, Dropped, GapCause, Published, Read, Recovered, Refused, TokenProblem,
};
pub use self::labels::{ClosedBy, Eviction};
use self::process::about_the_process;

metrics! {
    /// What the process counts. One for the process; cloning an `Arc` of it shares the numbers.
    pub struct Metrics {
        /// Open WebSocket sessions.
        sessions: Gauge,
        /// Handshakes that were refused, by the status of the answer.
        handshakes_refused: By<Refused>,
        /// Tokens that were refused, at a handshake or later, by what is wrong with them.
        tokens_refused: By<TokenProblem>,
        /// Sessions that were turned away because the node was full.
        sessions_turned_away: Counter,
        /// Sessions that have begun.
        sessions_opened: Counter,
        /// Sessions that have ended, by who ended them.
        sessions_closed: By<ClosedBy>,
        /// Sessions that were ended by a mistake of the server.
        session_panics: Counter,
        /// Bytes that wait for the peers of all sessions, as of the last look at them.
        session_backlog_bytes: Gauge,
        /// Bytes of commands that are not answered yet.
        commands_under_way_bytes: Gauge,
        /// Sessions that were ended by the server for what they did, by reason.
        evictions: By<Eviction>,
        /// Text frames that arrived.
        frames_received: Counter,
        /// Bytes of the text frames that arrived.
        received_bytes: Counter,
        /// Error frames that were sent, by code.
        errors: ByCode,

        /// Rooms with a member or somebody who waits to become one, on this node.
        rooms: Gauge,
        /// Memberships on this node: sessions in rooms, each pair counted.
        memberships: Gauge,
        /// Sessions that wait to become members, each room counted.
        joins_waiting: Gauge,
        /// Rooms that the link to the broker is subscribed to.
        subscriptions: Gauge,

        /// Sessions of this node that are listed as members, each room counted.
        presence_entries: Gauge,
        /// Leases that this node has taken to list its members on Redis: the first, and one after each loss.
        presence_leases_taken: Counter,
        /// Leases that this node has lost, because Redis lost data or another node took this one for dead.
        presence_leases_lost: Counter,
        /// Entries of dead nodes that this node has taken off the lists of members.
        presence_entries_reaped: Counter,

        /// Publishes that were answered, by what became of them.
        publishes: By<Published>,
        /// Time from the arrival of a publish to its answer, whatever that was.
        publish_latency_seconds: Latency,
        /// Bytes of publishes that are not answered yet.
        publish_queue_bytes: Gauge,
        /// Publishes that are not answered yet.
        publish_queue_depth: Gauge,

        /// Requests to the server API that were answered, by what they are about.
        api_requests: By<ApiRoute>,
        /// Those of them that were answered with a status of 400 to 499.
        api_requests_refused: By<ApiRoute>,
        /// Those of them that were answered with a status of 500 or more.
        api_requests_failed: By<ApiRoute>,

        /// Messages that the broker delivered to this node.
        messages: Counter,
        /// Bytes of the texts of these messages.
        message_bytes: Counter,
        /// Messages that were put into a session's mailbox.
        deliveries: Counter,
        /// Bytes of the frames of these deliveries.
        delivery_bytes: Counter,
        /// Bytes of messages between the broker's link and the sessions' mailboxes.
        transit_bytes: Gauge,
        /// Bytes of messages that are held back behind something that has to be read first.
        held_bytes: Gauge,
        /// Messages that had arrived and were dropped, by reason; those with an offset are read again from history.
        messages_dropped: By<Dropped>,
        /// Messages that had arrived, were dropped and cannot be read again, by reason.
        messages_lost: By<Dropped>,
        /// Payloads on a room's channel that were dropped because they are not ours to understand, by reason.
        payloads_dropped: By<BadPayload>,
        /// Messages whose offset was ignored because the room's numbering contradicts it.
        offsets_ignored: Counter,

        /// Reads of history, by how they ended.
        history_reads: By<Read>,
        /// Times that the members of a room were told from history what they had missed.
        fills: Counter,
        /// Messages that they were told so.
        filled_messages: Counter,
        /// Gaps that were announced, by cause.
        gaps: By<GapCause>,
        /// Subscribers that came back with a position, by whether all that they had missed could be replayed.
        recoveries: By<Recovered>,
        /// Memberships that began with a replay.
        replays: Counter,
        /// Bytes of text that are kept in memory for those who come back.
        window_bytes: Gauge,

        /// Whether the node is ready for traffic, as /readyz says: 1 or 0.
        ready: Gauge,
        /// Time since a message of this node last came back to it from the broker; before the first one, since the
        /// node began; always 0 with the embedded broker.
        delivery_proof_age_seconds: FloatGauge,
        /// Time that a message takes from this node through Redis to a subscribed node, tried with one a second.
        cross_node_latency_seconds: Latency,
        /// Attempts to connect to Redis, by connection.
        redis_dials: By<Connection>,
        /// Attempts to connect to Redis that succeeded, by connection; all but the first are reconnects.
        redis_connects: By<Connection>,
        /// Redis connections that were lost, by connection.
        redis_losses: By<Connection>,
        /// Bytes of payloads that arrived from Redis.
        redis_payload_bytes: Counter,
    }
}

/// Lines that the log did not write because nobody read it. The process has one log, which is there before anything
/// else is.
pub static LOG_LINES_DROPPED: LazyLock<Counter> = LazyLock::new(Counter::default);

/// The code of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    /// As it stands on the wire.
    pub code: &'static str,
}

impl Metrics {
    /// Counts a session that the server ends.
    pub fn evicted(&self, reason: Eviction) {
        self.evictions.inc(reason);
    }

    /// Counts an error frame.
    pub fn refused(&self, code: &'static str) {
        self.errors.get_or_create(&CodeLabel { code }).inc();
    }

    /// Counts messages that had arrived and are dropped; so many of them cannot be read again.
    pub fn dropped(&self, reason: Dropped, count: usize, lost: usize) {
        self.messages_dropped.inc_by(reason, count as u64);
        self.messages_lost.inc_by(reason, lost as u64);
    }

    /// Counts a publish that is answered so long after it came.
    pub fn published(&self, outcome: Published, latency: Duration) {
        self.publishes.inc(outcome);
        self.publish_latency_seconds.observe(latency);
    }

    /// Notes how the node is now. `silence`: the time since something last came back from the broker, if ever.
    pub fn show_health(&self, is_ready: bool, silence: Option<Duration>) {
        self.ready.set(is_ready.into());
        let age = silence.unwrap_or_else(|| self.began.elapsed());
        self.delivery_proof_age_seconds.set(age.as_secs_f64());
    }

    /// All of it as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }

    /// What there is, in the order of the text.
    #[must_use]
    pub fn list(&self) -> &[Listed] {
        &self.listed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// A family of the text.
    #[derive(Default)]
    struct Parsed {
        help: String,
        kind: String,
        unit: Option<String>,
        /// Name, labels and value.
        samples: Vec<(String, String, f64)>,
    }

    /// Reads the text as strictly as its specification is. By the families' names.
    fn parsed(text: &str) -> BTreeMap<String, Parsed> {
        let body = text.strip_suffix("# EOF\n").expect("an end");
        let mut families: BTreeMap<String, Parsed> = BTreeMap::new();
        let mut current = String::new();
        for line in body.lines() {
            if let Some(about) = line.strip_prefix("# ") {
                let mut words = about.splitn(3, ' ');
                let (word, name) = (words.next().expect("a word"), words.next().expect("a name"));
                let rest = words.next().unwrap_or_default().to_owned();
                if word == "HELP" {
                    assert!(!families.contains_key(name), "{name} is there twice");
                    current = name.to_owned();
                }
                assert_eq!(name, current, "{line}");
                let family = families.entry(name.to_owned()).or_default();
                match word {
                    "HELP" => family.help = rest,
                    "TYPE" => family.kind = rest,
                    "UNIT" => family.unit = Some(rest),
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let sample = (
                name.to_owned(),
                labels.to_owned(),
                value.parse().expect("a number"),
            );
            let family = families.get_mut(&current).expect("a family");
            family.samples.push(sample);
        }
        families
    }

    fn sample(text: &str, series: &str) -> f64 {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("{series} is missing in\n{text}"));
        value.parse().expect("a number")
    }

    #[test]
    fn the_text_is_what_openmetrics_asks_for() {
        let metrics = Metrics::default();
        metrics.refused("bad_json");
        let families = parsed(&metrics.encode());
        assert!(families.len() <= metrics.list().len());
        for (name, family) in &families {
            assert!(family.help.len() > 10 && family.help.ends_with('.'), "{name}");
            assert!(!family.help.ends_with(".."), "{name}: {}", family.help);
            let (suffixes, is_total): (&[&str], bool) = match family.kind.as_str() {
                "counter" => (&["_total"], true),
                "gauge" => (&[""], false),
                "histogram" => (&["_bucket", "_count", "_sum"], false),
                "info" => (&["_info"], false),
                other => panic!("{name} is of type {other}"),
            };
            assert!(!name.ends_with("_total"), "{name}");
            assert!(!family.samples.is_empty(), "{name} has no samples");
            for (sample, _, value) in &family.samples {
                let suffix = sample
                    .strip_prefix(name.as_str())
                    .expect("the name of its family");
                assert!(suffixes.contains(&suffix), "{sample} in {name}");
                assert_eq!(sample.ends_with("_total"), is_total);
                assert!(value.is_finite(), "{sample} is {value}");
            }
            let unit = ["bytes", "seconds"]
                .into_iter()
                .find(|unit| name.ends_with(&format!("_{unit}")));
            assert_eq!(family.unit.as_deref(), unit, "the unit of {name}");
            assert!(
                name.starts_with("roomcast_") || name.starts_with("process_"),
                "{name}"
            );
        }
    }

    #[test]
    fn labels_have_the_values_that_are_listed_and_no_others() {
        let metrics = Metrics::default();
        let families = parsed(&metrics.encode());
        for Listed {
            name, label, values, ..
        } in metrics.list()
        {
            let family = families.iter().find(|(family, _)| {
                let ending = name.strip_prefix(family.as_str());
                ending.is_some_and(|ending| ["", "_total", "_info"].contains(&ending))
            });
            let Some((_, family)) = family else {
                // A code has no sample before it is counted; what is asked of the system may be unknown there.
                assert!(
                    *label == Some("code") || name.starts_with("process_"),
                    "{name} is missing"
                );
                continue;
            };
            if values.is_empty() {
                continue;
            }
            let key = label.expect("a label that has values");
            let expected: BTreeSet<String> = values
                .iter()
                .map(|value| format!("{key}=\"{value}\"}}"))
                .collect();
            assert_eq!(expected.len(), values.len(), "{name} has a value twice");
            let found: BTreeSet<String> = family
                .samples
                .iter()
                .map(|(_, labels, _)| labels.clone())
                .collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn what_is_counted_is_shown_under_its_label() {
        let metrics = Metrics::default();
        metrics.evicted(Eviction::Stuck);
        metrics.refused("bad_json");
        metrics.publish_queue_bytes.inc_by(7);
        metrics.dropped(Dropped::HeldFull, 3, 1);
        metrics.recoveries.inc(Recovered::from(true));
        metrics.received_bytes.inc_by(40);
        let text = metrics.encode();
        for (series, value) in [
            ("roomcast_evictions_total{reason=\"slow\"}", 0.0),
            ("roomcast_evictions_total{reason=\"stuck\"}", 1.0),
            ("roomcast_errors_total{code=\"bad_json\"}", 1.0),
            ("roomcast_publish_queue_bytes", 7.0),
            ("roomcast_messages_dropped_total{reason=\"held_full\"}", 3.0),
            ("roomcast_messages_lost_total{reason=\"held_full\"}", 1.0),
            ("roomcast_recoveries_total{recovered=\"true\"}", 1.0),
            ("roomcast_received_bytes_total", 40.0),
        ] {
            assert_eq!(sample(&text, series), value, "{series}");
        }
        let version = concat!("roomcast_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
        assert_eq!(sample(&text, version), 1.0);
    }

    #[test]
    fn times_fall_into_buckets_of_seconds() {
        let metrics = Metrics::default();
        for us in [0, 250, 251, 1_000, 9_000, 6_000_000] {
            metrics.published(Published::Accepted, Duration::from_micros(us));
        }
        let text = metrics.encode();
        for (bound, expected) in [
            ("0.00025", 2.0),
            ("0.0005", 3.0),
            ("0.001", 4.0),
            ("0.005", 4.0),
            ("0.01", 5.0),
            ("5.0", 5.0),
            ("+Inf", 6.0),
        ] {
            let series = format!("roomcast_publish_latency_seconds_bucket{{le=\"{bound}\"}}");
            assert_eq!(sample(&text, &series), expected, "{bound}");
        }
        assert_eq!(sample(&text, "roomcast_publish_latency_seconds_count"), 6.0);
        let sum = sample(&text, "roomcast_publish_latency_seconds_sum");
        assert!((sum - 6.010_501).abs() < 1e-9, "{sum}");
        assert_eq!(
            sample(&text, "roomcast_publishes_total{outcome=\"accepted\"}"),
            6.0
        );
    }

    #[test]
    fn without_a_proof_its_age_is_that_of_the_node() {
        let metrics = Metrics::default();
        let age = || sample(&metrics.encode(), "roomcast_delivery_proof_age_seconds");
        metrics.show_health(false, None);
        let first = age();
        std::thread::sleep(Duration::from_millis(2));
        metrics.show_health(false, None);
        assert!(age() >= first + 0.002, "{first}");
        metrics.show_health(true, Some(Duration::from_secs(3)));
        assert_eq!(age(), 3.0);
        assert_eq!(sample(&metrics.encode(), "roomcast_ready"), 1.0);
    }
}
