//! What stands between a connection's socket and the HTTP codec until the connection is a session.
//!
//! The codec decodes every request that it has read before it sends the first answer, reads on while no answer can be
//! sent, asks its socket again without a pause once its buffer is full, and parses an unfinished head anew with every
//! byte. A peer that sends requests and reads no answers costs it 100 MiB and a whole core (actix-http 3.20). It has no
//! setting for any of this and knows no time limit behind the first head. So:
//!
//! - A head is passed on when it is whole, and the next one when the answer is with the kernel.
//! - Of a head that is too long nothing is passed on; the codec gets one that it answers with 431.
//! - A body is passed on as far as its length says. Behind one without a length no other request follows.
//! - What nobody will read is read and forgotten for a while, so that the peer gets its answer.
//! - Every phase has a time limit: the codec's own for heads, and the ones below. A session looks after itself, and can have
//!   its connection reset from outside: one whose peer does not read is frozen, and cannot end itself.
//! - The peer is told at once that nothing more comes, and has some time to read it and to end its own side.
//!
//! The codec's side reads and writes the [`Gate`]; [`Latch`] is what requests and answers tell it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::head::HeadScanner;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 32 * 1024;

/// Bytes that are read at once.
const READ: usize = 4 * 1024;

/// How much of a head that is too long is read before it is answered.
const MAX_FORGOTTEN: usize = 2 * 1024 * 1024;

/// How long the head of a request may take to come, from its first byte. The codec, which answers the first one of a
/// connection with 408 if it does not, is a little earlier.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a request's body may take to come.
const BODY_TIME: Duration = Duration::from_secs(10);

/// How long an answer may take to be made and taken.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// How long a connection that serves no more may take to end.
const END_TIME: Duration = Duration::from_secs(10);

/// Header lines that are more than the codec takes (it takes 96).
const TOO_MANY_HEADERS: usize = 97;

/// What comes behind the head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing, or so many bytes.
    Length(u64),
    /// Chunks, and nobody knows how many.
    Chunked,
    /// Whatever the peer likes, if its wish for another protocol is granted.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A request is awaited.
    Head,
    /// One was passed on whose handler has not begun.
    Passed,
    /// So much of its body is to come.
    Body(u64),
    /// Its body comes in chunks.
    Chunks,
    /// It is being answered. `last`: what the peer sends behind it can be no request.
    Answer { last: bool },
    /// The connection is a session.
    Session,
    /// Nothing is served any more.
    Over,
    /// The connection is to be reset.
    Cut,
}

/// How far a connection is, shared by its gate and what serves its requests.
pub(super) struct Latch {
    phase: Cell<Phase>,
    /// When the phase ends the hard way.
    limit: Cell<Option<Instant>>,
    /// Given back with the connection.
    kept: RefCell<Option<Rc<dyn Any>>>,
    /// The connection's task, if another phase would change something for it.
    waiting: RefCell<Option<Waker>>,
}

impl Latch {
    /// The handler of the request that was passed on begins.
    pub(super) fn begin(&self, body: Body) {
        let (phase, time) = match body {
            Body::Length(0) => (Phase::Answer { last: false }, ANSWER_TIME),
            Body::Length(length) => (Phase::Body(length), BODY_TIME),
            Body::Chunked => (Phase::Chunks, BODY_TIME),
            Body::Other => (Phase::Answer { last: true }, ANSWER_TIME),
        };
        self.enter(phase, Some(time));
    }

    /// The connection becomes a session.
    pub(super) fn open(&self) {
        self.enter(Phase::Session, None);
    }

    /// Keeps something as long as the connection lasts.
    pub(super) fn keep(&self, kept: Rc<dyn Any>) {
        *self.kept.borrow_mut() = Some(kept);
    }

    /// Resets the connection: the peer gets nothing more, and the kernel frees what it held for it.
    pub(super) fn cut(&self) {
        self.enter(Phase::Cut, None);
    }

    /// The answer is made, or the session has ended.
    pub(super) fn end(&self) {
        match self.phase.get() {
            // The limit stays: the answer has to be taken, too.
            Phase::Answer { last: false } => self.phase.set(Phase::Head),
            Phase::Cut => {}
            _ => self.enter(Phase::Over, Some(END_TIME)),
        }
        self.wake();
    }

    fn enter(&self, phase: Phase, time: Option<Duration>) {
        self.phase.set(phase);
        self.limit.set(time.map(|time| Instant::now() + time));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    fn wait<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.remember(cx);
        Poll::Pending
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
    }
}

