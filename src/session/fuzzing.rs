//! The pure parts of a session, for the fuzz targets (`fuzz/`). No part of an ordinary build.

use bytes::Bytes;
use bytestring::ByteString;

use super::framing::{FrameScanner, Scanned};
use super::joiner::{Joined, Joiner};

/// `FrameScanner`, with numbers for its close codes.
#[derive(Debug)]
pub struct Framing(FrameScanner);

impl Framing {
    /// `max_message` bounds what one message may count, in bytes.
    #[must_use]
    pub fn new(max_message: u64) -> Self {
        Self(FrameScanner::new(max_message))
    }

    /// Takes bytes from the front of `input`: what can be passed on, and whether a frame ends with it.
    ///
    /// # Errors
    /// The code to close with.
    pub fn scan(&mut self, input: &mut Bytes) -> Result<Option<(Bytes, bool)>, u16> {
        match self.0.scan(input) {
            Ok(Scanned::Nothing) => Ok(None),
            Ok(Scanned::Pass { bytes, ends_frame }) => Ok(Some((bytes, ends_frame))),
            Err(code) => Err(code.code()),
        }
    }

    /// Bytes that are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.held()
    }
}

/// `Joiner`, with numbers for its close codes.
#[derive(Debug)]
pub struct Fragments(Joiner);

impl Fragments {
    /// Keeps the bytes of binary messages only if it is told to.
    #[must_use]
    pub fn new(keeps_binary: bool) -> Self {
        Self(Joiner::new(keeps_binary))
    }

    /// The first fragment of a text message.
    ///
    /// # Errors
    /// The code to close with.
    pub fn begin_text(&mut self, bytes: &[u8]) -> Result<(), u16> {
        self.0.begin_text(bytes).map_err(|code| code.code())
    }

    /// The first fragment of a binary message.
    pub fn begin_binary(&mut self, bytes: &[u8]) {
        self.0.begin_binary(bytes);
    }

    /// A fragment in the middle.
    ///
    /// # Errors
    /// The code to close with.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), u16> {
        self.0.add(bytes).map_err(|code| code.code())
    }

    /// The last fragment: the text, or else the bytes of a binary message.
    ///
    /// # Errors
    /// The code to close with.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Result<ByteString, Bytes>, u16> {
        match self.0.end(bytes) {
            Ok(Joined::Text(text)) => Ok(Ok(text)),
            Ok(Joined::Binary(bytes)) => Ok(Err(bytes)),
            Err(code) => Err(code.code()),
        }
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.held()
    }
}
