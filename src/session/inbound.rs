//! What comes from the peer: the byte stream in front of the session.
//!
//! [`Inbound`] lets one frame through at a time. The session says when it has handled it ([`Intake::handled`]); until
//! then, and while the session has too much under way ([`Intake::hold`]), the stream is not read, and TCP holds the
//! peer back; sessions that together have too much under way get one command each. A session that will end takes nothing
//! more ([`Intake::shut`]). The session itself goes on: its deliveries and timers do not depend on this stream.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_web::error::PayloadError;
use bytes::Bytes;
use futures_util::{Stream, ready};
use prometheus_client::metrics::gauge::Gauge;

use super::framing::{FrameScanner, Scanned};
use crate::protocol::close::CloseCode;

/// Bytes of commands that one session may have under way before its peer is not read from any more.
const MAX_UNDER_WAY: usize = 1024 * 1024;

/// Bytes that all sessions together may have under way before each of them is only read from while it has none.
const MAX_UNDER_WAY_TOGETHER: i64 = 48 * 1024 * 1024;

/// What a session and the stream in front of it tell each other.
#[derive(Debug)]
pub(super) struct Intake {
    /// A frame was let through and is not handled yet.
    unhandled: Cell<bool>,
    under_way: Cell<usize>,
    violation: Cell<Option<CloseCode>>,
    waker: RefCell<Option<Waker>>,
    shut: Cell<bool>,
    /// What all sessions have under way.
    total: Gauge,
}

impl Intake {
    /// `total` counts what all sessions have under way, in bytes.
    pub(super) fn new(total: Gauge) -> Self {
        Self {
            unhandled: Cell::new(false),
            under_way: Cell::new(0),
            violation: Cell::new(None),
            waker: RefCell::new(None),
            shut: Cell::new(false),
            total,
        }
    }

    /// Lets no more frames through.
    pub(super) fn shut(&self) {
        self.shut.set(true);
    }

    /// The frame that was let through has been handled. The stream is polled again by the actor's own loop.
    pub(super) fn handled(&self) {
        self.unhandled.set(false);
    }

    /// A command of this many bytes is under way.
    pub(super) fn hold(&self, bytes: usize) {
        self.set_under_way(self.under_way.get() + bytes);
    }

    fn set_under_way(&self, bytes: usize) {
        let before = self.under_way.replace(bytes);
        self.total.inc_by(gauged(bytes) - gauged(before));
    }

