//! What both brokers keep of a room's past, and what is asked of it.
//!
//! - A room's messages are numbered from 1 without gaps; a [`Numbering`] is one such count. It is given up, and another
//!   one begins, only when the broker has lost count.
//! - Anybody may publish on a channel, so an offset that arrives there is a [`Claim`]. It counts if its seal could only
//!   be made by somebody who knows the numbering's secret, which never travels on a channel.
//! - The past is read in pages ([`ReadRequest`], [`Page`]).

use std::sync::Arc;
use std::time::Duration;

use sha1::{Digest, Sha1};

use super::RoomMessage;
use crate::protocol::{Epoch, Position, RoomName};

/// Hexadecimal digits of a seal.
const SEAL_DIGITS: usize = 16;

/// How long a room's numbering outlives its last publish, at least.
pub const NUMBERING_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long the numbering of a room outlives its last reader if nothing was ever published there.
pub const UNWRITTEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// One count of a room's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbering {
    /// Its name, which clients see.
    pub epoch: Epoch,
    secret: Arc<str>,
}

impl Numbering {
    /// A numbering as the broker keeps it.
    #[must_use]
    pub fn new(epoch: Epoch, secret: &str) -> Self {
        Self {
            epoch,
            secret: secret.into(),
        }
    }

    /// A numbering that has never been before.
    #[must_use]
    pub fn fresh() -> Self {
        Self::new(Epoch::new(&random_word(10)), &random_word(24))
    }

    /// What nobody else can make: the first digits of the SHA-1 of the secret and the offset. It keeps honest programs
    /// apart, and those who can write to the channel but not read our keys.
    #[must_use]
    pub fn seal(&self, offset: u64) -> Box<str> {
        let digest = Sha1::new()
            .chain_update(self.secret.as_bytes())
            .chain_update(offset.to_string())
            .finalize();
        hex(&digest[..SEAL_DIGITS / 2]).into()
    }

    /// Whether a message with this claim was really numbered here.
    #[must_use]
    pub fn vouches(&self, claim: &Claim) -> bool {
        self.epoch == claim.epoch && self.seal(claim.offset) == claim.seal
    }

    /// A claim that this numbering vouches for.
    #[must_use]
    pub fn claim(&self, offset: u64) -> Claim {
        Claim {
            offset,
            epoch: self.epoch.clone(),
            seal: self.seal(offset),
        }
    }

    /// A place in this numbering.
    #[must_use]
    pub fn position(&self, offset: u64) -> Position {
        Position {
            offset,
            epoch: self.epoch.clone(),
        }
    }

    /// Known to nodes only. Like an epoch, it has no spaces.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

fn random_word(length: usize) -> String {
    (0..length)
        .map(|_| fastrand::alphanumeric().to_ascii_lowercase())
        .collect()
}

/// The place that a message which arrived on a channel says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its offset.
    pub offset: u64,
    /// The numbering's name.
    pub epoch: Epoch,
    /// See [`Numbering::seal`].
    pub seal: Box<str>,
}

/// A message as it arrived on the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The message.
    pub message: RoomMessage,
    /// Its place, if it says that it has one.
    pub claim: Option<Claim>,
}

impl Arrival {
    /// A message without a place.
    #[must_use]
    pub fn unnumbered(message: RoomMessage) -> Self {
        Self { message, claim: None }
    }
}

/// A message of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the numbering that was read.
    pub offset: u64,
    /// The message.
    pub message: RoomMessage,
}

/// Asks where a room is, and for what comes after an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Repeated in the answer.
    pub id: u64,
    /// The room. If it was never written to, its numbering begins with this.
    pub room: RoomName,
    /// The last place that the asker knows. A numbering that has fallen behind it has lost messages, and is given up.
    pub known: Option<Position>,
    /// Read the messages after this offset of the known numbering; if the room has another one by now, all of it.
    pub after: Option<u64>,
    /// How many of them at once.
    pub limit: PageLimit,
}

/// Bounds of a page. Every page has at least one message, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// Messages.
    pub entries: u64,
    /// Bytes, as far as whole messages allow.
    pub bytes: u64,
}

/// Where a room is, and a piece of its past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The room's numbering.
    pub numbering: Numbering,
    /// Its last offset.
    pub top: u64,
    /// What was asked for, as far as it is kept and the limits allow, oldest first.
    pub entries: Vec<Entry>,
}

/// The answer to a [`ReadRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// The request's.
    pub id: u64,
    /// The room.
    pub room: RoomName,
    /// The page, or why there is none.
    pub page: Result<Page, ReadError>,
}

/// Why the past could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The broker is away; ask again.
    #[error("{0}")]
    Away(String),
    /// The broker will not do it.
    #[error("{0}")]
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbering_vouches_for_its_own_offsets_alone() {
        let numbering = Numbering::new(Epoch::new("k"), "secret");
        let claim = numbering.claim(7);
        assert!(numbering.vouches(&claim));
        assert!(!numbering.vouches(&Claim {
            offset: 8,
            ..claim.clone()
        }));
        assert!(!Numbering::new(Epoch::new("k"), "other").vouches(&claim));
        assert!(!Numbering::new(Epoch::new("l"), "secret").vouches(&claim));
    }

    #[test]
    fn a_seal_is_the_beginning_of_a_sha_1() {
        // printf abc | sha1sum: the example of FIPS 180.
        let numbering = Numbering::new(Epoch::new("k"), "abc");
        assert_eq!(
            hex(&Sha1::digest("abc")),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(numbering.seal(1).len(), SEAL_DIGITS);
        assert_eq!(*numbering.seal(1), hex(&Sha1::digest("abc1"))[..SEAL_DIGITS]);
    }

    #[test]
    fn no_two_numberings_are_alike() {
        assert_ne!(Numbering::fresh(), Numbering::fresh());
    }
}
