//! Where the head of an HTTP request ends. Pure.
//!
//! It finds what the codec finds (httparse): empty lines before a request are passed over, lines may end without a
//! carriage return, and the first empty line behind others ends the head. Nothing else is looked at.

/// Follows one head, however it is cut.
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    /// Bytes that were looked at.
    scanned: usize,
    /// Where the line begins.
    line: usize,
    /// A line with something in it has been seen.
    begun: bool,
}

impl HeadScanner {
    /// The length of the head that `bytes` begin with, once it is whole. The bytes of earlier calls have to be there
    /// again; they are not looked at twice.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(found) = bytes[self.scanned..].iter().position(|byte| *byte == b'\n') {
            let end = self.scanned + found;
            let is_empty = matches!(bytes[self.line..end], [] | [b'\r']);
            (self.scanned, self.line) = (end + 1, end + 1);
            if is_empty && self.begun {
                return Some(end + 1);
            }
            self.begun |= !is_empty;
        }
        self.scanned = bytes.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(bytes: &[u8]) -> Option<usize> {
        HeadScanner::default().scan(bytes)
    }

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        assert_eq!(end(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest"), Some(27));
        assert_eq!(end(b"GET / HTTP/1.1\nHost: x\n\nrest"), Some(24));
        assert_eq!(end(b"GET / HTTP/1.1\r\nHost: x\r\n"), None);
        assert_eq!(end(b"GET / HTTP/1.1\r\nHost: x\r\n\r"), None);
    }

    #[test]
    fn empty_lines_before_a_request_end_nothing() {
        assert_eq!(end(b"\r\n\n\r\n"), None);
        assert_eq!(end(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Some(22));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_it_is_cut(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'a')], 0..40),
        ) {
            let mut scanner = HeadScanner::default();
            let piecewise = (0..=bytes.len()).find_map(|length| scanner.scan(&bytes[..length]));
            prop_assert_eq!(piecewise, end(&bytes));
        }
    }
}
