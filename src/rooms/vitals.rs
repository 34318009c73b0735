//! What is known of a session from outside: the bytes that wait for it, and whether its peer lives. Pure; time is an
//! argument.
//!
//! It has to be known from outside, because a session whose peer does not read is frozen: its mailbox, its timers and
//! its inbound frames stand still until the peer reads again (actix/actix-web issue 2441). The session and the stream
//! around it report here; its worker looks and acts.
//!
//! - Backlog = what waits in the mailbox + what the session has written and the kernel has not taken yet.
//! - Nothing on the way of a message reads the clock: that something was heard or has moved is noted, and dated when
//!   the worker looks, a sixteenth of a heartbeat later at most.
//! - A frozen session is not judged by its silence, because nobody listens to it: only by not moving.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::protocol::close::CloseCode;

/// A mailbox slot and the shared message in it, in bytes.
const SLOT_COST: usize = 128;

/// How long a session that was told to close may take to write what is before its close frame.
const CLOSE_PATIENCE: Duration = Duration::from_secs(8);

/// How long nothing may move towards a peer for whom something waits.
const STUCK_AFTER: Duration = Duration::from_millis(12_500);

/// How long nothing has moved before a session counts as frozen.
const FROZEN_AFTER: Duration = Duration::from_secs(1);

/// A session's state, shared by the session, the stream around it and its worker, all on one thread.
#[derive(Debug)]
pub struct Vitals {
    max_backlog: usize,
    heartbeat: Duration,
    queued: Cell<usize>,
    unwritten: Cell<usize>,
    has_heard: Cell<bool>,
    heard: Cell<Instant>,
    has_moved: Cell<bool>,
    moved: Cell<Instant>,
    pinged: Cell<Option<Instant>>,
    closing: Cell<Option<Instant>>,
    /// When the session may not be there any more.
    due: Cell<Option<(Instant, CloseCode)>>,
    evicted: Cell<bool>,
    ending: Cell<Option<Ending>>,
    eviction_counted: Cell<bool>,
}

/// How a session ended, where more is known than that its connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server closed it.
    Server(CloseCode),
    /// Its peer closed it, with this code if it gave one.
    Peer(Option<u16>),
    /// Its peer did not read, and the server reset the connection.
    Cut,
}

/// What a worker has to do for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Well,
    /// Ask the peer whether it is there.
    Ping,
    /// Tell the session to close.
    Close(CloseCode),
    /// Its time is over: tell it to close, and let it leave its rooms at once.
    Expel(CloseCode),
    /// End its socket: the session cannot do it itself.
    Cut,
}

impl Vitals {
    /// A session that begins now.
    #[must_use]
    pub fn new(max_backlog: usize, heartbeat: Duration, now: Instant) -> Self {
        Self {
            max_backlog,
            heartbeat,
            queued: Cell::new(0),
            unwritten: Cell::new(0),
            has_heard: Cell::new(false),
            heard: Cell::new(now),
            has_moved: Cell::new(false),
            moved: Cell::new(now),
            pinged: Cell::new(None),
            closing: Cell::new(None),
            due: Cell::new(None),
            evicted: Cell::new(false),
            ending: Cell::new(None),
            eviction_counted: Cell::new(false),
        }
    }

    /// Something is about to be put into the mailbox. `false`: it does not fit, and the session is too slow.
    #[must_use]
    pub fn queue(&self, bytes: usize) -> bool {
        self.queued.set(self.queued.get() + bytes + SLOT_COST);
        self.backlog() <= self.max_backlog
    }

    /// The session has taken it out again.
    pub fn unqueue(&self, bytes: usize) {
        self.queued
            .set(self.queued.get().saturating_sub(bytes + SLOT_COST));
    }

    /// All but `unwritten` bytes of what the session wrote have been taken by the kernel.
    pub fn moved(&self, unwritten: usize) {
        self.unwritten.set(unwritten);
        self.has_moved.set(true);
    }

    /// The session has written more.
    pub fn wrote(&self, bytes: usize) {
        self.unwritten.set(self.unwritten.get() + bytes);
    }

    /// A frame of the peer has arrived.
    pub fn heard(&self) {
        self.has_heard.set(true);
    }

    /// The session is about to end, and what waits for it is not sent any more: nobody reads it.
    pub fn evict(&self, now: Instant) {
        self.evicted.set(true);
        self.close(now);
    }

