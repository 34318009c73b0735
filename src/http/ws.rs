//! The handshake: who may open a WebSocket, and in which dialect.
//!
//! Checked in this order: stopping (503), origin (403), the handshake itself (RFC 6455 section 4.2.1; 400, 405 or 426),
//! subprotocol, user name or number of tokens (400), the token (401). A full node answers 101 and closes with 1013,
//! because a browser is told nothing about a refused handshake.
//!
//! Nothing of a token is in an answer or in the log, also of one that nobody asked for.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use actix_http::ws::{HandshakeError, verify_handshake};
use actix_web::dev::RequestHead;
use actix_web::guard::GuardContext;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{StatusCode, Version};
use actix_web::web::{Data, Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use actix_web_actors::ws as handshake;

use super::gate::Latch;
use super::{Node, ops};
use crate::config::Config;
use crate::protocol::close::CloseCode;
use crate::protocol::{Dialect, MAX_USER_BYTES, V1_SUBPROTOCOL, excerpt, user_name};
use crate::rooms::worker::Worker;
use crate::session::actor::WsSession;
use crate::session::seat::{Limits, Seat, Service, User};
use crate::tokens::TokenError;

/// The text of a message may be this much longer in JSON, with every byte escaped …
const ESCAPED_BYTES: u64 = 6;

/// … and the fields around it take at most this.
const ENVELOPE_BYTES: u64 = 4 * 1024;

/// What a message to `/echo` may count.
const ECHO_MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// What a subprotocol begins with that is a token.
const TOKEN_SUBPROTOCOL: &str = "roomcast.token.";

/// Why a handshake is refused.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        match self.status {
            StatusCode::UPGRADE_REQUIRED => {
                response
                    .insert_header((header::UPGRADE, "websocket"))
                    .insert_header((header::SEC_WEBSOCKET_VERSION, "13"));
            }
            StatusCode::BAD_REQUEST => {
                response.insert_header((header::SEC_WEBSOCKET_VERSION, "13"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.insert_header((header::RETRY_AFTER, ops::RETRY_AFTER));
            }
            StatusCode::UNAUTHORIZED => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                response.insert_header((header::ALLOW, "GET"));
            }
            _ => {}
        }
        response
            .content_type("text/plain; charset=utf-8")
            .body(self.message + "\n")
    }
}

/// Whether a request has an upgrade header, and so wants no page.
pub(super) fn asks_for_upgrade(context: &GuardContext<'_>) -> bool {
    context.head().headers().contains_key(header::UPGRADE)
}

/// `/ws` without an upgrade header.
pub(super) async fn upgrade_required() -> HttpResponse {
    Refusal::new(
        StatusCode::UPGRADE_REQUIRED,
        "this is a WebSocket; connect with ws:// or wss://",
    )
    .into_response()
}

/// Opens a session.
pub(super) async fn upgrade(request: HttpRequest, body: Payload, node: Data<Node>) -> HttpResponse {
    open_or_refuse(&request, body, &node, Service::Rooms)
}

/// Opens a session that sends everything back.
pub(super) async fn echo(request: HttpRequest, body: Payload, node: Data<Node>) -> HttpResponse {
    open_or_refuse(&request, body, &node, Service::Echo)
}

fn open_or_refuse(request: &HttpRequest, body: Payload, node: &Data<Node>, service: Service) -> HttpResponse {
    let worker = request
        .app_data::<Rc<Worker>>()
        .expect("configured with the routes");
    open(request, body, node, worker, service).unwrap_or_else(|refusal| {
        worker.refused(request.peer_addr(), refusal.status.as_u16(), &refusal.message);
        refusal.into_response()
    })
}

fn open(
    request: &HttpRequest,
    body: Payload,
    node: &Data<Node>,
    worker: &Rc<Worker>,
    service: Service,
) -> Result<HttpResponse, Refusal> {
    if node.is_draining() {
        return Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "this node is stopping; connect to another",
        ));
    }
    check_origin(request, node.config.allowed_origins.as_deref())?;
    check_handshake(request.head())?;
    let dialect = match service {
        Service::Rooms => dialect(request.headers())?,
        Service::Echo => Dialect::Plain,
    };
    let (user, grant) = match &node.verifier {
        None => (user(request.query_string())?, None),
        Some(verifier) => {
            let grant = match token(request)? {
                Some(token) => Some(verifier.verify(&token, SystemTime::now())),
                // It can show one in its first frame.
                None if dialect == Dialect::V1 => None,
                None => Some(Err(TokenError::Missing)),
            };
            let grant = grant.transpose().map_err(|error| {
                node.metrics.tokens_refused.inc(error.problem());
                Refusal::new(StatusCode::UNAUTHORIZED, error.to_string())
            })?;
            (grant.as_ref().and_then(|grant| grant.user.clone()), grant)
        }
    };
    let user = user.map_or_else(User::default, |user| Rc::new(user.into()));
    let latch = request.conn_data::<Rc<Latch>>().cloned();
    let place = Rc::new(node.capacity.take());
    if let Some(latch) = &latch {
        // A connection that lingers for its peer to read the end still takes its place.
        latch.keep(place.clone());
    }
    let turned_away = (!place.fits).then_some(CloseCode::Full);
    let seat = Seat {
        hub: node.hub.clone(),
        worker: worker.clone(),
        metrics: node.metrics.clone(),
        node: node.name.clone(),
        dialect,
        user,
        verifier: node.verifier.clone(),
        grant,
        cut: cut(latch),
        service,
        peer: request.peer_addr(),
        limits: limits(&node.config, service),
        turned_away,
        place,
    };
    let mut response =
        handshake::handshake(request).map_err(|error| Refusal::bad_request(error.to_string()))?;
    if dialect == Dialect::V1 {
        // Chosen here, because the crate looks at the first of several header lines only.
        response.insert_header((header::SEC_WEBSOCKET_PROTOCOL, V1_SUBPROTOCOL));
    }
    Ok(response.streaming(WsSession::start(seat, body)))
}

