//! What goes to the peer: the stream between the session and its HTTP connection.
//!
//! - The connection asks for more only when the kernel has taken all that it was given (the server sets its write
//!   buffer to the least), so each poll proves that earlier bytes have moved.
//! - A large batch is handed over in pieces, so that the connection's buffer stays small and progress is seen.
//! - The connection asks again after every piece. The session is only polled if something has woken it since: an idle
//!   poll of an actor costs as much as a delivery.
//! - It lives exactly as long as the session. When it is dropped the session is detached, and only then can the
//!   socket close: nothing else may end that socket afterwards.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::task::AtomicWaker;

use crate::rooms::vitals::Vitals;

/// Bytes that the connection is handed at once. It keeps a buffer of this size after a burst.
const PIECE: usize = 16 * 1024;

/// A session's output in pieces.
pub(super) struct Outbound<S> {
    source: Pin<Box<S>>,
    rest: Bytes,
    vitals: Rc<Vitals>,
    wake: Arc<WakeFlag>,
    /// Sets the flag and wakes the connection's task.
    waker: Waker,
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
    pub(super) fn new(source: S, vitals: Rc<Vitals>, attachment: Attachment) -> Self {
        let wake = Arc::new(WakeFlag {
            woken: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        let waker = Waker::from(wake.clone());
        Self {
            source: Box::pin(source),
            rest: Bytes::new(),
            vitals,
            wake,
            waker,
            _attachment: attachment,
        }
    }
}

impl<S, E> Stream for Outbound<S>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    type Item = Result<Bytes, E>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.vitals.moved(this.rest.len());
        if this.rest.is_empty() {
            this.wake.task.register(cx.waker());
            // A session that ends is asked until it has ended: nothing wakes it any more.
            if !this.wake.woken.swap(false, Ordering::AcqRel) && !this.vitals.is_closing() {
                return Poll::Pending;
            }
            match this
                .source
                .as_mut()
                .poll_next(&mut Context::from_waker(&this.waker))
            {
                Poll::Ready(Some(Ok(bytes))) => {
                    this.vitals.wrote(bytes.len());
                    this.rest = bytes;
                }
                other => return other,
            }
        }
        let piece = if this.rest.len() <= PIECE {
            std::mem::take(&mut this.rest)
        } else {
            this.rest.split_to(PIECE)
        };
        Poll::Ready(Some(Ok(piece)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::time::{Duration, Instant};

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
        let mut outbound = Outbound::new(source, vitals.clone(), attachment);
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
        let mut outbound = Outbound::new(source, vitals.clone(), Attachment::new(|| {}));
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
}
