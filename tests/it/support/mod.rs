//! What the tests are made of: nodes, brokers, clients, and waiting for conditions.

pub(crate) mod browser;
pub(crate) mod bystander;
pub(crate) mod client;
pub(crate) mod member;
pub(crate) mod memory;
pub(crate) mod node;
pub(crate) mod original;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod tls;
pub(crate) mod tokens;

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// How long anything that should happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long something that must not happen is given to happen.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// Waits until `probe` gives a value.
///
/// # Panics
/// If it does not within [`PATIENCE`]; `what` says what was awaited.
pub(crate) async fn eventually<T, F>(what: &str, probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within(PATIENCE, what, probe).await
}

/// [`eventually`] with another deadline.
pub(crate) async fn within<T, F>(patience: Duration, what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A turn of one's own among the tests that measure times or load the machine: held until it is dropped.
pub(crate) async fn undisturbed() -> tokio::sync::MutexGuard<'static, ()> {
    static TURNS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURNS.lock().await
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

/// A port for a process of the test's own, kept from everybody else also while that process is away: it may bind the
/// port, and a dial is refused until it listens.
pub(crate) struct ReservedPort(Socket);

impl ReservedPort {
    /// One that the system gives out.
    pub(crate) fn new() -> Self {
        let reserve = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Only so can the process bind it, too; redis-server sets this as well.
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
            std::io::Result::Ok(socket)
        };
        Self(reserve().expect("a free port"))
    }

    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        let address = self.0.local_addr().expect("a bound socket");
        address.as_socket().expect("an IP address").port()
    }
}
