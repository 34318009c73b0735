//! What the registry does for its rooms' past: reads what their timelines want, lets in who waits for that, and tells
//! who was told too little.
//!
//! - Reads are collected and sent with the next flush. One that failed is tried again, as long as somebody wants it.
//! - What was read for those who come back is kept for a few rooms and a few seconds.
//! - A room's members are brought up to date page by page, and the next page waits until they have written most of the
//!   last one.
//! - Numberings of occupied rooms are renewed before they expire.

use std::time::{Duration, Instant};

use actix::prelude::{Addr, AsyncContext, Context, Handler, Message};
use log::warn;

use super::{RoomRegistry, count};
use crate::broker::history::{PageLimit, ReadError, ReadOutcome, ReadRequest};
use crate::metrics::labels;
use crate::protocol::RoomName;
use crate::rooms::timeline::{Part, Read, Timeline};
use crate::rooms::worker::Pace;
use crate::rooms::{Notice, Pull, RoomEvent, SessionId};

/// How long after a read that failed it is tried again.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// How long after a read that was refused it is asked whether that has changed.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// How long what was read for those who come back is kept for others, at most …
const WINDOW_LIFE: Duration = Duration::from_secs(5);

/// … and for this part of the time that the broker keeps it.
const WINDOW_PART: u32 = 60;

/// Rooms of which a piece of the past is kept for those who come back.
const MAX_WINDOWS: usize = 32;

/// For how long members that are behind are waited for, over a whole fill.
const PACE_PATIENCE: Duration = Duration::from_secs(1);

/// See [`RoomRegistry::pace`].
pub(super) struct Pacing {
    give_up: Instant,
    waits: bool,
}

/// How often the numberings of occupied rooms are renewed, so that they do not expire under their members.
pub(super) const RENEWAL_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Numberings that are renewed in one tick.
const RENEWALS_PER_TICK: usize = 100;

impl RoomRegistry {
    /// Makes members of those who wait for a live room, as far as they can, and reads what is missing for the others.
    pub(super) fn proceed(&mut self, room: &RoomName, only: Option<SessionId>) {
        if self.ledger.is_live(room) {
            self.admit(room, only);
            self.request_read(room);
        }
    }

    pub(super) fn admit(&mut self, room: &RoomName, only: Option<SessionId>) {
        let (kept, fill_bytes) = (self.limits.retention.size, self.limits.fill_bytes());
        let timeline = self
            .timelines
            .entry(room.clone())
            .or_insert_with(|| Timeline::new(room.clone(), kept, fill_bytes));
        let part_bytes = self.limits.part_bytes();
        let (presence, has_presence) = (&self.presence, self.presence_ledger.is_live(room));
        let admitted = self.table.admit(room, only, |waiter| {
            // Who wants to be listed is no member before everybody can see it.
            let is_ready = !presence.is_occupant(waiter.session, room)
                || (has_presence && presence.is_listed(waiter.session, room));
            if is_ready {
                timeline.admit(&mut waiter.wish, part_bytes)
            } else {
                None
            }
        });
        let mut parts = Vec::new();
        if let Some(pulls) = self.pulls.get_mut(room) {
            pulls.retain(|pull| {
                let part = timeline.part(pull.after, &pull.until, part_bytes);
                let stays = part.is_none();
                parts.extend(part.map(|part| (pull.session, pull.ticket, part)));
                stays
            });
            if pulls.is_empty() {
                self.pulls.remove(room);
            }
        }
        count::incidents(&self.metrics, timeline);
        for (waiter, admission) in admitted {
            count::admission(&self.metrics, &admission);
            self.presence.listen(waiter.session, room);
            if let Some(ticket) = waiter.ticket {
                self.tell(waiter.session, Notice::Joined(ticket, Box::new(admission)));
            }
        }
        for (session, ticket, part) in parts {
            self.tell(session, Notice::Replay(ticket, part));
        }
    }

