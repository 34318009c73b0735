//! What the registry counts: messages, what happens to them on their way, and how much there is of everything.

use super::RoomRegistry;
use crate::broker::history::Arrival;
use crate::metrics::Metrics;
use crate::metrics::labels::Recovered;
use crate::rooms::timeline::{Admission, Incident, Timeline};

impl RoomRegistry {
    pub(super) fn count_messages(&self, arrivals: &[Arrival]) {
        let texts = arrivals.iter().map(|arrival| &arrival.message.content.text);
        let bytes: usize = texts.map(|text| text.len()).sum();
        self.metrics.messages.inc_by(arrivals.len() as u64);
        self.metrics.message_bytes.inc_by(bytes as u64);
    }

    /// Shows how much there is.
    pub(super) fn show(&self) {
        let windows = self
            .windows
            .iter()
            .filter_map(|(_, room)| self.timelines.get(room));
        let window_bytes = windows.map(Timeline::window_bytes).sum();
        for (gauge, value) in [
            (&self.metrics.rooms, self.table.room_count()),
            (&self.metrics.memberships, self.table.membership_count()),
            (&self.metrics.joins_waiting, self.table.waiting_count()),
            (&self.metrics.subscriptions, self.ledger.live_count()),
            (&self.metrics.held_bytes, self.held_bytes),
            (&self.metrics.window_bytes, window_bytes),
        ] {
            gauge.set(value.try_into().unwrap_or(i64::MAX));
        }
    }
}

/// Counts how somebody became a member.
pub(super) fn admission(metrics: &Metrics, admission: &Admission) {
    if let Some(recovered) = admission.recovered {
        metrics.recoveries.inc(Recovered::from(recovered));
    }
    metrics
        .replays
        .inc_by(u64::from(!admission.replay.events.is_empty()));
}

/// Counts what has happened in a room since this was called last.
pub(super) fn incidents(metrics: &Metrics, timeline: &mut Timeline) {
    for incident in timeline.take_incidents() {
        match incident {
            Incident::Filled(count) => {
                metrics.fills.inc();
                metrics.filled_messages.inc_by(count as u64);
            }
            Incident::Gap(cause) => metrics.gaps.inc(cause),
            Incident::Dropped { reason, count, lost } => metrics.dropped(reason, count, lost),
            Incident::OffsetIgnored => {
                metrics.offsets_ignored.inc();
            }
        }
    }
}
