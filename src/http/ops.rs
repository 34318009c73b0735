//! What operators and platforms ask: `/healthz`, `/readyz`, `/metrics`.

use std::time::Instant;

use actix_web::http::header;
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};

use super::Node;
use crate::config::Secret;

/// Seconds after which a refused caller may ask again.
pub(super) const RETRY_AFTER: &str = "1";

const TEXT: &str = "text/plain; charset=utf-8";

/// The process is up.
pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type(TEXT).body("ok\n")
}

/// The node can serve: its broker has just proved itself, and it is not stopping.
pub(super) async fn readyz(node: Data<Node>) -> HttpResponse {
    match readiness(&node, Instant::now()) {
        Ok(()) => HttpResponse::Ok().content_type(TEXT).body("ready\n"),
        Err(problem) => HttpResponse::ServiceUnavailable()
            .insert_header((header::RETRY_AFTER, RETRY_AFTER))
            .content_type(TEXT)
            .body(format!("not ready: {problem}\n")),
    }
}

/// Whether the node can serve, or why it cannot.
fn readiness(node: &Node, now: Instant) -> Result<(), String> {
    if node.is_draining() {
        return Err("the node is stopping".to_owned());
    }
    node.health.check(now)
}

/// All metrics as OpenMetrics text.
pub(super) async fn metrics(request: HttpRequest, node: Data<Node>) -> HttpResponse {
    if let Some(token) = &node.config.metrics_token
        && !has_bearer(&request, token)
    {
        return HttpResponse::Unauthorized()
            .insert_header((header::WWW_AUTHENTICATE, "Bearer"))
            .content_type(TEXT)
            .body("send the metrics token as Authorization: Bearer\n");
    }
    // Some of it is asked of the system, and the worker's sessions must not wait for that.
    let text = web::block(move || {
        let now = Instant::now();
        let is_ready = readiness(&node, now).is_ok();
        node.metrics.show_health(is_ready, node.health.silence(now));
        node.metrics.encode()
    });
    match text.await {
        Ok(text) => HttpResponse::Ok()
            .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
            .body(text),
        // The pool of threads has ended: so has the node, but for this request.
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}

/// Whether the request carries this bearer token. The comparison takes the same time wherever the difference is.
pub(super) fn has_bearer(request: &HttpRequest, token: &Secret) -> bool {
    let sent = request
        .headers()
        .get(header::AUTHORIZATION)
        .map(|value| value.as_bytes());
    let Some(sent) = sent.and_then(|value| value.strip_prefix(b"Bearer ")) else {
        return false;
    };
    let expected = token.reveal().as_bytes();
    sent.len() == expected.len()
        && sent
            .iter()
            .zip(expected)
            .fold(0, |difference, (a, b)| difference | (a ^ b))
            == 0
}
