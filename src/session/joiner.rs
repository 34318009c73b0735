//! The joining of fragments into one message, and the UTF-8 of a text that comes in pieces. Pure.
//!
//! - A text is checked as its fragments come, a character that is cut by their border included: the fragment that
//!   makes it invalid is refused, and nothing more of that message has to come first (RFC 6455 section 8.1).
//! - Each byte is looked at once, and the joined text is not looked at again.
//! - Number and size of the fragments are bounded by the [`super::framing::FrameScanner`] in front of this, and their
//!   order is its matter, too.
//!
//! A message of one frame does not come here.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use crate::protocol::close::CloseCode;

/// Joins the fragments of one message after the other.
#[derive(Debug)]
pub(super) struct Joiner {
    keeps_binary: bool,
    message: Message,
}

/// A message that is whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// A text message.
    Text(ByteString),
    /// A binary message; without its bytes, if they are not kept.
    Binary(Bytes),
}

#[derive(Debug)]
enum Message {
    Text(Text),
    Binary(BytesMut),
    Unread,
}

impl Joiner {
    /// Without `keeps_binary`, nobody will read the bytes of a binary message, and none are kept.
    pub(super) fn new(keeps_binary: bool) -> Self {
        Self {
            keeps_binary,
            message: Message::Unread,
        }
    }

    /// The first fragment of a text message.
    ///
    /// # Errors
    /// [`CloseCode::InvalidText`] if no text begins like that.
    pub(super) fn begin_text(&mut self, bytes: &[u8]) -> Result<(), CloseCode> {
        self.message = Message::Text(Text::default());
        self.add(bytes)
    }

    /// The first fragment of a binary message.
    pub(super) fn begin_binary(&mut self, bytes: &[u8]) {
        self.message = if self.keeps_binary {
            Message::Binary(BytesMut::from(bytes))
        } else {
            Message::Unread
        };
    }

    /// A fragment in the middle.
    ///
    /// # Errors
    /// [`CloseCode::InvalidText`] if no text goes on like that.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), CloseCode> {
        match &mut self.message {
            Message::Text(text) => text.push(bytes)?,
            Message::Binary(whole) => whole.extend_from_slice(bytes),
            Message::Unread => {}
        }
        Ok(())
    }

    /// The last fragment: the message.
    ///
    /// # Errors
    /// [`CloseCode::InvalidText`] if the text is not UTF-8, or ends within a character.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Joined, CloseCode> {
        self.add(bytes)?;
        match std::mem::replace(&mut self.message, Message::Unread) {
            Message::Text(text) => text.finish().map(|text| Joined::Text(text.into())),
            Message::Binary(whole) => Ok(Joined::Binary(whole.freeze())),
            Message::Unread => Ok(Joined::Binary(Bytes::new())),
        }
    }

    /// Bytes that are kept.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        match &self.message {
            Message::Text(text) => text.whole.len() + text.cut_length,
            Message::Binary(whole) => whole.len(),
            Message::Unread => 0,
        }
    }
}

/// A text as far as it has come.
#[derive(Debug, Default)]
struct Text {
    whole: String,
    /// The beginning of a character whose end is still to come.
    cut: [u8; 4],
    cut_length: usize,
}

