//! Somebody who has nothing to do with what goes on, and notices if it makes the node slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::node::Node;
use super::raw::{Raw, command};

/// The longest that a bystander may wait for an answer, in a debug build on a busy machine.
pub(crate) const QUICKLY: Duration = Duration::from_millis(500);

/// Somebody in a room of its own who asks and publishes again and again, on a thread of its own.
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Duration>>,
}

impl Bystander {
    /// Begins to ask and to publish.
    pub(crate) fn start(node: &Node) -> Self {
        Self::begin(node, true)
    }

    /// Begins to ask alone, which needs no broker.
    pub(crate) fn asking(node: &Node) -> Self {
        Self::begin(node, false)
    }

    fn begin(node: &Node, publishes: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (address, stopped) = (node.address().to_owned(), stop.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime
                .expect("a runtime")
                .block_on(Self::ask(&address, publishes, &stopped))
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// The longest that an answer took.
    async fn ask(address: &str, publishes: bool, stopped: &AtomicBool) -> Duration {
        let mut raw = Raw::v1(address).await;
        let mut expected = vec!["pong"];
        if publishes {
            raw.send(&command(&json!({"type": "SUBSCRIBE", "room": "elsewhere"})))
                .await;
            assert_eq!(raw.json().await["type"], "subscribed");
            expected = vec!["message", "pong", "sent"];
        }
        let mut longest = Duration::ZERO;
        for n in 0.. {
            let asked = Instant::now();
            raw.send(&command(&json!({"type": "PING", "id": n}))).await;
            if publishes {
                raw.send(&command(
                    &json!({"type": "sendMessage", "room": "elsewhere", "message": n}),
                ))
                .await;
            }
            let mut kinds = Vec::new();
            for _ in &expected {
                kinds.push(raw.json().await["type"].clone());
            }
            kinds.sort_by_key(ToString::to_string);
            assert_eq!(kinds, expected);
            longest = longest.max(asked.elapsed());
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        longest
    }

    /// Checks that no answer has taken longer.
    pub(crate) fn assert_was_served_within(mut self, most: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("joined once");
        let longest = thread.join().expect("a bystander that was served");
        println!("the bystander waited {longest:?} at most");
        assert!(longest < most, "the bystander had to wait for {longest:?}");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
