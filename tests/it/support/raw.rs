//! A client made of bytes: it sends what no proper client would, and reads only when it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::PATIENCE;

/// First bytes of whole frames.
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// First bytes of fragments.
pub(crate) const FIRST_TEXT: u8 = 0x01;
pub(crate) const FIRST_BINARY: u8 = 0x02;
pub(crate) const MIDDLE: u8 = 0x00;
pub(crate) const LAST: u8 = 0x80;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The key of RFC 6455 section 1.3, and what it has to be answered with.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The header of a masked frame with the shortest length encoding. Its payload may never come.
pub(crate) fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(0x80 | u8::try_from(length).expect("small")),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).expect("two bytes").to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// The payload as it stands behind a [`header`].
pub(crate) fn masked(payload: &[u8]) -> Vec<u8> {
    payload
        .iter()
        .zip(MASK.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect()
}

/// A masked frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend(masked(payload));
    bytes
}

/// A text frame with this command.
pub(crate) fn command(command: &Value) -> Vec<u8> {
    frame(TEXT, command.to_string().as_bytes())
}

/// A close frame.
pub(crate) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// An HTTP request, header by header.
pub(crate) struct Request {
    method: &'static str,
    target: String,
    version: &'static str,
    headers: Vec<(String, String)>,
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// A GET without an upgrade.
    pub(crate) fn get(target: &str) -> Self {
        Self {
            method: "GET",
            target: target.to_owned(),
            version: "HTTP/1.1",
            headers: vec![("host".to_owned(), "localhost".to_owned())],
        }
    }

    /// A proper handshake in the plain dialect.
    pub(crate) fn upgrade(target: &str) -> Self {
        Self::get(target)
            .and("upgrade", "websocket")
            .and("connection", "Upgrade")
            .and("sec-websocket-version", "13")
            .and("sec-websocket-key", KEY)
    }

    /// With another method.
    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// With another version.
    pub(crate) fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// With one more header line.
    pub(crate) fn and(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without a header.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(present, _)| present != name);
        self
    }

    /// With this value instead of the one there was.
    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        self.without(name).and(name, value)
    }

    /// Sends it on a connection of its own.
    pub(crate) async fn send(self, address: &str) -> (Raw, Response) {
        self.send_on(Raw::connect(address).await).await
    }

    /// Sends it on this connection.
    pub(crate) async fn send_on(self, mut raw: Raw) -> (Raw, Response) {
        raw.send(&self.bytes()).await;
        let response = raw.response(self.method == "HEAD").await;
        (raw, response)
    }

    /// What it is on the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} {}\r\n", self.method, self.target, self.version);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        (text + "\r\n").into_bytes()
    }
}

impl Response {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(present, _)| present == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What the server has sent.
#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// Code and reason.
    Close(Option<u16>, String),
    /// The TCP connection has ended.
    End,
}

