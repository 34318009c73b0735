//! The server API: what a back end can do over HTTP, and what becomes of it on all nodes.
//!
//! Every answer is compared with the document that the server gives of itself ([`contract`]), whatever a test asks for.

mod batch;
mod contract;
mod document;
mod history;
mod late;
mod members;
mod pages;
mod paths;
mod publish;
mod recipes;
mod rooms;
mod users;

use std::time::Duration;

use awc::http::Method;
use serde_json::Value;

use crate::support::node::Node;
use crate::support::redis::Redis;

const TOKEN: &str = "hunter2-hunter2";

/// How long the server may take for anything, whatever the broker does.
const SOON: Duration = Duration::from_millis(3_500);

/// Runs behaviours on both brokers; on Redis with two nodes.
macro_rules! on_both_brokers {
    ($($behaviour:ident)*) => {
        mod embedded {
            $(#[actix::test] async fn $behaviour() {
                super::$behaviour(&crate::api::Site::embedded(&[]).await).await;
            })*
        }
        mod redis {
            $(#[actix::test] async fn $behaviour() {
                super::$behaviour(&crate::api::Site::redis(&[]).await).await;
            })*
        }
    };
}
use on_both_brokers;

/// Nodes with the API, and their broker.
struct Site {
    /// One on the embedded broker, two on Redis.
    nodes: Vec<Node>,
    redis: Option<Redis>,
}

impl Site {
    async fn embedded(settings: &[(&str, &str)]) -> Self {
        let settings = [&[("ROOMCAST_API_TOKEN", TOKEN)], settings].concat();
        Self {
            nodes: vec![Node::start(&settings).await],
            redis: None,
        }
    }

    async fn redis(settings: &[(&str, &str)]) -> Self {
        let redis = Redis::start().await;
        let url = redis.url();
        let common = [("ROOMCAST_API_TOKEN", TOKEN), ("REDIS_URL", url.as_str())];
        let settings = [&common[..], settings].concat();
        let mut nodes = Vec::new();
        for _ in 0..2 {
            let node = Node::start(&settings).await;
            node.ready().await;
            nodes.push(node);
        }
        Self {
            nodes,
            redis: Some(redis),
        }
    }

    fn first(&self) -> &Node {
        &self.nodes[0]
    }

    /// Another one, where there is one.
    fn last(&self) -> &Node {
        self.nodes.last().expect("a node")
    }
}

/// An answer of the API.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Value,
    headers: awc::http::header::HeaderMap,
}

impl Answer {
    /// The body of an answer with this status.
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The code of an error with this status.
    fn code(self, status: u16) -> String {
        let body = self.expect(status);
        body["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{body}"))
            .to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

async fn get(node: &Node, path: &str) -> Answer {
    call(node, Method::GET, path, "").await
}

async fn post(node: &Node, path: &str, body: &Value) -> Answer {
    call(node, Method::POST, path, body.to_string()).await
}

async fn delete(node: &Node, path: &str) -> Answer {
    call(node, Method::DELETE, path, "").await
}

/// Sends a request with the token. The answer is what the document says.
async fn call(node: &Node, method: Method, path: &str, body: impl Into<Vec<u8>>) -> Answer {
    let token = format!("Bearer {TOKEN}");
    send(node, method, path, Some(&token), body.into()).await
}

/// Sends a request with this authorization.
async fn send(node: &Node, method: Method, path: &str, authorization: Option<&str>, body: Vec<u8>) -> Answer {
    let mut request = awc::Client::default()
        .request(method.clone(), node.http_url() + path)
        .timeout(Duration::from_secs(20));
    if let Some(authorization) = authorization {
        request = request.insert_header(("authorization", authorization));
    }
    let mut response = request
        .send_body(body)
        .await
        .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let bytes = response.body().limit(64 * 1024 * 1024).await.expect("a body");
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|error| panic!("{method} {path}: {error} in {}", String::from_utf8_lossy(&bytes)));
    let answer = Answer {
        status: response.status().as_u16(),
        body,
        headers: response.headers().clone(),
    };
    contract::check(&method, path, &answer);
    answer
}