    /// Whether what waits is not sent any more.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.evicted.get()
    }

    /// The session is about to end, after what waits for it: it is told so, or it has decided so.
    pub fn close(&self, now: Instant) {
        if self.closing.get().is_none() {
            self.closing.set(Some(now));
        }
    }

    /// From this time on the session may not be there any more, and is closed with this code; `None`: it may be for ever.
    pub fn end_at(&self, due: Option<Instant>, code: CloseCode) {
        self.due.set(due.map(|due| (due, code)));
    }

    /// Whether an eviction is the session's first, and to be counted.
    #[must_use]
    pub fn count_eviction(&self) -> bool {
        !self.eviction_counted.replace(true)
    }

    /// How the session ends. What comes first counts.
    pub fn end(&self, ending: Ending) {
        if self.ending.get().is_none() {
            self.ending.set(Some(ending));
        }
    }

    /// How the session has ended; `None` if its connection was lost.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get()
    }

    /// Whether the session is about to end.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.get().is_some()
    }

    /// Bytes that wait for the peer.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.queued.get() + self.unwritten.get()
    }

    /// Whether so much waits that a healthy peer should be given time.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.backlog() > self.max_backlog / 4
    }

    /// Looks at the session. What is returned is taken as done.
    #[must_use]
    pub fn check(&self, now: Instant) -> Verdict {
        let since = |earlier: Instant| now.saturating_duration_since(earlier);
        if self.has_heard.take() {
            self.heard.set(now);
            self.pinged.set(None);
        }
        // While nothing waits nothing can move: the time begins when something does.
        if self.has_moved.take() || self.backlog() == 0 {
            self.moved.set(now);
        }
        let still = since(self.moved.get());
        if still >= STUCK_AFTER {
            return Verdict::Cut;
        }
        if let Some(closing) = self.closing.get() {
            return if since(closing) >= CLOSE_PATIENCE {
                Verdict::Cut
            } else {
                Verdict::Well
            };
        }
        // A session that is not frozen sees to that itself, and sooner.
        if let Some((_, code)) = self.due.get().filter(|(due, _)| *due <= now) {
            return Verdict::Expel(code);
        }
        if still >= FROZEN_AFTER {
            return Verdict::Well;
        }
        let silence = since(self.heard.get());
        if silence >= self.heartbeat.mul_f64(2.25) {
            self.evict(now);
            return Verdict::Close(CloseCode::Mute);
        }
        let last_asked = self.pinged.get().unwrap_or(self.heard.get());
        if since(last_asked) >= self.heartbeat {
            self.pinged.set(Some(now));
            return Verdict::Ping;
        }
        Verdict::Well
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(10);

    fn new(now: Instant) -> Vitals {
        Vitals::new(10_000, BEAT, now)
    }

    #[test]
    fn a_silent_peer_is_pinged_once_per_heartbeat_and_then_closed() {
        let start = Instant::now();
        let vitals = new(start);
        let verdicts: Vec<(u64, Verdict)> = (0..24)
            .map(|second| (second, vitals.check(start + Duration::from_secs(second))))
            .filter(|(_, verdict)| *verdict != Verdict::Well)
            .collect();
        assert_eq!(
            verdicts,
            [
                (10, Verdict::Ping),
                (20, Verdict::Ping),
                (23, Verdict::Close(CloseCode::Mute))
            ]
        );
    }

    #[test]
    fn who_may_not_be_there_any_more_is_expelled_also_when_frozen() {
        let start = Instant::now();
        let vitals = new(start);
        let after = |seconds| start + Duration::from_secs(seconds);
        vitals.end_at(Some(after(4)), CloseCode::Expired);
        // Something waits, and nothing moves.
        assert!(vitals.queue(1));
        assert_eq!(vitals.check(after(3)), Verdict::Well);
        assert_eq!(vitals.check(after(4)), Verdict::Expel(CloseCode::Expired));
        // It is given the time of every session that closes.
        vitals.close(after(4));
        assert_eq!(vitals.check(after(5)), Verdict::Well);
        assert_eq!(vitals.check(after(12)), Verdict::Cut);
        let vitals = new(start);
        vitals.end_at(Some(after(4)), CloseCode::Expired);
        vitals.end_at(None, CloseCode::Expired);
        assert_eq!(vitals.check(after(5)), Verdict::Well);
    }

    #[test]
    fn any_frame_counts_as_life() {
        let start = Instant::now();
        let vitals = new(start);
        for beat in 1..10 {
            let now = start + BEAT * beat;
            assert_eq!(vitals.check(now), Verdict::Ping);
            vitals.heard();
            assert_eq!(vitals.check(now), Verdict::Well);
        }
    }

    #[test]
    fn the_backlog_is_what_is_queued_and_what_is_unwritten() {
        let start = Instant::now();
        let vitals = new(start);
        assert!(vitals.queue(6_000));
        vitals.unqueue(6_000);
        vitals.wrote(6_000);
        assert!(!vitals.queue(6_000));
        vitals.moved(0);
        assert_eq!(vitals.backlog(), 6_000 + SLOT_COST);
    }

    #[test]
    fn a_frozen_session_is_cut_and_not_called_mute() {
        let start = Instant::now();
        let vitals = new(start);
        vitals.wrote(1);
        assert_eq!(vitals.check(start + Duration::from_secs(12)), Verdict::Well);
        assert_eq!(vitals.check(start + Duration::from_secs(13)), Verdict::Cut);
    }

    #[test]
    fn a_slow_reader_that_moves_is_not_cut() {
        let start = Instant::now();
        let vitals = new(start);
        for second in (0..120).step_by(9) {
            let now = start + Duration::from_secs(second);
            vitals.moved(5_000);
            vitals.heard();
            assert_ne!(vitals.check(now), Verdict::Cut);
            assert_ne!(vitals.check(now + Duration::from_secs(8)), Verdict::Cut);
        }
    }

    #[test]
    fn a_close_that_does_not_get_through_ends_in_a_cut() {
        let start = Instant::now();
        let vitals = new(start);
        vitals.close(start);
        assert_eq!(vitals.check(start + Duration::from_secs(7)), Verdict::Well);
        assert_eq!(vitals.check(start + Duration::from_secs(8)), Verdict::Cut);
    }

    #[test]
    fn an_idle_session_is_never_stuck() {
        let start = Instant::now();
        let vitals = new(start);
        let later = start + Duration::from_secs(60);
        vitals.heard();
        assert_eq!(vitals.check(later), Verdict::Well);
        assert!(vitals.queue(1));
        assert_eq!(vitals.check(later + Duration::from_secs(1)), Verdict::Well);
    }
}
