//! A TCP proxy between a client and a server, to damage connections without touching either of them.
//!
//! - The address stays the same for the proxy's whole life, whatever is done to it.
//! - [`Proxy::cut`] is a broken line: every connection is reset, what was under way is lost, new ones are reset too.
//! - [`Proxy::stall`] is a line that has gone dead: sockets stay open, no byte passes in either direction, and a new
//!   connection is taken but not carried on. It ends with [`Proxy::resume`], and nothing of it is lost then.
//! - [`Proxy::swallow`] is a line whose ends have lost each other: every connection stays open and whatever is sent on it
//!   is taken and lost, for ever, in both directions. New connections are carried on.
//! - It runs on the test's own runtime, so it stands still while the test blocks the thread.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 64 * 1024;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Open,
    Stalled,
    Cut,
}

/// The line, and how often it was cut or began to swallow: a connection sees that it did even if the line is whole again
/// by then.
#[derive(Clone, Copy, Debug)]
struct State {
    line: Line,
    cuts: usize,
    swallows: usize,
}

/// A proxy to one server.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and forwards each connection to `upstream`, as in `host:port`.
    pub(crate) async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let state = watch::Sender::new(State {
            line: Line::Open,
            cuts: 0,
            swallows: 0,
        });
        let accepted = Arc::<AtomicUsize>::default();
        let accepting = tokio::spawn(accept(
            listener,
            upstream.to_owned(),
            state.subscribe(),
            accepted.clone(),
        ));
        Self {
            address,
            state,
            accepted,
            accepting,
        }
    }

    /// `ws://host:port`.
    pub(crate) fn ws_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// `http://host:port`.
    pub(crate) fn http_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `redis://host:port`.
    pub(crate) fn redis_url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Resets all connections, and new ones until [`Proxy::resume`].
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| {
            state.line = Line::Cut;
            state.cuts += 1;
        });
    }

    /// Holds back every byte, and new connections, until [`Proxy::resume`].
    pub(crate) fn stall(&self) {
        self.state.send_modify(|state| state.line = Line::Stalled);
    }

    /// Takes and loses every byte of the connections that there are.
    pub(crate) fn swallow(&self) {
        self.state.send_modify(|state| state.swallows += 1);
    }

    /// Forwards (again).
    pub(crate) fn resume(&self) {
        self.state.send_modify(|state| state.line = Line::Open);
    }

    /// How many connections were taken on so far, without those that were reset at once.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: String,
    state: watch::Receiver<State>,
    accepted: Arc<AtomicUsize>,
) {
    loop {
        let (client, _) = listener.accept().await.expect("descriptors left");
        let now = *state.borrow();
        if now.line == Line::Cut {
            reset(&client);
            continue;
        }
        accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(serve(client, upstream.clone(), state.clone(), now));
    }
}

/// One connection from its beginning to its end.
async fn serve(mut client: TcpStream, upstream: String, state: watch::Receiver<State>, born: State) {
    let mut server = None;
    let mut cut = state.clone();
    tokio::select! {
        // In this order, so that no byte slips through after `cut`.
        biased;
        // An error says that the proxy is gone, and its connections go with it.
        _ = cut.wait_for(|state| state.cuts != born.cuts) => {}
        ended = carry(&mut client, &mut server, &upstream, state, born) => if ended.is_ok() { return },
    }
    reset(&client);
    server.iter().for_each(reset);
}

/// Forwards both directions until both have ended, or one has failed.
async fn carry(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    upstream: &str,
    mut state: watch::Receiver<State>,
    born: State,
) -> io::Result<()> {
    opened(&mut state).await?;
    let server = server.insert(TcpStream::connect(upstream).await?);
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pump(from_client, to_server, state.clone(), born),
        pump(from_server, to_client, state, born)
    )?;
    Ok(())
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
    born: State,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        opened(&mut state).await?;
        let count = from.read(&mut buffer).await?;
        // The line may have gone dead while nothing came.
        opened(&mut state).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        if state.borrow().swallows != born.swallows {
            continue;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

async fn opened(state: &mut watch::Receiver<State>) -> io::Result<()> {
    let open = state.wait_for(|state| state.line == Line::Open).await;
    open.map(|_| ())
        .map_err(|_| io::ErrorKind::ConnectionAborted.into())
}

/// Makes the peer see a reset instead of an orderly end, once the socket is dropped.
fn reset(socket: &TcpStream) {
    // Fails if the peer has reset it already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::Proxy;
    use crate::support::client::Client;
    use crate::support::node::Node;

    #[actix::test]
    async fn a_stalled_line_loses_nothing_and_a_cut_one_ends() {
        let node = Node::start(&[]).await;
        let proxy = Proxy::start(node.address()).await;
        let mut client = Client::plain(&proxy.ws_url()).await;
        client.subscribe_plain("room").await;
        let mut direct = Client::plain(&node.ws_url()).await;

        proxy.stall();
        direct.publish("room", "held back").await;
        client.assert_quiet().await;
        proxy.resume();
        assert_eq!(client.text().await, "held back");
        proxy.cut();
        proxy.resume();
        assert_eq!(client.closed().await, None);

        assert_eq!(proxy.accepted(), 1);
        let mut client = Client::plain(&proxy.ws_url()).await;
        client.subscribe_plain("room").await;
        assert_eq!(proxy.accepted(), 2);
    }

    #[actix::test]
    async fn a_swallowing_line_stays_open_and_carries_nothing_but_new_connections() {
        let node = Node::start(&[]).await;
        let proxy = Proxy::start(node.address()).await;
        let mut before = Client::plain(&proxy.ws_url()).await;
        before.subscribe_plain("room").await;
        proxy.swallow();
        let mut after = Client::plain(&proxy.ws_url()).await;
        after.subscribe_plain("room").await;
        before.publish("room", "lost").await;
        after.publish("room", "carried").await;
        assert_eq!(after.text().await, "carried");
        before.assert_quiet().await;
        after.assert_quiet().await;
    }
}
