//! A text frame as the server writes it: unmasked and whole (RFC 6455 section 5.2). Made once for all who are sent it.

use actix_http::ws::{OpCode, Parser};
use bytes::{Bytes, BytesMut};

/// A text frame with its header. Cloning shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFrame {
    bytes: Bytes,
    header_bytes: u8,
}

impl TextFrame {
    /// The frame of a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        const LONGEST_HEADER: usize = 10;
        let mut bytes = BytesMut::with_capacity(text.len() + LONGEST_HEADER);
        Parser::write_message(&mut bytes, text, OpCode::Text, true, false);
        let header_bytes = u8::try_from(bytes.len() - text.len()).expect("a header is short");
        Self {
            bytes: bytes.freeze(),
            header_bytes,
        }
    }

    /// What goes over the wire.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of its text.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.bytes.len() - usize::from(self.header_bytes)
    }

    /// Its text.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[usize::from(self.header_bytes)..]).expect("made of text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_how_long_the_text_is() {
        for (length, header) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (65_535, &[0x81, 126, 0xff, 0xff]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let text = "x".repeat(length);
            let frame = TextFrame::new(&text);
            assert_eq!(frame.bytes()[..header.len()], *header);
            assert_eq!((frame.text(), frame.text_bytes()), (text.as_str(), length));
        }
    }
}