/// Resets a connection, where the server has put a gate before it.
fn cut(latch: Option<Rc<Latch>>) -> Rc<dyn Fn()> {
    Rc::new(move || {
        if let Some(latch) = &latch {
            latch.cut();
        }
    })
}

/// Bytes of JSON in which a message of the longest allowed text fits.
pub(super) fn max_frame(config: &Config) -> u64 {
    config.max_message as u64 * ESCAPED_BYTES + ENVELOPE_BYTES
}

fn limits(config: &Config, service: Service) -> Limits {
    let (max_frame, max_backlog) = match service {
        Service::Rooms => (max_frame(config), config.max_backlog),
        // One message on its way out must not make the peer look slow.
        Service::Echo => (ECHO_MAX_MESSAGE as u64, config.max_backlog + 2 * ECHO_MAX_MESSAGE),
    };
    Limits {
        max_frame,
        max_message: config.max_message,
        max_backlog,
        rate: config.rate,
        heartbeat: config.heartbeat,
    }
}

fn check_origin(request: &HttpRequest, allowed: Option<&[String]>) -> Result<(), Refusal> {
    let Some(allowed) = allowed else { return Ok(()) };
    let mut origins = request.headers().get_all(header::ORIGIN);
    let Some(origin) = origins.next() else {
        return Ok(());
    };
    let is_allowed = origins.next().is_none() && allowed.iter().any(|allowed| origin == allowed.as_str());
    if is_allowed {
        return Ok(());
    }
    let shown = excerpt(&String::from_utf8_lossy(origin.as_bytes()));
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        format!(
            "pages of \"{shown}\" may not connect; the operator can allow them with ROOMCAST_ALLOWED_ORIGINS"
        ),
    ))
}

fn check_handshake(head: &RequestHead) -> Result<(), Refusal> {
    if head.version != Version::HTTP_11 {
        return Err(Refusal::bad_request("a WebSocket needs HTTP/1.1"));
    }
    let repeated = [header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_VERSION]
        .into_iter()
        .find(|name| head.headers().get_all(name).count() > 1);
    if let Some(name) = repeated {
        return Err(Refusal::bad_request(format!(
            "the header {name} may be there once"
        )));
    }
    verify_handshake(head).map_err(|error| {
        let status = match error {
            HandshakeError::GetMethodRequired => StatusCode::METHOD_NOT_ALLOWED,
            HandshakeError::UnsupportedVersion => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        };
        Refusal::new(
            status,
            format!("no WebSocket handshake of RFC 6455, version 13: {error}"),
        )
    })?;
    // The check above is content with a part of the token, as in "xwebsocketx".
    if !wants_websocket(head.headers()) {
        return Err(Refusal::bad_request(
            "the header Upgrade must be websocket, and nothing else",
        ));
    }
    // Whoever stands in between might see the end of a body where this server sees frames.
    let has_length = |value: &HeaderValue| value.as_bytes().trim_ascii() != b"0";
    if head.headers().contains_key(header::TRANSFER_ENCODING)
        || head.headers().get(header::CONTENT_LENGTH).is_some_and(has_length)
    {
        return Err(Refusal::bad_request("a WebSocket handshake has no body"));
    }
    Ok(())
}

/// Whether the codec takes what follows for a stream: a line of its own names the protocol. Of a list it makes none.
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::UPGRADE)
        .any(|offer| offer.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// The entries of a comma-separated header, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
}

fn dialect(headers: &HeaderMap) -> Result<Dialect, Refusal> {
    let mut offers = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).peekable();
    if offers.peek().is_none() {
        return Ok(Dialect::Plain);
    }
    if offers.any(|entry| entry == V1_SUBPROTOCOL) {
        return Ok(Dialect::V1);
    }
    Err(Refusal::bad_request(format!(
        "none of the offered subprotocols is spoken here; offer {V1_SUBPROTOCOL}, or none for the plain dialect"
    )))
}

