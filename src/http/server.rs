//! The HTTP server: the framework's codec and routes behind a gate of our own (see `gate.rs`), which
//! is why this is put together by hand and not by `actix_web::HttpServer`: that one takes bare sockets only.

use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{ConnectionType, HttpService};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::App;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{AppConfig, RequestHead, Server, ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::web::Data;
use bytes::Bytes;
use socket2::SockRef;

use super::gate::{Body, Gate, Latch};
use super::ws::wants_websocket;
use super::{Node, configure};

/// How long a client may take to send the head of its first request. With the time it takes to end the connection
/// that is less than 10 s.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a connection stays without a request behind an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long a peer may take to end its side of a connection after the server has.
const LINGER: Duration = Duration::from_millis(500);

/// How long sent bytes may stay unacknowledged before the kernel gives a connection up: peers that vanished. Much
/// less would also end peers that read slowly.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Unsent bytes that the kernel takes for a peer that does not read; the rest waits where it is counted.
#[cfg(target_os = "linux")]
const UNSENT_LOW_WATER: u32 = 16 * 1024;

/// Serves a node on `listener`, on as many threads as it is configured to, until its handle stops it. Connections
/// beyond `max_connections` are accepted when others have ended.
///
/// # Errors
/// If the socket cannot be served.
pub fn start(node: Data<Node>, listener: TcpListener, max_connections: usize) -> io::Result<Server> {
    let workers = node.config.workers;
    let server = Server::build()
        .workers(workers)
        .max_concurrent_connections((max_connections / workers).max(1))
        .disable_signals()
        .listen("http", listener, move || {
            let node = node.clone();
            let app = App::new()
                .wrap(from_fn(follow))
                .configure(move |app| configure(app, node));
            let app = app
                .into_factory()
                .map_err(|error: actix_web::Error| error.error_response());
            let http = HttpService::build()
                .keep_alive(KEEP_ALIVE)
                .client_request_timeout(HANDSHAKE_TIMEOUT)
                .client_disconnect_timeout(LINGER)
                // The least there is: a session's stream is then asked for more only when the kernel has taken
                // everything, which is what its backlog is measured by.
                .h1_write_buffer_size(1)
                .on_connect_ext(|gate: &Gate<TcpStream>, extensions| {
                    extensions.insert(gate.latch().clone());
                })
                .h1(map_config(app, |()| AppConfig::default()));
            fn_service(async |socket: TcpStream| {
                let peer = socket.peer_addr().ok();
                prepare(&socket);
                Ok::<_, DispatchError>((Gate::new(socket, reset_at_end), peer))
            })
            .and_then(http)
        })?;
    Ok(server.run())
}

/// Sets what the kernel is to do with a new connection. Refusals are harmless: it then works with the system's defaults.
fn prepare(socket: &TcpStream) {
    let socket = SockRef::from(socket);
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
}

fn reset_at_end(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Tells the connection's gate where each of its requests stands.
async fn follow(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<Followed>, actix_web::Error> {
    let latch = request.conn_data::<Rc<Latch>>().cloned();
    let end = End(latch.clone());
    let body = body(request.head());
    if let Some(latch) = &latch {
        latch.begin(body);
    }
    let mut response = next.call(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if let Some(latch) = &latch {
            latch.open();
        }
    } else if body == Body::Chunked {
        response
            .response_mut()
            .head_mut()
            .set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|_, body| Followed { body, _end: end }))
}

/// What the codec expects behind a request's head.
fn body(head: &RequestHead) -> Body {
    let headers = head.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Body::Chunked;
    }
    if wants_websocket(headers) || head.method == Method::CONNECT {
        return Body::Other;
    }
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.trim().parse().ok());
    Body::Length(length.unwrap_or(0))
}

/// The body of an answer. When it is dropped the answer is with the codec, or the session has ended.
struct Followed {
    body: BoxBody,
    _end: End,
}

/// Tells the gate when it is dropped.
struct End(Option<Rc<Latch>>);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(latch) = &self.0 {
            latch.end();
        }
    }
}

impl MessageBody for Followed {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(cx)
    }
}
