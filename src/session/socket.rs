//! Ending a session's socket from outside of the session.
//!
//! A session whose peer does not read is frozen and cannot end itself (see [`vitals`](crate::rooms::vitals)); its
//! connection belongs to the HTTP server, which has no way to end it either. So the server's connect hook notes the
//! socket's number, and the session's worker shuts the socket down.
//!
//! The one thing that has to hold: a socket is only cut while its session is attached to its worker. The session
//! is dropped before its connection closes the socket, on the same thread, and is detached when it is dropped; so a
//! number is never used after the kernel may have given it to another socket.

use socket2::SockRef;
use std::time::Duration;

/// How long sent bytes may stay unacknowledged before the kernel gives a connection up: peers that vanished. Much
/// less would also end peers that read slowly.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Unsent bytes that the kernel takes for a peer that does not read; the rest waits where it is counted.
#[cfg(target_os = "linux")]
const UNSENT_LOW_WATER: u32 = 16 * 1024;

#[cfg(unix)]
type RawSocket = std::os::fd::RawFd;
#[cfg(windows)]
type RawSocket = std::os::windows::io::RawSocket;

/// The number of a connection's socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketHandle(RawSocket);

impl SocketHandle {
    /// Notes the socket of a new connection, and sets what the kernel is to do with it.
    pub fn adopt(stream: &actix_web::rt::net::TcpStream) -> Self {
        let socket = SockRef::from(stream);
        // Refusals are harmless: the connection then works with the system's defaults.
        let _ = socket.set_tcp_nodelay(true);
        #[cfg(target_os = "linux")]
        {
            let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
            let _ = socket.set_tcp_notsent_lowat(UNSENT_LOW_WATER);
        }
        #[cfg(not(target_os = "linux"))]
        {
            // The nearest that every other system has: an idle peer is asked whether it is still there.
            let keepalive = socket2::TcpKeepalive::new().with_time(USER_TIMEOUT);
            // Windows takes an interval that is not named as zero and not as its default.
            #[cfg(windows)]
            let keepalive = keepalive.with_interval(Duration::from_secs(1));
            let _ = socket.set_tcp_keepalive(&keepalive);
        }
        #[cfg(unix)]
        let raw = std::os::fd::AsRawFd::as_raw_fd(stream);
        #[cfg(windows)]
        let raw = std::os::windows::io::AsRawSocket::as_raw_socket(stream);
        Self(raw)
    }

    /// Resets the connection: the peer gets nothing more, and the kernel frees what it held for it.
    ///
    /// Must only be called while the session on this connection lives.
    pub(super) fn cut(self) {
        #[expect(
            unsafe_code,
            reason = "the socket is open while its session lives, see the module"
        )]
        #[cfg(unix)]
        let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0) };
        #[expect(
            unsafe_code,
            reason = "the socket is open while its session lives, see the module"
        )]
        #[cfg(windows)]
        let socket = unsafe { std::os::windows::io::BorrowedSocket::borrow_raw(self.0) };
        let socket = SockRef::from(&socket);
        let _ = socket.set_linger(Some(Duration::ZERO));
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}
