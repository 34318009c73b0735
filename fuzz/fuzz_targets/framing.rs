//! Frames from a peer: the scanner, the codec behind it and the joiner, against a reader of RFC 6455 that looks at the
//! whole input at once.
//!
//! The first four bytes of an input say how it is cut, what a message may count, whether binary messages are kept, and
//! what the rest is: the stream itself, or parts of it (see [`built`]), which gets deeper sooner.
//!
//! However the stream is cut: the same bytes are passed on, the same messages come out, and the same violation is found
//! at the same byte. Nothing is passed on after it, or after a close frame, and no more is kept than is allowed.
#![no_main]

use actix_codec::Decoder;
use actix_http::ws::{Codec, Frame, Item};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use libfuzzer_sys::fuzz_target;
use roomcast::session::fuzzing::{Fragments, Framing};

/// A header, and what a control frame may carry.
const MOST_HELD: usize = 14 + 125;

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// What became of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// How many of its bytes, from its beginning, were passed on.
    passed: usize,
    events: Vec<Event>,
    /// The close code of the violation, and how many bytes had come when it was found.
    violation: Option<(u16, usize)>,
}

fuzz_target!(|input: &[u8]| {
    let [cut, limit, kinds, seed, rest @ ..] = input else {
        return;
    };
    let max = 126 + usize::from(*limit) * 8;
    let keeps_binary = kinds & 1 == 1;
    let stream = if kinds & 2 == 2 {
        built(rest)
    } else {
        rest.to_vec()
    };
    let expected = reference(&stream, max as u64, keeps_binary);
    assert_eq!(
        cut_anyhow(&stream, max, keeps_binary, usize::MAX, 0),
        expected,
        "whole"
    );
    assert_eq!(
        cut_anyhow(&stream, max, keeps_binary, 1, 0),
        expected,
        "byte by byte"
    );
    let most = 1 + usize::from(*cut);
    assert_eq!(
        cut_anyhow(&stream, max, keeps_binary, most, *seed),
        expected,
        "cut"
    );
});

/// Frames made of parts: a first byte, a kind, a length, and the payload. The kind says how a frame is written:
/// properly in most cases, otherwise with a length that is too long or not masked.
fn built(mut parts: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [first, kind, length, rest @ ..] = parts {
        let length = if kind & 0x10 == 0 {
            usize::from(*length)
        } else {
            usize::from(*length) * 16
        };
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        parts = rest;
        let masked = if kind & 0x0f == 1 { 0 } else { 0x80 };
        stream.push(*first);
        let count = payload.len();
        match count {
            0..=125 if kind & 0x0f > 2 => stream.push(masked | count as u8),
            0..=0xffff if kind & 0x0f != 2 => {
                stream.push(masked | 126);
                stream.extend_from_slice(&(count as u16).to_be_bytes());
            }
            _ => {
                stream.push(masked | 127);
                stream.extend_from_slice(&(count as u64).to_be_bytes());
            }
        }
        let mask = [*kind, 0x5a, 0, 0xff];
        if masked != 0 {
            stream.extend_from_slice(&mask);
            stream.extend(
                payload
                    .iter()
                    .zip(mask.iter().cycle())
                    .map(|(byte, mask)| byte ^ mask),
            );
        } else {
            stream.extend_from_slice(payload);
        }
    }
    stream
}

/// Feeds the program's own parts, put together as in a session, with pieces of at most `most` bytes.
fn cut_anyhow(stream: &[u8], max: usize, keeps_binary: bool, most: usize, seed: u8) -> Outcome {
    let mut framing = Framing::new(max as u64);
    let mut codec = Codec::new().max_size(max);
    let mut fragments = Fragments::new(keeps_binary);
    let mut outcome = Outcome::default();
    let mut undecoded = BytesMut::new();
    let (mut at, mut random) = (0, u32::from(seed) + 1);
    while at < stream.len() {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = if seed == 0 {
            most
        } else {
            1 + (random >> 16) as usize % most
        };
        let end = at.saturating_add(size).min(stream.len());
        let mut piece = Bytes::copy_from_slice(&stream[at..end]);
        at = end;
        while !piece.is_empty() {
            let scanned = framing.scan(&mut piece);
            let taken = at - piece.len();
            assert!(
                framing.held() <= MOST_HELD,
                "{} bytes are held back",
                framing.held()
            );
            let (bytes, ends_frame) = match scanned {
                Ok(Some(passed)) => passed,
                Ok(None) => continue,
                Err(code) => {
                    outcome.violation = Some((code, taken));
                    return outcome;
                }
            };
            assert!(
                !matches!(outcome.events.last(), Some(Event::Close(_))) || bytes.is_empty(),
                "something is passed on after a close frame"
            );
            assert_eq!(
                bytes,
                &stream[outcome.passed..outcome.passed + bytes.len()],
                "other bytes are passed on than came"
            );
            outcome.passed += bytes.len();
            undecoded.extend_from_slice(&bytes);
            assert!(
                undecoded.len() <= max + 14,
                "{} bytes of a frame",
                undecoded.len()
            );
            if !ends_frame {
                continue;
            }
            let frame = codec
                .decode(&mut undecoded)
                .expect("the codec refuses what the scanner lets through")
                .expect("the codec does not see that the frame is whole");
            assert!(
                undecoded.is_empty(),
                "the codec sees another frame than the scanner"
            );
            match received(frame, &mut fragments, keeps_binary) {
                Ok(Some(event)) => outcome.events.push(event),
                Ok(None) => {}
                Err(code) => {
                    outcome.violation = Some((code, taken));
                    return outcome;
                }
            }
            assert!(fragments.held() <= max, "{} bytes of a message", fragments.held());
        }
    }
    outcome
}

