//! What goes to the peer: the stream between the session and its HTTP connection.
//!
//! - The connection asks for more only when the kernel has taken all that it was given (the server sets its write
//!   buffer to the least), so each poll proves that earlier bytes have moved.
//! - A large batch is handed over in pieces, so that the connection's buffer stays small and progress is seen.
//! - It lives exactly as long as the session. When it is dropped the session is detached, and only then can the
//!   socket close: nothing else may end that socket afterwards.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;

use crate::rooms::vitals::Vitals;

/// Bytes that the connection is handed at once. It keeps a buffer of this size after a burst.
const PIECE: usize = 16 * 1024;

/// A session's output in pieces.
pub(super) struct Outbound<S> {
    source: Pin<Box<S>>,
    rest: Bytes,
    vitals: Rc<Vitals>,
    /// Dropped with the stream.
    _attachment: Attachment,
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
        Self {
            source: Box::pin(source),
            rest: Bytes::new(),
            vitals,
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
        this.vitals.moved(this.rest.len(), Instant::now());
        if this.rest.is_empty() {
            match ready!(this.source.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => {
                    this.vitals.wrote(bytes.len());
                    this.rest = bytes;
                }
                end => return Poll::Ready(end),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        if this.rest.is_empty() {
            // `split_to` leaves a handle to the whole batch behind.
            this.rest = Bytes::new();
        }
        Poll::Ready(Some(Ok(piece)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::time::Duration;

    use futures_util::stream;
    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn a_batch_comes_in_pieces_and_the_backlog_falls_as_they_move() {
        let vitals = Rc::new(Vitals::new(1_000_000, Duration::from_secs(1), Instant::now()));
        let detached = Rc::new(Cell::new(false));
        let source = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![7; PIECE * 2 + 1]))]);
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
}