    pub(super) fn request_read(&mut self, room: &RoomName) {
        if self.orphaned_reads.contains_key(room) {
            return;
        }
        let may_fill = self.pacing.get(room).is_none_or(|pacing| !pacing.waits);
        let Some(timeline) = self.timelines.get_mut(room) else {
            return;
        };
        let id = self.last_read + 1;
        if let Some(Read { known, after, limit }) = timeline.next_read(id, may_fill) {
            self.last_read = id;
            self.reads.push(ReadRequest {
                id,
                room: room.clone(),
                known,
                after,
                limit,
            });
        }
    }

    /// Does something with a room's timeline, and keeps count of what all of them hold back.
    pub(super) fn with_timeline<T>(
        &mut self,
        room: &RoomName,
        change: impl FnOnce(&mut Timeline) -> T,
    ) -> Option<T> {
        let timeline = self.timelines.get_mut(room)?;
        let held_before = timeline.held_bytes();
        let result = change(timeline);
        self.held_bytes = self.held_bytes - held_before + timeline.held_bytes();
        count::incidents(&self.metrics, timeline);
        Some(result)
    }

    pub(super) fn missed(&mut self, rooms: &[RoomName]) {
        for room in rooms {
            let event = self.with_timeline(room, Timeline::missed).flatten();
            let gaps = u64::from(event.is_some());
            self.metrics.gaps.inc_by(labels::GapCause::NoHistory, gaps);
            self.tell_members(room, event.into_iter().collect(), None);
            self.proceed(room, None);
        }
    }

    pub(super) fn read(&mut self, ReadOutcome { id, room, page }: ReadOutcome, ctx: &mut Context<Self>) {
        self.metrics.history_reads.inc(match &page {
            Ok(_) => labels::Read::Answered,
            Err(ReadError::Away(_)) => labels::Read::Away,
            Err(ReadError::Refused(_)) => labels::Read::Refused,
        });
        if self.orphaned_reads.get(&room) == Some(&id) {
            // Nobody waits for this one any more; for the next one perhaps.
            self.orphaned_reads.remove(&room);
            self.proceed(&room, None);
            return;
        }
        match page {
            Ok(page) => {
                let told = self.with_timeline(&room, |timeline| {
                    let events = timeline.read(id, page);
                    (events, timeline.is_current())
                });
                let (events, is_current) = told.unwrap_or((Vec::new(), true));
                if is_current {
                    self.pacing.remove(&room);
                }
                let pace = (!is_current && !events.is_empty()).then(|| self.pace(&room, ctx));
                self.tell_in_chunks(&room, events, pace.as_ref());
                drop(pace);
                self.proceed(&room, None);
                self.keep_window(&room);
            }
            Err(ReadError::Away(_)) => {
                self.with_timeline(&room, |timeline| timeline.read_again(id));
                self.reads_again
                    .push_back((Instant::now() + READ_AGAIN_AFTER, room));
            }
            // One from before the link was lost, or everybody has left meanwhile.
            Err(ReadError::Refused(_))
                if self.timelines.get(&room).and_then(Timeline::reading) != Some(id) => {}
            Err(ReadError::Refused(reason)) => {
                if let Some(unlogged) = self.refusal_log.pass(Instant::now()) {
                    warn!("history cannot be read: room={room:?} reason={reason:?} unlogged={unlogged}");
                }
                let events = self.with_timeline(&room, |timeline| timeline.read_refused(id));
                self.tell_members(&room, events.unwrap_or_default(), None);
                self.admit(&room, None);
                self.keep_window(&room);
                self.disappoint_all(&room, &reason);
                for Pull {
                    session,
                    ticket,
                    after,
                    until,
                    ..
                } in self.pulls.remove(&room).unwrap_or_default()
                {
                    self.metrics.gaps.inc(labels::GapCause::Replay);
                    let part = Part::lost(room.clone(), after, until);
                    self.tell(session, Notice::Replay(ticket, part));
                }
                self.refused_reads
                    .push_back((Instant::now() + REFUSED_AGAIN_AFTER, room));
            }
        }
    }

