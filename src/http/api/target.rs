//! What a request names: the segments of its path and the parameters of its query. Pure.
//!
//! - A segment is decoded once, and its decoded text is never taken apart again: `%2F` is a slash in a name, and `%252F` the
//!   name `%2F`.
//! - Bytes that are no UTF-8, and a `%` without two digits, are refused: another name must not be guessed.
//! - Of a repeated parameter the last one counts; unknown ones are ignored.

use std::sync::Arc;

use super::answer::Refusal;
use crate::protocol::{MAX_USER_BYTES, RoomName, excerpt, user_name};

/// The segments of a path, as they were sent.
pub(super) fn segments(path: &str) -> Vec<&str> {
    path.strip_prefix('/').unwrap_or(path).split('/').collect()
}

/// The room that a segment names.
pub(super) fn room(segment: &str) -> Result<RoomName, Refusal> {
    let name = decoded(segment, false).ok_or_else(|| {
        let shown = excerpt(segment);
        Refusal::bad_room(format!(
            "the room in the path must be percent-encoded UTF-8, and \"{shown}\" is not"
        ))
    })?;
    RoomName::new(&name).map_err(|error| Refusal::bad_room(error.to_string()))
}

/// The user that a segment names.
pub(super) fn user(segment: &str) -> Result<Arc<str>, Refusal> {
    let name = decoded(segment, false).and_then(|name| user_name(&name));
    name.ok_or_else(|| {
        Refusal::bad_command(format!(
            "the user in the path must have 1 to {MAX_USER_BYTES} bytes of percent-encoded UTF-8 without control characters"
        ))
    })
}

/// The part of a target behind its question mark.
pub(super) struct Query<'a>(pub(super) &'a str);

impl Query<'_> {
    /// The text of a parameter, if it is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Refusal> {
        let value = self.0.rsplit('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key, true).as_deref() == Some(name)).then_some(value)
        });
        value
            .map(|value| {
                decoded(value, true).ok_or_else(|| {
                    Refusal::bad_command(format!("the parameter \"{name}\" must be percent-encoded UTF-8"))
                })
            })
            .transpose()
    }

    /// The number in a parameter, if it is there.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let parse = |text: String| {
            // A sign is no digit, though the parser takes one.
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|_| is_number);
            number.ok_or_else(|| {
                Refusal::bad_command(format!(
                    "the parameter \"{name}\" must be a whole number of 64 bits, 0 or more"
                ))
            })
        };
        self.text(name)?.map(parse).transpose()
    }
}

/// Undoes percent-encoding, and the plus signs of forms. `None`: a `%` without digits, or no UTF-8.
fn decoded(text: &str, is_form: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                digits
                    .into_iter()
                    .try_fold(0, |value, digit| Some(value << 4 | hex_digit(digit)?))?
            }
            b'+' if is_form => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex_digit(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Text as hexadecimal digits, which need no encoding anywhere.
pub(super) fn to_hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`to_hex`] was made of.
pub(super) fn from_hex(digits: &str) -> Option<String> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let pairs = digits.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?))
        .collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(segment: &str) -> Option<String> {
        room(segment).ok().map(|room| room.as_str().to_owned())
    }

    #[test]
    fn a_segment_is_decoded_exactly_once() {
        for (segment, expected) in [
            ("a", "a"),
            ("a%2Fb", "a/b"),
            ("a%2fb", "a/b"),
            ("%252F", "%2F"),
            ("a+b", "a+b"),
            ("a%20b", "a b"),
            ("%C3%A9", "é"),
            ("é", "é"),
            ("%25", "%"),
        ] {
            assert_eq!(name(segment).as_deref(), Some(expected), "{segment}");
        }
        for bad in [
            "", "%", "%2", "%zz", "%+1", "%FF", "%C3", "a%0Ab", "%00", "%C2%85",
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
        assert_eq!(name(&"a".repeat(256)), None);
    }

    #[test]
    fn parameters_are_decoded_as_forms_are() {
        let query =
            Query("x=1&limit=7&epoch=a%2Bb+c&limit=8&empty=&bad=%FF&huge=18446744073709551616&%6eeg=-1");
        assert_eq!(query.number("limit").ok(), Some(Some(8)));
        assert_eq!(query.text("epoch").ok(), Some(Some("a+b c".to_owned())));
        assert_eq!(query.text("absent").ok(), Some(None));
        for bad in ["empty", "huge", "neg", "epoch", "bad"] {
            assert!(query.number(bad).is_err(), "{bad}");
        }
        assert!(query.text("bad").is_err());
        assert!(Query("limit=+1").number("limit").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_comes_back(text in any::<String>()) {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decoded(&encoded, true), Some(text.clone()));
            prop_assert_eq!(from_hex(&to_hex(&text)), Some(text));
        }

        #[test]
        fn no_text_is_too_odd(text in any::<String>()) {
            let _ = (decoded(&text, false), from_hex(&text), segments(&text));
            let _ = Query(&text).number("limit");
        }
    }
}