/// What the query has under this name, percent-decoded. An empty value is as good as none.
fn query(text: &str, wanted: &str) -> Result<impl Iterator<Item = String>, Refusal> {
    // The error would repeat what it is about.
    let pairs = Query::<Vec<(String, String)>>::from_query(text).map_err(|_| {
        Refusal::bad_request("the query cannot be read; it has the form name=value&name=value")
    })?;
    let pairs = pairs.into_inner().into_iter();
    Ok(pairs
        .filter(move |(name, value)| name == wanted && !value.is_empty())
        .map(|(_, value)| value))
}

/// The name in `?user=`.
fn user(query_string: &str) -> Result<Option<Arc<str>>, Refusal> {
    let Some(user) = query(query_string, "user")?.next() else {
        return Ok(None);
    };
    user_name(&user).map(Some).ok_or_else(|| {
        Refusal::bad_request(format!(
            "user has at most {MAX_USER_BYTES} bytes of UTF-8 and no control characters"
        ))
    })
}

/// The token among the subprotocols or in `?token=`.
fn token(request: &HttpRequest) -> Result<Option<String>, Refusal> {
    let offered = tokens(request.headers(), &header::SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|entry| entry.strip_prefix(TOKEN_SUBPROTOCOL))
        .filter(|token| !token.is_empty())
        .map(str::to_owned);
    let mut shown = offered.chain(query(request.query_string(), "token")?);
    let first = shown.next();
    if shown.any(|other| Some(other) != first) {
        return Err(Refusal::bad_request(
            "the request has several tokens, and they differ; send one",
        ));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn valid() -> TestRequest {
        TestRequest::get()
            .insert_header((header::UPGRADE, "websocket"))
            .insert_header((header::CONNECTION, "Upgrade"))
            .insert_header((header::SEC_WEBSOCKET_VERSION, "13"))
            .insert_header((header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="))
    }

    fn status(request: TestRequest) -> Option<u16> {
        check_handshake(request.to_http_request().head())
            .err()
            .map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn a_handshake_is_checked_strictly() {
        assert_eq!(status(valid()), None);
        assert_eq!(status(valid().method(actix_web::http::Method::POST)), Some(405));
        assert_eq!(
            status(valid().insert_header((header::SEC_WEBSOCKET_VERSION, "8"))),
            Some(426)
        );
        assert_eq!(
            status(valid().insert_header((header::SEC_WEBSOCKET_KEY, "short"))),
            Some(400)
        );
        assert_eq!(
            status(valid().insert_header((header::UPGRADE, "xwebsocketx"))),
            Some(400)
        );
        assert_eq!(status(valid().version(Version::HTTP_10)), Some(400));
        assert_eq!(
            status(valid().append_header((header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="))),
            Some(400)
        );
    }

    #[test]
    fn origins_are_compared_exactly() {
        let allowed = ["https://a.example".to_owned()];
        let check = |request: TestRequest| check_origin(&request.to_http_request(), Some(&allowed)).is_ok();
        assert!(check(valid()));
        assert!(check(
            valid().insert_header((header::ORIGIN, "https://a.example"))
        ));
        for origin in [
            "https://A.example",
            "http://a.example",
            "https://a.example.evil",
            "null",
            "",
        ] {
            assert!(
                !check(valid().insert_header((header::ORIGIN, origin))),
                "{origin}"
            );
        }
        let twice = valid().insert_header((header::ORIGIN, "https://a.example"));
        assert!(!check(twice.append_header((header::ORIGIN, "https://a.example"))));
    }

    #[test]
    fn the_subprotocol_selects_the_dialect() {
        let dialect_of = |offers: &[&str]| {
            let request = offers.iter().fold(valid(), |request, offer| {
                request.append_header((header::SEC_WEBSOCKET_PROTOCOL, *offer))
            });
            dialect(request.to_http_request().headers()).ok()
        };
        assert_eq!(dialect_of(&[]), Some(Dialect::Plain));
        assert_eq!(dialect_of(&[""]), Some(Dialect::Plain));
        assert_eq!(dialect_of(&["roomcast.v1"]), Some(Dialect::V1));
        assert_eq!(dialect_of(&["chat, roomcast.v1"]), Some(Dialect::V1));
        assert_eq!(dialect_of(&["chat", "roomcast.v1"]), Some(Dialect::V1));
        assert_eq!(dialect_of(&["chat"]), None);
        assert_eq!(dialect_of(&["ROOMCAST.V1"]), None);
    }

    #[test]
    fn a_user_name_is_decoded_and_bounded() {
        assert_eq!(user("user=a%20b&x=1").ok().flatten().as_deref(), Some("a b"));
        assert_eq!(user("x=1").ok(), Some(None));
        assert!(user(&format!("user={}", "a".repeat(129))).is_err());
        assert!(user("user=a%0Ab").is_err());
    }
}