fn received(frame: Frame, fragments: &mut Fragments, keeps_binary: bool) -> Result<Option<Event>, u16> {
    let unread = |bytes: Bytes| Event::Binary(if keeps_binary { bytes.to_vec() } else { Vec::new() });
    Ok(Some(match frame {
        Frame::Text(bytes) => {
            let text = ByteString::try_from(bytes).map_err(|_| 1007_u16)?;
            Event::Text(text.as_bytes().to_vec())
        }
        Frame::Binary(bytes) => unread(bytes),
        Frame::Continuation(Item::FirstText(bytes)) => return fragments.begin_text(&bytes).map(|()| None),
        Frame::Continuation(Item::FirstBinary(bytes)) => {
            fragments.begin_binary(&bytes);
            return Ok(None);
        }
        Frame::Continuation(Item::Continue(bytes)) => return fragments.add(&bytes).map(|()| None),
        Frame::Continuation(Item::Last(bytes)) => match fragments.end(&bytes)? {
            Ok(text) => Event::Text(text.as_bytes().to_vec()),
            Err(bytes) => Event::Binary(bytes.to_vec()),
        },
        Frame::Ping(bytes) => Event::Ping(bytes.to_vec()),
        Frame::Pong(bytes) => Event::Pong(bytes.to_vec()),
        Frame::Close(reason) => Event::Close(reason.map(|reason| reason.code.into())),
    }))
}

/// RFC 6455, slowly. A text message is judged whenever a frame of it has ended.
fn reference(stream: &[u8], max: u64, keeps_binary: bool) -> Outcome {
    let mut outcome = Outcome::default();
    // Of an unfinished message: whether it is text, its bytes, and what it counts.
    let mut message: Option<(bool, Vec<u8>, u64)> = None;
    let mut at = 0;
    loop {
        let rest = &stream[at..];
        let violated = |code, within| Some((code, at + within));
        let Some(first) = rest.first() else { return outcome };
        let (is_final, reserved, opcode) = (first >> 7 == 1, first >> 4 & 7, first & 0xf);
        let is_known = match opcode {
            0 => message.is_some(),
            1 | 2 => message.is_none(),
            8 | 9 | 10 => is_final,
            _ => false,
        };
        if reserved != 0 || !is_known {
            outcome.violation = violated(1002, 1);
            return outcome;
        }
        let Some(second) = rest.get(1) else { return outcome };
        if second >> 7 == 0 {
            outcome.violation = violated(1002, 2);
            return outcome;
        }
        let (length_size, least) = match second & 0x7f {
            126 => (2, 126),
            127 => (8, 65_536),
            _ => (0, 0),
        };
        let header_size = 2 + length_size + 4;
        if rest.len() < header_size {
            return outcome;
        }
        let length = match length_size {
            0 => u64::from(second & 0x7f),
            _ => rest[2..2 + length_size]
                .iter()
                .fold(0, |length, byte| length * 256 + u64::from(*byte)),
        };
        if length < least || length > i64::MAX as u64 || (opcode >= 8 && length > 125) {
            outcome.violation = violated(1002, header_size);
            return outcome;
        }
        let before = message.as_ref().map_or(0, |(_, _, counts)| *counts);
        let counts = match (opcode, is_final) {
            (8.., _) => 0,
            (1 | 2, true) => length,
            _ => before.saturating_add(length).saturating_add(16),
        };
        if counts > max {
            outcome.violation = violated(1009, header_size);
            return outcome;
        }
        let length = length as usize;
        let there = (rest.len() - header_size).min(length);
        let mask = &rest[header_size - 4..header_size];
        let payload: Vec<u8> = rest[header_size..header_size + there]
            .iter()
            .enumerate()
            .map(|(nth, byte)| byte ^ mask[nth % 4])
            .collect();
        if there < length {
            if opcode != 8 {
                outcome.passed = stream.len();
            }
            return outcome;
        }
        let size = header_size + length;
        if opcode == 8 {
            match judge_close(&payload) {
                Ok(code) => {
                    outcome.passed = at + size;
                    outcome.events.push(Event::Close(code));
                }
                Err(code) => outcome.violation = violated(code, size),
            }
            return outcome;
        }
        outcome.passed = at + size;
        match opcode {
            9 => outcome.events.push(Event::Ping(payload)),
            10 => outcome.events.push(Event::Pong(payload)),
            _ => {
                let (is_text, mut bytes, _) = message.take().unwrap_or((opcode == 1, Vec::new(), 0));
                bytes.extend_from_slice(&payload);
                if let Err(error) = std::str::from_utf8(&bytes)
                    && is_text
                    && (is_final || error.error_len().is_some())
                {
                    outcome.violation = violated(1007, size);
                    return outcome;
                }
                match (is_final, is_text) {
                    (false, _) => message = Some((is_text, bytes, counts)),
                    (true, true) => outcome.events.push(Event::Text(bytes)),
                    (true, false) if keeps_binary => outcome.events.push(Event::Binary(bytes)),
                    (true, false) => outcome.events.push(Event::Binary(Vec::new())),
                }
            }
        }
        at += size;
    }
}

fn judge_close(payload: &[u8]) -> Result<Option<u16>, u16> {
    let (code, reason) = match payload.len() {
        0 => return Ok(None),
        1 => return Err(1002),
        _ => (u16::from(payload[0]) * 256 + u16::from(payload[1]), &payload[2..]),
    };
    let is_reserved =
        code < 1000 || [1004, 1005, 1006].contains(&code) || (1015..3000).contains(&code) || code > 4999;
    if is_reserved {
        return Err(1002);
    }
    std::str::from_utf8(reason).map(|_| Some(code)).map_err(|_| 1007)
}
