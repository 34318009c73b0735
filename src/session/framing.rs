//! RFC 6455 framing as the server has to demand it, followed byte by byte before anything is buffered. Pure.
//!
//! The codec underneath buffers a whole frame before it looks at its size, joins no fragments and closes nothing, so
//! the byte stream is judged here first:
//!
//! - Each frame's header is checked the moment it is complete: mask, reserved bits, opcode, length encoding, control
//!   frame rules, fragmentation order (sections 5.2 to 5.5).
//! - Sizes are judged from headers. Fragments of one message count together, 16 bytes each beside their payload.
//! - A close frame is held back until it is whole, and its code and reason are checked (sections 5.5.1 and 7.4).
//! - Whole headers and payload bytes of good frames are passed on; of a bad frame nothing is.
//!
//! UTF-8 of messages is left to those who have the joined text.

use bytes::{Buf, Bytes, BytesMut};

use crate::protocol::close::CloseCode;

/// What a fragment counts beside its payload, so that empty ones are not free.
pub(super) const FRAGMENT_COST: u64 = 16;

/// The longest header: 2 bytes, 8 of length, 4 of mask.
const MAX_HEADER: usize = 14;

/// RFC 6455 section 5.5.
const MAX_CONTROL_PAYLOAD: u64 = 125;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(super) struct FrameScanner {
    max_message: u64,
    state: State,
    /// Bytes of a header, or of a whole close frame, that are held back.
    held: BytesMut,
    /// What the fragments of an unfinished message count so far.
    fragmented: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Payload { left: u64 },
    Close { size: usize },
    Closed,
}

/// What can be passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// Nothing yet: the rest of something that is held back has to come.
    Nothing,
    /// These bytes; `ends_frame` if a frame ends with them.
    Pass { bytes: Bytes, ends_frame: bool },
}

#[derive(Clone, Copy)]
struct Header {
    is_final: bool,
    opcode: u8,
    length: u64,
    size: usize,
}

impl FrameScanner {
    /// `max_message` bounds what one message may count, in bytes.
    pub(super) fn new(max_message: u64) -> Self {
        Self {
            max_message,
            state: State::Header,
            held: BytesMut::new(),
            fragmented: None,
        }
    }

