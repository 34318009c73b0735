//! What callers of the API are answered.

use actix_web::HttpResponse;
use actix_web::body::MessageBody;
use actix_web::http::{StatusCode, header};
use serde::Serialize;

use crate::http::ops;
use crate::protocol::client::ProtocolError;
use crate::protocol::error::{ErrorCode, Outcome};

/// There is nothing at this path, or no API at all.
const NOT_FOUND: &str = "not_found";

/// The path knows other methods.
const METHOD_NOT_ALLOWED: &str = "method_not_allowed";

/// The body is longer than any that could be right.
const BODY_TOO_LARGE: &str = "body_too_large";

/// Why a request is not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Of a publish that may be repeated.
    outcome: Option<Outcome>,
    /// The methods that the path knows.
    allow: Option<&'static str>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            outcome: None,
            allow: None,
        }
    }

    /// A field or a parameter is wrong.
    pub(super) fn bad_command(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadCommand.as_str(), message)
    }

    /// The body is not JSON.
    pub(super) fn bad_json(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadJson.as_str(), message)
    }

    /// The room of the path breaks a rule.
    pub(super) fn bad_room(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadRoom.as_str(), message)
    }

    pub(super) fn unauthorized() -> Self {
        let message = "send the API token as Authorization: Bearer";
        Self::new(
            StatusCode::UNAUTHORIZED,
            ErrorCode::Unauthorized.as_str(),
            message,
        )
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, NOT_FOUND, "there is nothing here")
    }

    /// The path knows these methods.
    pub(super) fn method(allow: &'static str) -> Self {
        let message = format!("this path knows {allow}");
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, METHOD_NOT_ALLOWED, message)
        }
    }

    pub(super) fn body_too_large(most: usize) -> Self {
        let message = format!("the body may have {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, BODY_TOO_LARGE, message)
    }

    /// The broker could not do it.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        let code = ErrorCode::Unavailable.as_str();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    /// The broker could not take a publish.
    pub(super) fn unpublished(message: String, outcome: Outcome) -> Self {
        Self {
            outcome: Some(outcome),
            ..Self::unavailable(message)
        }
    }

    pub(super) fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if let Some(allow) = self.allow {
            response.insert_header((header::ALLOW, allow));
        }
        match self.status {
            StatusCode::UNAUTHORIZED => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.insert_header((header::RETRY_AFTER, ops::RETRY_AFTER));
            }
            _ => {}
        }
        let body = ErrorBody {
            code: self.code,
            message: &self.message,
            outcome: self.outcome,
        };
        finish(response, encode(&body))
    }
}

impl From<ProtocolError> for Refusal {
    fn from(error: ProtocolError) -> Self {
        let status = match error.code {
            ErrorCode::MessageTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.code.as_str(), error.message)
    }
}

/// An answer with this JSON.
pub(super) fn json(status: StatusCode, body: impl MessageBody + 'static) -> HttpResponse {
    finish(HttpResponse::build(status), body)
}

/// The answer to what was carried out.
pub(super) fn done(body: &impl Serialize) -> HttpResponse {
    json(StatusCode::OK, encode(body))
}

fn encode(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("strings and numbers always serialize")
}

fn finish(mut response: actix_web::HttpResponseBuilder, body: impl MessageBody + 'static) -> HttpResponse {
    response
        .content_type("application/json")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(body)
}
