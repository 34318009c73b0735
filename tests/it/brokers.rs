//! What a node does with its broker: one suite for both brokers, and what only Redis has.

mod access;
mod alike;
mod channels;
mod history;
mod keys;
mod payloads;
mod replays;
mod streams;
mod suite;

use actix_test::TestServer;
use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::node::{get, metric, test_server, ws_url};
use crate::support::redis::Redis;

/// Runs behaviours on both brokers, each with its settings; on Redis with two nodes.
macro_rules! on_both_brokers_with {
    ($($behaviour:ident [$($setting:literal = $value:expr),*])*) => {
        mod memory {
            $(#[actix::test] async fn $behaviour() {
                super::$behaviour(&crate::brokers::Site::memory_with(&[$(($setting, $value)),*]).await).await;
            })*
        }
        mod redis {
            $(#[actix::test] async fn $behaviour() {
                super::$behaviour(&crate::brokers::Site::redis_with(&[$(($setting, $value)),*]).await).await;
            })*
        }
    };
}
use on_both_brokers_with;

/// A node within the test and its broker.
pub(crate) struct Site {
    server: TestServer,
    pub(crate) redis: Option<Redis>,
    /// On the same Redis.
    other: Option<TestServer>,
}

impl Site {
    /// On the embedded broker.
    async fn memory() -> Self {
        Self::memory_with(&[]).await
    }

    /// On the embedded broker, with these settings.
    pub(crate) async fn memory_with(settings: &[(&str, &str)]) -> Self {
        Self::ready(test_server(settings), None).await
    }

    /// On a Redis of its own.
    async fn redis() -> Self {
        Self::with_prefix("").await
    }

    /// On a Redis of its own, where this stands before a room's name.
    async fn with_prefix(prefix: &str) -> Self {
        let redis = Redis::start().await;
        let settings = [("REDIS_URL", &*redis.url()), ("ROOMCAST_REDIS_PREFIX", prefix)];
        Self::ready(test_server(&settings), Some(redis)).await
    }

    /// Two nodes on a Redis of their own, with these settings.
    pub(crate) async fn redis_with(settings: &[(&str, &str)]) -> Self {
        let redis = Redis::start().await;
        let url = redis.url();
        let settings = [&[("REDIS_URL", url.as_str())], settings].concat();
        let (server, other) = (test_server(&settings), test_server(&settings));
        let Self { server: other, .. } = Self::ready(other, None).await;
        let mut site = Self::ready(server, Some(redis)).await;
        site.other = Some(other);
        site
    }

    async fn ready(server: TestServer, redis: Option<Redis>) -> Self {
        eventually("a node that is ready", async || {
            (get(&server.url("/readyz")).await.0 == 200).then_some(())
        })
        .await;
        Self {
            server,
            redis,
            other: None,
        }
    }

    pub(crate) fn url(&self) -> String {
        ws_url(&self.server).trim_end_matches('/').to_owned()
    }

    /// The other node's, where there is one.
    pub(crate) fn other_url(&self) -> String {
        let server = self.other.as_ref().unwrap_or(&self.server);
        ws_url(server).trim_end_matches('/').to_owned()
    }

    fn broker(&self) -> &Redis {
        self.redis.as_ref().expect("a site on Redis")
    }

    async fn await_metric(&self, name: &str, expected: u64) {
        let url = self.server.url("");
        eventually(&format!("{name} of {expected}"), async || {
            (metric(url.trim_end_matches('/'), name).await == expected).then_some(())
        })
        .await;
    }
}

/// Publishes in the dialect `roomcast.v1` and waits until the broker has it.
async fn publish(client: &mut Client, room: &str, message: serde_json::Value) {
    let reply = client
        .call(json!({"type": "sendMessage", "roomId": room, "message": message}))
        .await;
    assert_eq!(reply["type"], "sent", "{reply}");
}
