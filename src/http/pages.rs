//! The bundled demo and the browser client, carried inside the binary.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse};

/// What the demo page may load: itself, and nothing from anywhere else. Sockets may go anywhere, because a page on one
/// host may talk to a server on another.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct File {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const PAGE: File = File {
    name: "index.html",
    content_type: "text/html; charset=utf-8",
    bytes: include_bytes!("../../static/index.html"),
};

const FILES: &[File] = &[
    script("app.js", include_bytes!("../../static/app.js")),
    script("composer.js", include_bytes!("../../static/composer.js")),
    script("dom.js", include_bytes!("../../static/dom.js")),
    script("frames.js", include_bytes!("../../static/frames.js")),
    script("invite.js", include_bytes!("../../static/invite.js")),
    script("log.js", include_bytes!("../../static/log.js")),
    script("members.js", include_bytes!("../../static/members.js")),
    script("message.js", include_bytes!("../../static/message.js")),
    script("name.js", include_bytes!("../../static/name.js")),
    script("outgoing.js", include_bytes!("../../static/outgoing.js")),
    script("room.js", include_bytes!("../../static/room.js")),
    script("roomcast.js", include_bytes!("../../static/roomcast.js")),
    script("status.js", include_bytes!("../../static/status.js")),
    script("token.js", include_bytes!("../../static/token.js")),
    style("base.css", include_bytes!("../../static/base.css")),
    style("frames.css", include_bytes!("../../static/frames.css")),
    style("page.css", include_bytes!("../../static/page.css")),
    style("people.css", include_bytes!("../../static/people.css")),
    style("room.css", include_bytes!("../../static/room.css")),
    File {
        name: "roomcast.d.ts",
        content_type: "application/typescript; charset=utf-8",
        bytes: include_bytes!("../../static/roomcast.d.ts"),
    },
    File {
        name: "favicon.svg",
        content_type: "image/svg+xml",
        bytes: include_bytes!("../../static/favicon.svg"),
    },
];

const fn script(name: &'static str, bytes: &'static [u8]) -> File {
    File {
        name,
        content_type: "text/javascript; charset=utf-8",
        bytes,
    }
}

const fn style(name: &'static str, bytes: &'static [u8]) -> File {
    File {
        name,
        content_type: "text/css; charset=utf-8",
        bytes,
    }
}

/// `GET /`: the demo.
pub(super) async fn page(request: HttpRequest) -> HttpResponse {
    serve(&request, &PAGE)
}

/// `GET /{file}`: what the demo loads.
pub(super) async fn file(request: HttpRequest, name: Path<String>) -> HttpResponse {
    match FILES.iter().find(|file| file.name == name.as_str()) {
        Some(file) => serve(&request, file),
        None => HttpResponse::NotFound()
            .content_type("text/plain; charset=utf-8")
            .body("there is nothing here\n"),
    }
}

fn serve(request: &HttpRequest, file: &File) -> HttpResponse {
    // A new binary may carry new files, and an old one keeps its own: the version is all that has to be compared.
    let etag = concat!(
        "\"",
        env!("CARGO_PKG_VERSION"),
        "-",
        env!("ROOMCAST_STATIC_HASH"),
        "\""
    );
    let known = request
        .headers()
        .get(header::IF_NONE_MATCH)
        .is_some_and(|value| value == etag);
    let status = if known {
        StatusCode::NOT_MODIFIED
    } else {
        StatusCode::OK
    };
    let mut response = HttpResponse::build(status);
    response
        .insert_header((header::ETAG, etag))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .insert_header((header::REFERRER_POLICY, "no-referrer"));
    if matches!(file.name, "roomcast.js" | "roomcast.d.ts") {
        // The client is meant to be imported by other sites.
        response.insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")));
    }
    if known {
        return response.finish();
    }
    response.content_type(file.content_type).body(file.bytes)
}
