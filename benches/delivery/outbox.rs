//! Bytes that wait to be written to a socket.
//!
//! What was written is cut off now and then and not each time, so a long backlog that leaves in small pieces is
//! not moved in memory for each of them.

use std::io::{ErrorKind, Result, Write};

#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Where more is appended.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Writes once; what the socket did not take stays.
    pub(crate) fn write_to(&mut self, socket: &mut impl Write) -> Result<()> {
        match socket.write(&self.bytes[self.written..]) {
            Ok(written) => self.written += written,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if self.written == self.bytes.len() {
            self.clear();
        } else if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
    }
}
