//! What operators and platforms ask: `/healthz`, `/readyz`, `/metrics`.

use std::time::Instant;

use actix_web::http::header;
use actix_web::web::Data;
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
    let problem = if node.is_draining() {
        "the node is stopping".to_owned()
    } else {
        match node.health.check(Instant::now()) {
            Ok(()) => return HttpResponse::Ok().content_type(TEXT).body("ready\n"),
            Err(problem) => problem,
        }
    };
    HttpResponse::ServiceUnavailable()
        .insert_header((header::RETRY_AFTER, RETRY_AFTER))
        .content_type(TEXT)
        .body(format!("not ready: {problem}\n"))
}

/// All counters and gauges as OpenMetrics text.
pub(super) async fn metrics(request: HttpRequest, node: Data<Node>) -> HttpResponse {
    if let Some(token) = &node.config.metrics_token
        && !has_bearer(&request, token)
    {
        return HttpResponse::Unauthorized()
            .insert_header((header::WWW_AUTHENTICATE, "Bearer"))
            .content_type(TEXT)
            .body("send the metrics token as Authorization: Bearer\n");
    }
    HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(node.metrics.encode())
}

/// Whether the request carries this bearer token. The comparison takes the same time wherever the difference is.
fn has_bearer(request: &HttpRequest, token: &Secret) -> bool {
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