    /// It has been answered.
    pub(super) fn release(&self, bytes: usize) {
        self.set_under_way(self.under_way.get().saturating_sub(bytes));
        if self.has_room()
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// The violation that ended the stream, if one did.
    pub(super) fn violation(&self) -> Option<CloseCode> {
        self.violation.get()
    }

    /// Whether a whole frame was let through that is not handled yet: then an error is about that frame, and not
    /// about the connection.
    pub(super) fn is_frame_pending(&self) -> bool {
        self.unhandled.get()
    }

    fn is_open(&self) -> bool {
        !self.shut.get() && !self.unhandled.get() && self.has_room()
    }

    /// Whether another command may come. A session without room has something under way, so it is woken by its own
    /// answers, whatever the others do.
    fn has_room(&self) -> bool {
        let under_way = self.under_way.get();
        under_way == 0 || under_way < MAX_UNDER_WAY && self.total.get() < MAX_UNDER_WAY_TOGETHER
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.set_under_way(0);
    }
}

fn gauged(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The request's body, judged and paced.
pub(super) struct Inbound<S> {
    source: S,
    scanner: FrameScanner,
    rest: Bytes,
    intake: Rc<Intake>,
}

impl<S> Inbound<S> {
    /// `max_message` bounds what one message may count, in bytes.
    pub(super) fn new(source: S, max_message: u64, intake: Rc<Intake>) -> Self {
        Self {
            source,
            scanner: FrameScanner::new(max_message),
            rest: Bytes::new(),
            intake,
        }
    }
}

impl<S> Stream for Inbound<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if this.scanner.is_between_frames() && !this.intake.is_open() {
                *this.intake.waker.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if this.rest.is_empty() {
                match ready!(Pin::new(&mut this.source).poll_next(cx)) {
                    Some(Ok(bytes)) => this.rest = bytes,
                    end => return Poll::Ready(end),
                }
                continue;
            }
            match this.scanner.scan(&mut this.rest) {
                Ok(Scanned::Nothing) => {}
                Ok(Scanned::Pass { bytes, ends_frame }) => {
                    this.intake.unhandled.set(ends_frame);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Err(code) => {
                    this.intake.violation.set(Some(code));
                    // The kind does not matter: the session asks the intake.
                    return Poll::Ready(Some(Err(PayloadError::Overflow)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use futures_util::task::noop_waker;

    use super::*;

    const PING: &[u8] = &[0x89, 0x80, 1, 2, 3, 4];

    fn inbound(
        input: &[u8],
    ) -> (
        impl Stream<Item = Result<Bytes, PayloadError>> + Unpin + use<>,
        Rc<Intake>,
    ) {
        let intake = Rc::new(Intake::new(Gauge::default()));
        let source = stream::iter([Ok(Bytes::copy_from_slice(input))]);
        (Inbound::new(source, 1_000, intake.clone()), intake)
    }

    fn poll<S: Stream + Unpin>(stream: &mut S) -> Poll<Option<S::Item>> {
        Pin::new(stream).poll_next(&mut Context::from_waker(&noop_waker()))
    }

    #[test]
    fn one_frame_passes_at_a_time() {
        let (mut stream, intake) = inbound(&[PING, PING].concat());
        assert!(matches!(poll(&mut stream), Poll::Ready(Some(Ok(bytes))) if bytes == PING));
        assert!(poll(&mut stream).is_pending());
        intake.handled();
        assert!(matches!(poll(&mut stream), Poll::Ready(Some(Ok(bytes))) if bytes == PING));
        intake.handled();
        assert!(matches!(poll(&mut stream), Poll::Ready(None)));
    }

    #[test]
    fn a_violation_comes_after_the_good_frames_before_it() {
        let (mut stream, intake) = inbound(&[PING, &[0xff]].concat());
        assert!(matches!(poll(&mut stream), Poll::Ready(Some(Ok(_)))));
        assert!(poll(&mut stream).is_pending());
        assert_eq!(intake.violation(), None);
        intake.handled();
        assert!(matches!(poll(&mut stream), Poll::Ready(Some(Err(_)))));
        assert_eq!(intake.violation(), Some(CloseCode::ProtocolViolation));
    }

    #[test]
    fn nothing_is_read_while_too_much_is_under_way() {
        let (mut stream, intake) = inbound(PING);
        intake.hold(MAX_UNDER_WAY);
        assert!(poll(&mut stream).is_pending());
        intake.release(1);
        assert!(intake.waker.borrow().is_none(), "woken");
        assert!(matches!(poll(&mut stream), Poll::Ready(Some(Ok(_)))));
    }

    #[test]
    fn while_all_have_too_much_under_way_each_is_read_from_when_it_has_nothing() {
        let together = Gauge::default();
        let most = usize::try_from(MAX_UNDER_WAY_TOGETHER).expect("positive");
        let many = Intake::new(together.clone());
        let (idle, busy) = (Intake::new(together.clone()), Intake::new(together.clone()));
        busy.hold(2);
        many.hold(most - 2);
        assert!(idle.is_open() && !busy.is_open());
        busy.release(1);
        assert!(busy.is_open(), "there is room for all again");
        many.hold(1);
        assert!(!busy.is_open());
        busy.release(1);
        assert!(busy.is_open());
        drop(many);
        assert_eq!(together.get(), 0);
    }
}