/// One TCP connection.
pub(crate) struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    /// A TCP connection to `host:port`, and nothing more.
    pub(crate) async fn connect(address: &str) -> Self {
        Self::over(TcpSocket::new_v4().expect("a socket"), address).await
    }

    /// One whose kernel takes little before it is read from.
    pub(crate) async fn connect_narrow(address: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .set_recv_buffer_size(16 * 1024)
            .expect("a size that is allowed");
        Self::over(socket, address).await
    }

    async fn over(socket: TcpSocket, address: &str) -> Self {
        let address: SocketAddr = address.parse().expect("an address");
        let stream = socket.connect(address).await.expect("a listening server");
        stream.set_nodelay(true).expect("an open socket");
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// A plain session.
    pub(crate) async fn plain(address: &str) -> Self {
        Self::connect(address).await.shake_hands(&[]).await
    }

    /// A `roomcast.v1` session, its welcome already read.
    pub(crate) async fn v1(address: &str) -> Self {
        let mut raw = Self::connect(address)
            .await
            .shake_hands(&[("sec-websocket-protocol", "roomcast.v1")])
            .await;
        assert_eq!(raw.json().await["type"], "welcome");
        raw
    }

    /// Opens a WebSocket on this connection, with these headers beside the needed ones.
    pub(crate) async fn shake_hands(self, headers: &[(&str, &str)]) -> Self {
        let request = headers
            .iter()
            .fold(Request::upgrade("/ws"), |request, (name, value)| {
                request.and(name, value)
            });
        let (raw, response) = request.send_on(self).await;
        assert_eq!(response.status, 101, "{response:?}");
        assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
        raw
    }

    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("a server that reads")
            .expect("an open connection");
    }

    /// Sends what the server takes of these bytes: how many it were, or nothing if it has taken none for so long or
    /// has ended the connection.
    pub(crate) async fn send_some(&mut self, bytes: &[u8], patience: Duration) -> Option<usize> {
        let count = timeout(patience, self.stream.write(bytes)).await.ok()?.ok()?;
        (count > 0).then_some(count)
    }

    /// Reads at most so many bytes, and forgets them. How many it were; 0 at the end.
    pub(crate) async fn drain(&mut self, most: usize) -> usize {
        let mut buffer = vec![0; most];
        timeout(PATIENCE, self.stream.read(&mut buffer))
            .await
            .expect("bytes in time")
            .unwrap_or(0)
    }

    /// Reads what is there, at most so many bytes; nothing if there is nothing.
    pub(crate) async fn sip(&mut self, most: usize) -> Vec<u8> {
        let mut buffer = vec![0; most];
        let read = timeout(Duration::from_millis(1), self.stream.read(&mut buffer)).await;
        let count = read.map_or(0, |count| count.expect("an open connection"));
        buffer.truncate(count);
        buffer
    }

    /// Takes bytes back that were read, to find frames in them.
    pub(crate) fn put_back(&mut self, bytes: Vec<u8>) {
        self.received.splice(0..0, bytes);
    }

    /// Sends no more, and goes on reading.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.expect("an open connection");
    }

    /// All bytes that come until the connection ends, by a reset too; nothing if it does not end in time.
    pub(crate) async fn bytes_until_end(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.received);
        let reading = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = self.stream.read(&mut buffer).await {
                bytes.extend(&buffer[..count]);
            }
        };
        timeout(patience, reading).await.ok()?;
        Some(bytes)
    }

    /// Makes the end of this connection a reset, as of one that vanishes.
    pub(crate) fn reset_when_dropped(&self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("an open socket");
    }

    /// Whether the server has ended the connection, found out without reading.
    pub(crate) async fn is_cut(&self) -> bool {
        let ready = self.stream.ready(Interest::WRITABLE | Interest::ERROR);
        matches!(
            timeout(Duration::from_millis(1), ready).await,
            Ok(Ok(ready)) if ready.is_write_closed() || ready.is_error()
        )
    }

    /// Whether the server will send no more, found out without reading what it has sent.
    pub(crate) async fn is_ended(&self) -> bool {
        let ready = self.stream.ready(Interest::READABLE);
        matches!(timeout(Duration::from_millis(1), ready).await, Ok(Ok(ready)) if ready.is_read_closed())
    }

    /// What comes next. Pings are not answered.
    pub(crate) async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.take() {
                return received;
            }
            if self.fill().await == 0 {
                assert!(
                    self.received.is_empty(),
                    "ended within a frame: {:?}",
                    self.received
                );
                return Received::End;
            }
        }
    }

    /// The next text frame, which must come next.
    pub(crate) async fn text(&mut self) -> String {
        match self.next().await {
            Received::Text(text) => text,
            other => panic!("{other:?} where a text frame was awaited"),
        }
    }

    /// The next text frame, which must come next, as JSON.
    pub(crate) async fn json(&mut self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text:?} is not JSON: {error}"))
    }

    /// All that comes until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<Received> {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Received::End => return all,
                received => all.push(received),
            }
        }
    }

    /// Reads more. How many bytes; 0 at the end, a reset included.
    async fn fill(&mut self) -> usize {
        let mut buffer = vec![0; 64 * 1024];
        let count = timeout(PATIENCE, self.stream.read(&mut buffer))
            .await
            .expect("bytes in time")
            .unwrap_or(0);
        self.received.extend(&buffer[..count]);
        count
    }

    /// Takes a whole frame from what was received.
    fn take(&mut self) -> Option<Received> {
        let [first, second, ..] = *self.received.as_slice() else {
            return None;
        };
        assert_eq!(first & 0xf0, 0x80, "the server neither fragments nor extends");
        assert_eq!(second & 0x80, 0, "the server does not mask");
        let length_bytes = match second {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let start = 2 + length_bytes;
        let length = match self.received.get(2..start)? {
            [] => usize::from(second),
            bytes => bytes
                .iter()
                .fold(0, |length, byte| (length << 8) | usize::from(*byte)),
        };
        let payload = self.received.get(start..start + length)?.to_vec();
        self.received.drain(..start + length);
        Some(match first {
            TEXT => Received::Text(String::from_utf8(payload).expect("UTF-8")),
            BINARY => Received::Binary(payload),
            PING => Received::Ping(payload),
            PONG => Received::Pong(payload),
            CLOSE => match payload.as_slice() {
                [] => Received::Close(None, String::new()),
                [high, low, reason @ ..] => Received::Close(
                    Some(u16::from_be_bytes([*high, *low])),
                    String::from_utf8(reason.to_vec()).expect("UTF-8"),
                ),
                [_] => panic!("a close frame with half a code"),
            },
            other => panic!("a frame that begins with {other:#x}"),
        })
    }

    /// The answer to a request that was sent as bytes; an interim one counts.
    pub(crate) async fn response(&mut self, without_body: bool) -> Response {
        let end = loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            assert_ne!(self.fill().await, 0, "an answer");
        };
        let head = String::from_utf8(self.received.drain(..end + 4).collect()).expect("a head in UTF-8");
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|status| status.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Response {
            status: status.unwrap_or_else(|| panic!("no status in {head:?}")),
            body: String::new(),
            headers,
        };
        let length = response
            .header("content-length")
            .map_or(0, |length| length.parse().expect("a length"));
        if !without_body {
            while self.received.len() < length {
                assert_ne!(self.fill().await, 0, "a body of {length} bytes");
            }
            response.body =
                String::from_utf8_lossy(&self.received.drain(..length).collect::<Vec<_>>()).into_owned();
        }
        response
    }
}