    /// Whether the next byte begins a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.state == State::Header && self.held.is_empty()
    }

    /// Bytes that are held back.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes bytes from the front of `input`. Call it until `input` is empty.
    ///
    /// # Errors
    /// The code to close with, at the first byte that proves a violation.
    pub(super) fn scan(&mut self, input: &mut Bytes) -> Result<Scanned, CloseCode> {
        match self.state {
            State::Header => self.scan_header(input),
            State::Payload { left } => {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let left = left - take as u64;
                self.state = if left == 0 {
                    State::Header
                } else {
                    State::Payload { left }
                };
                Ok(Scanned::Pass {
                    bytes: input.split_to(take),
                    ends_frame: left == 0,
                })
            }
            State::Close { size } => self.scan_close(size, input),
            State::Closed => {
                // Nothing counts after a close frame (section 5.5.1).
                input.clear();
                Ok(Scanned::Nothing)
            }
        }
    }

    fn scan_header(&mut self, input: &mut Bytes) -> Result<Scanned, CloseCode> {
        while !input.is_empty() {
            let Some(header) = self.hold_header_byte(input.get_u8())? else {
                continue;
            };
            self.judge(header)?;
            if header.opcode == 0x8 {
                let size = header.size + usize::try_from(header.length).expect("at most 125");
                self.state = State::Close { size };
                return self.scan_close(size, input);
            }
            let ends_frame = header.length == 0;
            if !ends_frame {
                self.state = State::Payload { left: header.length };
            }
            return Ok(Scanned::Pass {
                bytes: self.held.split().freeze(),
                ends_frame,
            });
        }
        Ok(Scanned::Nothing)
    }

    /// Adds a byte to the header; the header when it is whole. The first two bytes are judged as they come.
    fn hold_header_byte(&mut self, byte: u8) -> Result<Option<Header>, CloseCode> {
        self.held.reserve(MAX_HEADER);
        self.held.extend_from_slice(&[byte]);
        match self.held.len() {
            1 => return self.judge_first_byte(byte).map(|()| None),
            // A client must mask (section 5.1).
            2 if byte & 0x80 == 0 => return Err(CloseCode::ProtocolViolation),
            _ => {}
        }
        let length_bytes = match self.held[1..].first().map(|second| second & 0x7f) {
            Some(126) => 2,
            Some(127) => 8,
            _ => 0,
        };
        let size = 2 + length_bytes + 4;
        if self.held.len() < size {
            return Ok(None);
        }
        let length = match length_bytes {
            0 => u64::from(self.held[1] & 0x7f),
            n => self.held[2..2 + n]
                .iter()
                .fold(0, |length, byte| (length << 8) | u64::from(*byte)),
        };
        // The most significant bit must be 0, and the encoding the shortest one (section 5.2).
        let shortest = match length_bytes {
            0 => true,
            2 => length > 125,
            _ => length > 0xffff && length >> 63 == 0,
        };
        if !shortest {
            return Err(CloseCode::ProtocolViolation);
        }
        let (is_final, opcode) = (self.held[0] & 0x80 != 0, self.held[0] & 0x0f);
        Ok(Some(Header {
            is_final,
            opcode,
            length,
            size,
        }))
    }

    fn judge_first_byte(&self, byte: u8) -> Result<(), CloseCode> {
        let (is_final, reserved, opcode) = (byte & 0x80 != 0, byte & 0x70, byte & 0x0f);
        let in_order = match opcode {
            0x0 => self.fragmented.is_some(),
            0x1 | 0x2 => self.fragmented.is_none(),
            0x8..=0xa => is_final,
            _ => false,
        };
        if reserved == 0 && in_order {
            Ok(())
        } else {
            Err(CloseCode::ProtocolViolation)
        }
    }

    fn judge(&mut self, header: Header) -> Result<(), CloseCode> {
        if header.opcode >= 0x8 {
            return if header.length <= MAX_CONTROL_PAYLOAD {
                Ok(())
            } else {
                Err(CloseCode::ProtocolViolation)
            };
        }
        let whole_message = header.is_final && header.opcode != 0;
        let counts = if whole_message {
            header.length
        } else {
            self.fragmented
                .unwrap_or(0)
                .saturating_add(header.length)
                .saturating_add(FRAGMENT_COST)
        };
        if counts > self.max_message {
            return Err(CloseCode::TooBig);
        }
        self.fragmented = (!header.is_final).then_some(counts);
        Ok(())
    }

    fn scan_close(&mut self, size: usize, input: &mut Bytes) -> Result<Scanned, CloseCode> {
        let take = (size - self.held.len()).min(input.len());
        self.held.extend_from_slice(&input.split_to(take));
        if self.held.len() < size {
            return Ok(Scanned::Nothing);
        }
        let mask: [u8; 4] = self.held[2..6]
            .try_into()
            .expect("a control frame's header has 6 bytes");
        let payload: Vec<u8> = self.held[6..]
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect();
        judge_close_payload(&payload)?;
        self.state = State::Closed;
        Ok(Scanned::Pass {
            bytes: self.held.split().freeze(),
            ends_frame: true,
        })
    }
}

