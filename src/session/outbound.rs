//! What goes to the peer: the stream between the session and its HTTP connection.
//!
//! - The connection asks for more only when the kernel has taken all that it was given (the server sets its write
//!   buffer to the least), so each poll proves that earlier bytes have moved.
//! - A large batch is handed over in pieces, so that the connection's buffer stays small and progress is seen.
//! - The connection asks again after every piece. The session is only polled if something has woken it since: an idle
//!   poll of an actor costs as much as a delivery.
//! - A session that panics ends here: its peer is told 1011 and nothing else, and the panic goes no further.
//! - It lives exactly as long as the session. When it is dropped the session is detached, and only then can the
//!   socket close: nothing else may end that socket afterwards.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::task::AtomicWaker;

use super::outbox::Outbox;
use crate::protocol::close::CloseCode;
use crate::rooms::vitals::{Ending, Vitals};

/// Bytes that the connection is handed at once. It keeps a buffer of this size after a burst.
const PIECE: usize = 16 * 1024;

/// How often a session runs again that has woken itself. It does so after every 16 frames of its peer; if other sessions ran
/// after so few, what many publish would come in as slowly as it goes out, and nothing of it could be sent together.
const POLLS: usize = 4;

/// A session's output in pieces.
pub(super) struct Outbound<S> {
    /// `None` when the session has panicked.
    source: Option<Pin<Box<S>>>,
    has_ended: bool,
    outbox: Rc<Outbox>,
    vitals: Rc<Vitals>,
    wake: Arc<WakeFlag>,
    /// Sets the flag and wakes the connection's task.
    waker: Waker,
    on_panic: OnPanic,
    /// Dropped with the stream.
    _attachment: Attachment,
}

/// Notes that the session has something to do.
#[derive(Default)]
struct WakeFlag {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Is told that the session has panicked.
pub(super) type OnPanic = Box<dyn Fn()>;

/// Runs something when it is dropped.
pub(super) struct Attachment(Box<dyn Fn()>);

impl Attachment {
    pub(super) fn new(detach: impl Fn() + 'static) -> Self {
        Self(Box::new(detach))
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<S> Outbound<S> {
    /// `source` fills `outbox` when it is polled.
    pub(super) fn new(
        source: S,
        outbox: Rc<Outbox>,
        vitals: Rc<Vitals>,
        on_panic: OnPanic,
        attachment: Attachment,
    ) -> Self {
        let wake = Arc::new(WakeFlag {
            woken: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        let waker = Waker::from(wake.clone());
        Self {
            source: Some(Box::pin(source)),
            has_ended: false,
            outbox,
            vitals,
            wake,
            waker,
            on_panic,
            _attachment: attachment,
        }
    }
}

impl<S, E> Outbound<S>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    fn poll_source(&mut self) -> Poll<Option<Result<Bytes, E>>> {
        let (false, Some(source)) = (self.has_ended, &mut self.source) else {
            return Poll::Ready(None);
        };
        let kept = self.outbox.frames();
        let mut context = Context::from_waker(&self.waker);
        // Nothing of the session is used after a panic; what it shares with others is counters and cells.
        let polled = catch_unwind(AssertUnwindSafe(|| source.as_mut().poll_next(&mut context)));
        polled.unwrap_or_else(|_| {
            (self.on_panic)();
            self.vitals.end(Ending::Server(CloseCode::Internal));
            // What waits for the session cannot be sent any more.
            self.vitals.evict(Instant::now());
            let dead = self.source.take();
            // Dropping what is broken may fail as well, and would end the process while the first panic unwinds.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(dead)));
            self.outbox.truncate(kept);
            self.outbox.close(Some(CloseCode::Internal.into()));
            Poll::Ready(None)
        })
    }
}

impl<S, E> Stream for Outbound<S>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    type Item = Result<Bytes, E>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.vitals.moved(this.outbox.bytes());
        if this.outbox.bytes() == 0 {
            this.wake.task.register(cx.waker());
            for _ in 0..POLLS {
                let is_woken = this.wake.woken.swap(false, Ordering::AcqRel);
                // A session that ends is asked until it has ended: nothing wakes it any more.
                if !is_woken && !this.vitals.is_closing() {
                    break;
                }
                match this.poll_source() {
                    Poll::Ready(Some(Ok(frames))) => this.outbox.push(frames),
                    Poll::Ready(None) => {
                        this.has_ended = true;
                        break;
                    }
                    Poll::Ready(error) => return Poll::Ready(error),
                    Poll::Pending => {}
                }
            }
            this.vitals.wrote(this.outbox.bytes());
        }
        match this.outbox.take(PIECE) {
            Some(piece) => Poll::Ready(Some(Ok(piece))),
            None if this.has_ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::time::Duration;

    use futures_util::task::noop_waker;
    use futures_util::{StreamExt, stream};

    use super::*;

    #[test]
    fn a_batch_comes_in_pieces_and_the_backlog_falls_as_they_move() {
        let vitals = Rc::new(Vitals::new(1_000_000, Duration::from_secs(1), Instant::now()));
        let detached = Rc::new(Cell::new(false));
        let source = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![7; PIECE * 2 + 1]))]);
        let source = source.chain(stream::pending());
        let attachment = Attachment::new({
            let detached = detached.clone();
            move || detached.set(true)
        });
        let mut outbound = Outbound::new(source, Rc::default(), vitals.clone(), Box::new(|| {}), attachment);
        let mut seen = Vec::new();
        while let Poll::Ready(Some(Ok(piece))) =
            Pin::new(&mut outbound).poll_next(&mut Context::from_waker(&noop_waker()))
        {
            seen.push((piece.len(), vitals.backlog()));
        }
        assert_eq!(seen, [(PIECE, PIECE * 2 + 1), (PIECE, PIECE + 1), (1, 1)]);
        assert_eq!(vitals.backlog(), 0);
        assert!(!detached.get());
        drop(outbound);
        assert!(detached.get());
    }

