//! As much of RFC 6455 as both ends of the benchmark need: headers, text frames, the upgrade.
//!
//! Clients mask with a key of zero. It is valid on the wire, costs the generator nothing, and costs a server,
//! which cannot know, what any other key costs.

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// The example key of RFC 6455, section 1.3, and the answer to it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) struct Header {
    pub(crate) opcode: u8,
    pub(crate) mask: Option<[u8; 4]>,
    /// Where the payload begins.
    pub(crate) start: usize,
    /// Where it ends, and the next frame begins.
    pub(crate) end: usize,
}

/// The first frame's header, or nothing while that frame is not complete.
pub(crate) fn parse(bytes: &[u8]) -> Option<Header> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, mut start) = match second & 0x7F {
        126 => (
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
            4,
        ),
        127 => (
            u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
            10,
        ),
        short => (usize::from(short), 2),
    };
    let mut mask = None;
    if second & 0x80 != 0 {
        mask = Some(bytes.get(start..start + 4)?.try_into().ok()?);
        start += 4;
    }
    let end = start.checked_add(length)?;
    (bytes.len() >= end).then_some(Header {
        opcode: first & 0x0F,
        mask,
        start,
        end,
    })
}

/// Appends a server's (unmasked) text frame.
pub(crate) fn push_text(out: &mut Vec<u8>, payload: &[u8]) {
    push(out, TEXT, payload, 0);
}

/// Appends a client's frame.
pub(crate) fn push_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    push(out, opcode, payload, 0x80);
}

fn push(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask_bit: u8) {
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => out.push(mask_bit | length as u8),
        length @ 126..0x1_0000 => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if mask_bit != 0 {
        out.extend_from_slice(&[0; 4]);
    }
    out.extend_from_slice(payload);
}

pub(crate) fn unmask(payload: &mut [u8], key: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// The upgrade request of a plain session or, with `v1`, of one that speaks `roomcast.v1`.
pub(crate) fn upgrade_request(host: &str, v1: bool) -> Vec<u8> {
    let protocol = if v1 {
        "Sec-WebSocket-Protocol: roomcast.v1\r\n"
    } else {
        ""
    };
    format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{protocol}\r\n"
    )
    .into_bytes()
}

/// Where `needle` begins in `bytes`.
pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// The JSON string behind `field` (given as `"name":"`). Only for text without escapes, as the generator sends it.
pub(crate) fn json_string<'a>(json: &'a [u8], field: &[u8]) -> Option<&'a [u8]> {
    let rest = &json[find(json, field)? + field.len()..];
    Some(&rest[..rest.iter().position(|&byte| byte == b'"')?])
}