impl Text {
    fn push(&mut self, bytes: &[u8]) -> Result<(), CloseCode> {
        let bytes = self.complete_character(bytes)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => self.whole.push_str(text),
            Err(error) if error.error_len().is_none() => {
                let (whole, cut) = bytes.split_at(error.valid_up_to());
                self.whole
                    .push_str(std::str::from_utf8(whole).expect("valid up to here"));
                self.cut[..cut.len()].copy_from_slice(cut);
                self.cut_length = cut.len();
            }
            Err(_) => return Err(CloseCode::InvalidText),
        }
        Ok(())
    }

    /// Takes what belongs to a character that has begun before off the front of `bytes`. The rest.
    fn complete_character<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], CloseCode> {
        while self.cut_length > 0
            && let Some((next, rest)) = bytes.split_first()
        {
            // Never beyond four: by then it is a character or an error.
            self.cut[self.cut_length] = *next;
            self.cut_length += 1;
            bytes = rest;
            match std::str::from_utf8(&self.cut[..self.cut_length]) {
                Ok(character) => {
                    self.whole.push_str(character);
                    self.cut_length = 0;
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(CloseCode::InvalidText),
            }
        }
        Ok(bytes)
    }

    fn finish(self) -> Result<String, CloseCode> {
        if self.cut_length == 0 {
            Ok(self.whole)
        } else {
            Err(CloseCode::InvalidText)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Joins a text of these fragments: the text, or the number of the fragment that was refused.
    fn joined(fragments: &[&[u8]]) -> Result<String, usize> {
        let mut joiner = Joiner::new(false);
        let (last, before) = fragments.split_last().expect("a message in fragments");
        for (number, fragment) in before.iter().enumerate() {
            let outcome = match number {
                0 => joiner.begin_text(fragment),
                _ => joiner.add(fragment),
            };
            outcome.map_err(|code| {
                assert_eq!(code, CloseCode::InvalidText);
                number
            })?;
        }
        match joiner.end(last) {
            Ok(Joined::Text(text)) => Ok(text.to_string()),
            Ok(Joined::Binary(_)) => panic!("a text became binary"),
            Err(code) => {
                assert_eq!(code, CloseCode::InvalidText);
                Err(before.len())
            }
        }
    }

    /// What [`joined`] has to say, by reading everything so far again after each fragment.
    fn expected(fragments: &[&[u8]]) -> Result<String, usize> {
        let mut whole = Vec::new();
        for (number, fragment) in fragments.iter().enumerate() {
            whole.extend_from_slice(fragment);
            let is_last = number + 1 == fragments.len();
            if let Err(error) = std::str::from_utf8(&whole)
                && (is_last || error.error_len().is_some())
            {
                return Err(number);
            }
        }
        Ok(String::from_utf8(whole).expect("just checked"))
    }

    #[test]
    fn a_text_is_joined() {
        assert_eq!(joined(&[b"a", b"", b"b", b"c"]), Ok("abc".to_owned()));
        assert_eq!(joined(&[b"", b""]), Ok(String::new()));
    }

    #[test]
    fn characters_may_be_cut_anywhere() {
        let text = "aé€🙂z";
        for piece in 1..text.len() {
            let fragments: Vec<&[u8]> = [&b""[..]]
                .into_iter()
                .chain(text.as_bytes().chunks(piece))
                .collect();
            assert_eq!(joined(&fragments), Ok(text.to_owned()), "in pieces of {piece}");
        }
    }

    #[test]
    fn the_first_fragment_that_cannot_be_text_is_refused() {
        let never_text: &[(&[&[u8]], usize)] = &[
            (&[b"ok", b"\xff", b"ok"], 1),
            (&[b"\xc0", b"\x80", b""], 0),
            (&[b"\xe0", b"\x80", b"\x80"], 1),
            // A surrogate, and a number beyond the last character.
            (&[b"\xed", b"\xa0", b"\x80"], 1),
            (&[b"\xf4", b"\x90", b"\x80\x80"], 1),
            (&[b"\xe2\x82", b"a", b""], 1),
            (&[b"\xe2\x82", b"", b""], 2),
            (&[b"\x80", b"", b""], 0),
        ];
        for (fragments, refused) in never_text {
            assert_eq!(joined(fragments), Err(*refused), "{fragments:?}");
        }
    }

    #[test]
    fn a_message_after_another_begins_anew() {
        let mut joiner = Joiner::new(false);
        assert!(joiner.begin_text(b"\xe2").is_ok());
        assert_eq!(joiner.end(b""), Err(CloseCode::InvalidText));
        assert!(joiner.begin_text(b"a").is_ok());
        assert_eq!(joiner.end(b"b"), Ok(Joined::Text("ab".into())));
        assert_eq!(joiner.held(), 0);
    }

    #[test]
    fn binary_is_kept_only_if_somebody_reads_it() {
        for (keeps, expected) in [(true, &b"\xff\xfeyz"[..]), (false, b"")] {
            let mut joiner = Joiner::new(keeps);
            joiner.begin_binary(b"\xff");
            assert!(joiner.add(b"\xfey").is_ok());
            assert_eq!(joiner.held(), expected.len().saturating_sub(1));
            assert_eq!(joiner.end(b"z"), Ok(Joined::Binary(Bytes::from_static(expected))));
        }
    }

    proptest! {
        #[test]
        fn fragments_of_any_bytes_are_judged_like_the_whole(
            fragments in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..4),
                    proptest::collection::vec(prop_oneof![Just(0xf0), Just(0x9f), Just(0xe2), 0x7e..0x83_u8], 0..6),
                    ".{0,4}".prop_map(String::into_bytes),
                ],
                2..6,
            ),
        ) {
            let fragments: Vec<&[u8]> = fragments.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(joined(&fragments), expected(&fragments));
        }

        #[test]
        fn a_good_text_survives_any_cuts(text in ".{0,60}", cuts in proptest::collection::vec(0..240_usize, 1..8)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let ends = cuts.iter().copied().chain([text.len()]);
            let begins = [0].into_iter().chain(cuts.iter().copied());
            let fragments: Vec<&[u8]> = begins.zip(ends).map(|(begin, end)| &text.as_bytes()[begin..end]).collect();
            prop_assert_eq!(joined(&fragments), Ok(text));
        }
    }
}