/// RFC 6455 section 7.4: which codes may be sent, and that the reason is UTF-8.
fn judge_close_payload(payload: &[u8]) -> Result<(), CloseCode> {
    match payload {
        [] => Ok(()),
        [_] => Err(CloseCode::ProtocolViolation),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(CloseCode::ProtocolViolation);
            }
            std::str::from_utf8(reason)
                .map(|_| ())
                .map_err(|_| CloseCode::InvalidText)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u64 = 1_000;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            n @ 0..=125 => frame.push(0x80 | u8::try_from(n).expect("small")),
            n @ 126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(n).expect("16 bits").to_be_bytes());
            }
            n => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[1, 2, 3, 4]);
        frame.extend(
            payload
                .iter()
                .zip([1, 2, 3, 4].iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        frame
    }

    /// Feeds `input` in pieces: what is passed on, how many frames ended, and how it went.
    fn feed(input: &[u8], pieces: usize) -> (Vec<u8>, usize, Result<(), CloseCode>) {
        let mut scanner = FrameScanner::new(MAX);
        let (mut passed, mut frames) = (Vec::new(), 0);
        for piece in input.chunks(pieces.max(1)) {
            let mut piece = Bytes::copy_from_slice(piece);
            while !piece.is_empty() {
                let scanned = scanner.scan(&mut piece);
                assert!(
                    scanner.held() <= MAX_HEADER + 125,
                    "more is held than a close frame"
                );
                match scanned {
                    Ok(Scanned::Nothing) => {}
                    Ok(Scanned::Pass { bytes, ends_frame }) => {
                        passed.extend_from_slice(&bytes);
                        frames += usize::from(ends_frame);
                    }
                    Err(code) => return (passed, frames, Err(code)),
                }
            }
        }
        (passed, frames, Ok(()))
    }

    fn verdict(input: &[u8]) -> Result<(), CloseCode> {
        feed(input, usize::MAX).2
    }

    #[test]
    fn good_frames_pass_unchanged_however_they_are_cut() {
        let mut input = frame(0x81, b"hello");
        input.extend(frame(0x01, b"a"));
        input.extend(frame(0x89, b"ping"));
        input.extend(frame(0x80, &[b'b'; 300]));
        input.extend(frame(0x88, b"\x03\xe8bye"));
        for pieces in [1, 2, 3, 7, input.len()] {
            assert_eq!(feed(&input, pieces), (input.clone(), 5, Ok(())));
        }
    }

    #[test]
    fn violations_are_found_at_the_header() {
        for (input, name) in [
            (vec![0xc1], "a reserved bit"),
            (vec![0x83], "an unknown opcode"),
            (vec![0x8b], "an unknown control opcode"),
            (vec![0x81, 0x05], "no mask"),
            (vec![0x80], "a continuation of nothing"),
            (vec![0x09], "a fragmented ping"),
            (vec![0x89, 0xfe, 0x00, 0x7e, 0, 0, 0, 0], "a long ping"),
            (
                vec![0x81, 0xfe, 0x00, 0x05, 0, 0, 0, 0],
                "a 16-bit length that is too small",
            ),
            (
                vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0, 0],
                "a 64-bit length that is too small",
            ),
            (
                vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                "the top bit of a length",
            ),
            (
                [frame(0x01, b"a"), vec![0x81]].concat(),
                "a new message within another",
            ),
            (frame(0x88, b"\x03"), "half a close code"),
            (frame(0x88, b"\x03\xed"), "a close code that is never sent"),
            (frame(0x88, b"\x13\x88"), "a close code out of range"),
        ] {
            assert_eq!(verdict(&input), Err(CloseCode::ProtocolViolation), "{name}");
        }
        assert_eq!(
            verdict(&frame(0x88, b"\x03\xe8\xff")),
            Err(CloseCode::InvalidText)
        );
    }

    #[test]
    fn sizes_are_judged_from_the_header_alone() {
        let header = [0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(feed(&header, 1), (Vec::new(), 0, Err(CloseCode::TooBig)));
        assert_eq!(verdict(&frame(0x82, &[0; 1_000])), Ok(()));
        assert_eq!(verdict(&frame(0x82, &[0; 1_001])), Err(CloseCode::TooBig));
    }

    #[test]
    fn fragments_count_together_and_empty_ones_are_not_free() {
        let mut input = frame(0x01, b"");
        for _ in 0..61 {
            input.extend(frame(0x00, b""));
        }
        assert_eq!(verdict(&input), Ok(()));
        input.extend(frame(0x00, b""));
        assert_eq!(verdict(&input), Err(CloseCode::TooBig));
    }

    #[test]
    fn nothing_counts_after_a_close_frame() {
        let input = [frame(0x88, b""), vec![0xff; 50]].concat();
        assert_eq!(feed(&input, 3), (frame(0x88, b""), 1, Ok(())));
    }

    proptest! {
        #[test]
        fn any_bytes_cut_anyhow_end_alike(input in proptest::collection::vec(any::<u8>(), 0..300), pieces in 1..50_usize) {
            let whole = feed(&input, usize::MAX);
            let cut = feed(&input, pieces);
            prop_assert_eq!(whole, cut);
        }

        #[test]
        fn good_messages_are_never_refused(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 1..4),
            pieces in 1..500_usize,
        ) {
            let mut input = Vec::new();
            let last = payloads.len() - 1;
            for (index, payload) in payloads.iter().enumerate() {
                let opcode = if index == 0 { 0x02 } else { 0x00 };
                let fin = if index == last { 0x80 } else { 0x00 };
                input.extend(frame(fin | opcode, payload));
            }
            let counts: u64 = payloads.iter().map(|p| p.len() as u64 + FRAGMENT_COST).sum();
            let (passed, frames, verdict) = feed(&input, pieces);
            if counts <= MAX || last == 0 {
                prop_assert_eq!((passed, frames, verdict), (input, payloads.len(), Ok(())));
            } else {
                prop_assert_eq!(verdict, Err(CloseCode::TooBig));
            }
        }
    }
}
