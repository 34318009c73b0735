//! What a node does with its broker: one suite for both brokers, and what only Redis has.

mod access;
mod channels;
mod payloads;
mod suite;

use actix_test::TestServer;
use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::node::{get, metric, test_server, ws_url};
use crate::support::redis::Redis;

/// A node within the test and its broker.
struct Site {
    server: TestServer,
    redis: Option<Redis>,
}

impl Site {
    /// On the embedded broker.
    async fn memory() -> Self {
        Self::ready(test_server(&[]), None).await
    }

    /// On a Redis of its own.
    async fn redis() -> Self {
        Self::with_prefix("").await
    }

    /// On a Redis of its own, where this stands before a room's name.
    async fn with_prefix(prefix: &str) -> Self {
        let redis = Redis::start().await;
        let variables = [
            ("REDIS_URL", redis.url()),
            ("ROOMCAST_REDIS_PREFIX", prefix.to_owned()),
        ];
        let server = test_server(&variables.each_ref().map(|(name, value)| (*name, value.as_str())));
        Self::ready(server, Some(redis)).await
    }

    async fn ready(server: TestServer, redis: Option<Redis>) -> Self {
        eventually("a node that is ready", async || {
            (get(&server.url("/readyz")).await.0 == 200).then_some(())
        })
        .await;
        Self { server, redis }
    }

    fn url(&self) -> String {
        ws_url(&self.server).trim_end_matches('/').to_owned()
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