    /// Nothing more is read for the room's members until what is returned has been dropped everywhere.
    fn pace(&mut self, room: &RoomName, ctx: &mut Context<Self>) -> Pace {
        let pacing = self.pacing.entry(room.clone()).or_insert_with(|| Pacing {
            give_up: Instant::now() + PACE_PATIENCE,
            waits: true,
        });
        pacing.waits = true;
        Pace::new(pacing.give_up, TellPaced(ctx.address(), room.clone()))
    }

    /// What was held behind a page comes with it, and could be too much for one turn of a session.
    fn tell_in_chunks(&self, room: &RoomName, events: Vec<RoomEvent>, pace: Option<&Pace>) {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        for event in events {
            bytes += event.text_bytes();
            chunk.push(event);
            if bytes >= self.limits.fill_bytes() {
                self.tell_members_at_pace(room, std::mem::take(&mut chunk), None, pace);
                bytes = 0;
            }
        }
        self.tell_members_at_pace(room, chunk, None, pace);
    }

    fn keep_window(&mut self, room: &RoomName) {
        if self.timelines.get(room).is_some_and(Timeline::has_window) {
            self.windows.retain(|(_, kept)| kept != room);
            self.windows.push_back((Instant::now(), room.clone()));
            if self.windows.len() > MAX_WINDOWS {
                self.forget_oldest_window();
            }
        }
    }

    fn forget_oldest_window(&mut self) {
        if let Some((_, room)) = self.windows.pop_front() {
            self.with_timeline(&room, Timeline::forget_window);
        }
    }

    pub(super) fn forget_old_windows(&mut self, now: Instant) {
        let life = WINDOW_LIFE.min(self.limits.retention.ttl / WINDOW_PART);
        while self.windows.front().is_some_and(|(read, _)| now >= *read + life) {
            self.forget_oldest_window();
        }
    }

    pub(super) fn read_again(&mut self, now: Instant) {
        while self.reads_again.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, room)) = self.reads_again.pop_front() {
                self.proceed(&room, None);
            }
        }
        while self.refused_reads.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, room)) = self.refused_reads.pop_front()
                && self.limits.retention.is_on()
            {
                self.missed(&[room]);
            }
        }
    }

    /// A numbering expires some days after the last publish; asking where a room is renews it.
    pub(super) fn renew_numberings(&mut self, now: Instant) {
        if !self.limits.retention.is_on() {
            return;
        }
        if now >= self.next_renewal {
            self.next_renewal = now + RENEWAL_INTERVAL;
            self.renewals = self.timelines.keys().cloned().collect();
        }
        let count = self.renewals.len().min(RENEWALS_PER_TICK);
        for room in self.renewals.drain(..count) {
            let Some(timeline) = self.timelines.get(&room) else {
                continue;
            };
            self.last_read += 1;
            self.reads.push(ReadRequest {
                id: self.last_read,
                known: timeline.position(),
                room,
                after: None,
                limit: PageLimit { entries: 0, bytes: 0 },
            });
        }
    }
}

/// The members of a room have written most of what they were told.
#[derive(Message)]
#[rtype(result = "()")]
struct Paced(RoomName);

/// Says so when it is dropped.
struct TellPaced(Addr<RoomRegistry>, RoomName);

impl Drop for TellPaced {
    fn drop(&mut self) {
        self.0.do_send(Paced(self.1.clone()));
    }
}

impl Handler<Paced> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, Paced(room): Paced, ctx: &mut Self::Context) {
        if let Some(pacing) = self.pacing.get_mut(&room) {
            pacing.waits = false;
        }
        self.proceed(&room, None);
        self.request_flush(ctx);
    }
}

impl Handler<Pull> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, pull: Pull, ctx: &mut Self::Context) {
        let room = pull.room.clone();
        // Who has left, and the room with him, asks in vain; and so nobody hears of it.
        if self.timelines.contains_key(&room) {
            self.pulls.entry(room.clone()).or_default().push(pull);
            self.proceed(&room, None);
            self.request_flush(ctx);
        }
    }
}
