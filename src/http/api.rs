//! The server API: what a back end may do without a WebSocket. `docs/api.md` describes it for people, `openapi.json` for
//! programs.
//!
//! - It is there only where `ROOMCAST_API_TOKEN` is set: everything under `/api` is 404 otherwise. Whoever has the token may do
//!   all of it.
//! - Paths are taken apart here and not by the framework: a room is one segment of the path as it was sent, decoded once.
//! - Answers are JSON. What went wrong is `{"code", "message"}`, with the codes of the protocol where they fit.
//! - Nothing is read beyond its limit, and nothing is waited for longer than 3 s beside the peer itself, which the gate times.
//! - It is served as long as the node is, also while that is stopping.

mod answer;
mod history;
mod members;
mod publish;
mod rooms;
mod target;
mod users;

use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use self::answer::{Refusal, json};
pub(crate) use self::publish::max_bodies;
use self::target::{Query, room, segments, user};
use super::{Node, ops};
use crate::metrics::labels::ApiRoute;

/// How long a caller waits at most, for whatever the broker has to do with.
const PATIENCE: Duration = Duration::from_millis(2_900);

/// The document that describes the API to programs.
const DOCUMENT: &str = include_str!("api/openapi.json");

type Answer = Result<HttpResponse, Refusal>;

/// Whatever begins with `/api`.
pub(super) async fn serve(request: HttpRequest, body: Payload, node: Data<Node>) -> HttpResponse {
    let path = segments(request.uri().path());
    let resource = Resource::at(&path);
    let route = resource.as_ref().map_or(ApiRoute::Other, Resource::route);
    let answer = match admit(&request, &node) {
        Ok(()) => match resource {
            Some(resource) => resource.serve(&request, body, &node).await,
            None => Err(Refusal::not_found()),
        },
        Err(refusal) => Err(refusal),
    };
    let response = answer.unwrap_or_else(Refusal::into_response);
    node.metrics.api_requests.inc(route);
    match response.status() {
        status if status.is_client_error() => node.metrics.api_requests_refused.inc(route),
        status if status.is_server_error() => node.metrics.api_requests_failed.inc(route),
        _ => {}
    }
    response
}

/// Whether the caller may be here at all.
fn admit(request: &HttpRequest, node: &Node) -> Result<(), Refusal> {
    match &node.config.api_token {
        None => Err(Refusal::not_found()),
        Some(token) if ops::has_bearer(request, token) => Ok(()),
        Some(_) => Err(Refusal::unauthorized()),
    }
}

/// What a path names. Names in it are still as they were sent.
enum Resource<'a> {
    Document,
    Batch,
    Rooms,
    Room(&'a str),
    Messages(&'a str),
    Members(&'a str),
    Member(&'a str, &'a str),
    Disconnect(&'a str),
}

impl<'a> Resource<'a> {
    fn at(path: &[&'a str]) -> Option<Self> {
        Some(match *path {
            ["api", "openapi.json"] => Self::Document,
            ["api", "messages"] => Self::Batch,
            ["api", "rooms"] => Self::Rooms,
            ["api", "rooms", room] => Self::Room(room),
            ["api", "rooms", room, "messages"] => Self::Messages(room),
            ["api", "rooms", room, "members"] => Self::Members(room),
            ["api", "rooms", room, "members", user] => Self::Member(room, user),
            ["api", "users", user, "disconnect"] => Self::Disconnect(user),
            _ => return None,
        })
    }

    /// What its requests are counted as.
    fn route(&self) -> ApiRoute {
        match self {
            Self::Document => ApiRoute::Document,
            Self::Batch => ApiRoute::Batch,
            Self::Rooms | Self::Room(_) => ApiRoute::Rooms,
            Self::Messages(_) => ApiRoute::Messages,
            Self::Members(_) | Self::Member(..) => ApiRoute::Members,
            Self::Disconnect(_) => ApiRoute::Users,
        }
    }

    async fn serve(self, request: &HttpRequest, body: Payload, node: &Node) -> Answer {
        let query = Query(request.uri().query().unwrap_or_default());
        let method = request.method();
        match self {
            Self::Document if method == Method::GET => Ok(json(StatusCode::OK, DOCUMENT)),
            Self::Document => Err(Refusal::method("GET")),
            Self::Batch if method == Method::POST => publish::batch(request, body, node).await,
            Self::Batch => Err(Refusal::method("POST")),
            Self::Rooms if method == Method::GET => rooms::list(&query, node).await,
            Self::Rooms => Err(Refusal::method("GET")),
            Self::Room(name) if method == Method::GET => rooms::one(room(name)?, node).await,
            Self::Room(_) => Err(Refusal::method("GET")),
            Self::Messages(name) => match *method {
                Method::GET => history::read(room(name)?, &query, node).await,
                Method::POST => publish::single(room(name)?, request, body, node).await,
                Method::DELETE => history::forget(room(name)?, node).await,
                _ => Err(Refusal::method("GET, POST, DELETE")),
            },
            Self::Members(name) if method == Method::GET => members::list(room(name)?, node).await,
            Self::Members(_) => Err(Refusal::method("GET")),
            Self::Member(name, member) if method == Method::DELETE => {
                users::remove(room(name)?, user(member)?, node).await
            }
            Self::Member(..) => Err(Refusal::method("DELETE")),
            Self::Disconnect(name) if method == Method::POST => users::disconnect(user(name)?, node).await,
            Self::Disconnect(_) => Err(Refusal::method("POST")),
        }
    }
}

/// When a caller that asks now has waited long enough.
fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// Waits for an answer of the registry or the broker.
async fn within<T>(deadline: Instant, answer: oneshot::Receiver<T>) -> Result<T, Refusal> {
    match timeout_at(deadline, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Refusal::unavailable("the node is stopping")),
        Err(_) => Err(Refusal::unavailable("the broker has not answered in time")),
    }
}