    #[test]
    fn the_session_is_polled_only_when_it_was_woken() {
        let vitals = Rc::new(Vitals::new(1_000_000, Duration::from_secs(1), Instant::now()));
        let polls = Rc::new(Cell::new(0));
        let session_waker = Rc::new(Cell::new(None));
        let source = stream::poll_fn({
            let (polls, session_waker) = (polls.clone(), session_waker.clone());
            move |cx| {
                polls.set(polls.get() + 1);
                session_waker.set(Some(cx.waker().clone()));
                Poll::Ready(Some(Ok::<_, Infallible>(Bytes::from_static(b"x"))))
            }
        });
        let mut outbound = Outbound::new(
            source,
            Rc::default(),
            vitals.clone(),
            Box::new(|| {}),
            Attachment::new(|| {}),
        );
        let mut poll = || Pin::new(&mut outbound).poll_next(&mut Context::from_waker(&noop_waker()));
        assert!(poll().is_ready());
        assert!(poll().is_pending());
        let waker: Waker = session_waker.take().expect("polled");
        waker.wake();
        assert!(poll().is_ready());
        assert!(poll().is_pending());
        assert_eq!(polls.get(), 2);
        vitals.close(Instant::now());
        assert!(poll().is_ready(), "a session that ends is asked again");
    }

    #[test]
    fn a_session_that_wakes_itself_runs_on_for_a_while() {
        let vitals = Rc::new(Vitals::new(1_000_000, Duration::from_secs(1), Instant::now()));
        let mut last = 0;
        let source = stream::poll_fn(move |cx| {
            last += 1;
            cx.waker().wake_by_ref();
            Poll::Ready(Some(Ok::<_, Infallible>(Bytes::from(vec![last]))))
        });
        let mut outbound = Outbound::new(
            source,
            Rc::default(),
            vitals,
            Box::new(|| {}),
            Attachment::new(|| {}),
        );
        let mut poll = || Pin::new(&mut outbound).poll_next(&mut Context::from_waker(&noop_waker()));
        for expected in [[1, 2, 3, 4], [5, 6, 7, 8]] {
            assert!(matches!(poll(), Poll::Ready(Some(Ok(bytes))) if bytes[..] == expected));
        }
    }

    #[test]
    fn a_session_that_panics_is_closed_with_1011_and_nothing_more() {
        let vitals = Rc::new(Vitals::new(1_000_000, Duration::from_secs(1), Instant::now()));
        let panics = Rc::new(Cell::new(0));
        let polls = Cell::new(0);
        let source = stream::poll_fn(move |_| {
            polls.set(polls.get() + 1);
            assert!(polls.get() < 2, "on purpose");
            Poll::Ready(Some(Ok::<_, Infallible>(Bytes::from_static(b"last words"))))
        });
        let on_panic = {
            let panics = panics.clone();
            Box::new(move || panics.set(panics.get() + 1))
        };
        let mut outbound = Outbound::new(
            source,
            Rc::default(),
            vitals.clone(),
            on_panic,
            Attachment::new(|| {}),
        );
        let mut poll = || Pin::new(&mut outbound).poll_next(&mut Context::from_waker(&noop_waker()));
        assert!(matches!(poll(), Poll::Ready(Some(Ok(bytes))) if bytes == "last words"));
        vitals.close(Instant::now());
        let Poll::Ready(Some(Ok(frame))) = poll() else {
            panic!("a close frame follows")
        };
        assert_eq!(
            frame[..4],
            [0x88, u8::try_from(frame.len() - 2).expect("short"), 0x03, 0xf3]
        );
        assert!(matches!(poll(), Poll::Ready(None)));
        assert_eq!(panics.get(), 1);
        assert_eq!(vitals.ending(), Some(Ending::Server(CloseCode::Internal)));
    }
}