/// A connection as the codec sees it.
pub(super) struct Gate<S> {
    socket: S,
    /// Makes the end of the socket a reset.
    reset: fn(&S),
    latch: Rc<Latch>,
    /// Bytes that were read and not passed on, …
    held: BytesMut,
    /// … of which so many may be.
    free: usize,
    scanner: HeadScanner,
    /// A head has begun to come.
    is_head_begun: bool,
    /// Bytes of a head that is too long, which are forgotten.
    forgotten: usize,
    /// The kernel takes no more of an answer.
    is_blocked: bool,
    /// The peer was told that nothing more comes.
    is_shut: bool,
    /// Runs out at the moment beside it.
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Gate<S> {
    /// `reset` makes the end of a socket a reset.
    pub(super) fn new(socket: S, reset: fn(&S)) -> Self {
        let latch = Latch {
            phase: Cell::new(Phase::Head),
            limit: Cell::new(None),
            kept: RefCell::default(),
            waiting: RefCell::default(),
        };
        Self {
            socket,
            reset,
            latch: Rc::new(latch),
            held: BytesMut::new(),
            free: 0,
            scanner: HeadScanner::default(),
            is_head_begun: false,
            forgotten: 0,
            is_blocked: false,
            is_shut: false,
            timer: None,
        }
    }

    pub(super) fn latch(&self) -> &Rc<Latch> {
        &self.latch
    }

    fn reset(&self) -> io::Error {
        (self.reset)(&self.socket);
        io::ErrorKind::ConnectionReset.into()
    }

    /// Whether the phase has lasted too long. The task is woken when it has.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(limit) = self.latch.limit.get() else {
            self.timer = None;
            return false;
        };
        let timer = match &mut self.timer {
            Some((at, timer)) if *at == limit => timer,
            other => &mut other.insert((limit, Box::pin(tokio::time::sleep_until(limit)))).1,
        };
        timer.as_mut().poll(cx).is_ready()
    }

    /// Passes on what is free of the held bytes.
    fn pass(&mut self, buffer: &mut ReadBuf<'_>) -> usize {
        let count = self.free.min(buffer.remaining());
        buffer.put_slice(&self.held[..count]);
        self.held.advance(count);
        self.free -= count;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
        count
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Reads at most so many bytes and holds them. How many it were; 0 at the end.
    fn hold(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [0; READ];
        let mut buffer = ReadBuf::new(&mut bytes[..most.min(READ)]);
        std::task::ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        self.held.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn read_head(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.free > 0 {
                self.pass(buffer);
                if self.free == 0 {
                    self.is_head_begun = false;
                    // Should the codec see no request in it, nothing else would end the connection.
                    self.latch.enter(Phase::Passed, Some(END_TIME));
                }
                return Poll::Ready(Ok(()));
            }
            // The answer before it is with the kernel first.
            if self.is_blocked {
                return self.latch.wait(cx);
            }
            if !self.is_head_begun {
                self.is_head_begun = !self.held.is_empty();
                let limit = self.is_head_begun.then(|| Instant::now() + HEAD_TIME);
                self.latch.limit.set(limit);
                let _ = self.is_late(cx);
            }
            if self.forgotten > 0 {
                let count = match self.hold(READ, cx) {
                    Poll::Ready(count) => count?,
                    Poll::Pending => 0,
                };
                self.held.clear();
                self.forgotten += count;
                if count == 0 || self.forgotten > MAX_FORGOTTEN {
                    self.hold_what_is_too_long();
                }
                continue;
            }
            if let Some(length) = self.scanner.scan(&self.held) {
                self.scanner = HeadScanner::default();
                if length > MAX_HEAD {
                    self.forgotten = length;
                } else {
                    self.free = length;
                }
                continue;
            }
            if self.held.len() > MAX_HEAD {
                self.forgotten = self.held.len();
                continue;
            }
            if std::task::ready!(self.hold(READ, cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Only the codec can answer before there is a request, and it knows this one to be too much.
    fn hold_what_is_too_long(&mut self) {
        self.held.extend_from_slice(b"GET / HTTP/1.1\r\n");
        for _ in 0..TOO_MANY_HEADERS {
            self.held.extend_from_slice(b"a:\r\n");
        }
        self.held.extend_from_slice(b"\r\n");
        self.free = self.held.len();
        self.forgotten = 0;
    }

    fn read_body(
        &mut self,
        left: u64,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        if self.held.is_empty() && std::task::ready!(self.hold(most, cx))? == 0 {
            return Poll::Ready(Ok(()));
        }
        self.free = self.held.len().min(most);
        let left = left - self.pass(buffer) as u64;
        self.free = 0;
        if left > 0 {
            self.latch.phase.set(Phase::Body(left));
        } else {
            self.latch.enter(Phase::Answer { last: false }, Some(ANSWER_TIME));
        }
        Poll::Ready(Ok(()))
    }

    /// Reads without looking.
    fn read_on(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        self.free = self.held.len();
        self.pass(buffer);
        self.free = 0;
        Poll::Ready(Ok(()))
    }

    fn forget(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite,
    {
        self.held = BytesMut::new();
        // The codec has written everything by now, unless the kernel does not take it.
        if !self.is_blocked && !self.is_shut {
            self.is_shut = true;
            std::task::ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
        }
        while std::task::ready!(self.hold(READ, cx))? > 0 {
            self.held.clear();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_late(cx) {
            if matches!(this.latch.phase.get(), Phase::Body(_) | Phase::Chunks) {
                // The handler is told that nothing more comes, and can still say what it thinks of that.
                this.latch.enter(Phase::Answer { last: true }, Some(ANSWER_TIME));
            }
            return Poll::Ready(Ok(()));
        }
        match this.latch.phase.get() {
            Phase::Head => this.read_head(cx, buffer),
            Phase::Passed | Phase::Answer { .. } => this.latch.wait(cx),
            Phase::Body(left) => this.read_body(left, cx, buffer),
            Phase::Session => {
                this.latch.remember(cx);
                this.read_on(cx, buffer)
            }
            Phase::Chunks => this.read_on(cx, buffer),
            Phase::Over => this.forget(cx),
            Phase::Cut => Poll::Ready(Err(this.reset())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_late(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if this.latch.phase.get() == Phase::Cut {
            return Poll::Ready(Err(this.reset()));
        }
        let written = Pin::new(&mut this.socket).poll_write(cx, bytes);
        if written.is_pending() {
            this.latch.remember(cx);
        }
        let was_blocked = std::mem::replace(&mut this.is_blocked, written.is_pending());
        if was_blocked && !this.is_blocked {
            this.latch.wake();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
