//! Frames on their way from the session to its connection, in order.
//!
//! A frame that many are sent is shared until the connection copies it. Frames that wait together leave together, in pieces of
//! a size that the taker names.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use actix_http::ws::{CloseReason, OpCode, Parser};
use bytes::{Bytes, BytesMut};

use crate::protocol::frame::TextFrame;

/// Frames whose places are kept when none waits.
const SLOTS_KEPT: usize = 16;

/// What the session has written and the connection has not been given.
#[derive(Default)]
pub(super) struct Outbox {
    frames: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
}

impl Outbox {
    pub(super) fn text(&self, frame: &TextFrame) {
        self.push(frame.bytes().clone());
    }

    pub(super) fn binary(&self, payload: &[u8]) {
        self.frame(payload, OpCode::Binary);
    }

    pub(super) fn ping(&self) {
        self.frame(&[], OpCode::Ping);
    }

    pub(super) fn pong(&self, payload: &[u8]) {
        self.frame(payload, OpCode::Pong);
    }

    pub(super) fn close(&self, reason: Option<CloseReason>) {
        let mut bytes = BytesMut::new();
        Parser::write_close(&mut bytes, reason, false);
        self.push(bytes.freeze());
    }

    fn frame(&self, payload: &[u8], code: OpCode) {
        let mut bytes = BytesMut::new();
        Parser::write_message(&mut bytes, payload, code, true, false);
        self.push(bytes.freeze());
    }

    pub(super) fn push(&self, frame: Bytes) {
        self.bytes.set(self.bytes.get() + frame.len());
        self.frames.borrow_mut().push_back(frame);
    }

    /// How many frames wait.
    pub(super) fn frames(&self) -> usize {
        self.frames.borrow().len()
    }

    /// Forgets all but the first frames.
    pub(super) fn truncate(&self, frames: usize) {
        self.frames.borrow_mut().truncate(frames);
        self.bytes.set(self.frames.borrow().iter().map(Bytes::len).sum());
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// What comes next, of this size at most; `None` if nothing waits.
    pub(super) fn take(&self, at_most: usize) -> Option<Bytes> {
        let mut frames = self.frames.borrow_mut();
        let mut first = frames.pop_front()?;
        let piece = if first.len() > at_most {
            let piece = first.split_to(at_most);
            frames.push_front(first);
            piece
        } else if frames.is_empty() {
            first
        } else {
            let mut piece = BytesMut::with_capacity(self.bytes.get().min(at_most));
            piece.extend_from_slice(&first);
            while piece.len() < at_most
                && let Some(next) = frames.front_mut()
            {
                let part = next.split_to(next.len().min(at_most - piece.len()));
                piece.extend_from_slice(&part);
                if next.is_empty() {
                    frames.pop_front();
                }
            }
            piece.freeze()
        };
        if frames.is_empty() && frames.capacity() > SLOTS_KEPT {
            *frames = VecDeque::new();
        }
        self.bytes.set(self.bytes.get() - piece.len());
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_that_goes_in_comes_out_in_order_and_in_full_pieces(
            frames in vec(vec(any::<u8>(), 1..40), 0..40),
            at_most in 1..60_usize,
        ) {
            let outbox = Outbox::default();
            for frame in &frames {
                outbox.push(frame.clone().into());
            }
            let expected = frames.concat();
            prop_assert_eq!(outbox.bytes(), expected.len());
            let mut taken = Vec::new();
            while let Some(piece) = outbox.take(at_most) {
                taken.extend_from_slice(&piece);
                prop_assert_eq!(outbox.bytes(), expected.len() - taken.len());
                prop_assert!(piece.len() == at_most || outbox.bytes() == 0);
            }
            prop_assert_eq!(taken, expected);
        }
    }

    #[test]
    fn a_frame_alone_is_not_copied() {
        let outbox = Outbox::default();
        let frame = TextFrame::new("shared");
        outbox.text(&frame);
        let piece = outbox.take(1_000).expect("a frame");
        assert_eq!(piece.as_ptr(), frame.bytes().as_ptr());
    }
}
