//! The connection that history is read on and presence is kept on. Both use it beside each other, on one thread.
//!
//! - It is opened when it is needed, by one of them for both.
//! - It is replaced when the subscribing one has been: whatever broke that one may have broken this one without a word.
//! - Who finds it broken gives it up by its number, so that nobody gives up what has been replaced already.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::info;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::Shared;
use super::backoff::Backoff;
use crate::metrics::labels;

/// See the module.
pub(super) struct Line {
    shared: Arc<Shared>,
    state: RefCell<State>,
    /// One dials, and the other waits for it.
    dialling: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    last_number: u64,
    backoff: Backoff,
}

/// What is sent on is a clone; when one of them finds it broken all are.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) commands: MultiplexedConnection,
    /// Which one it is: the first is 1.
    pub(super) number: u64,
    /// The subscribing connection that it was opened beside.
    link: u64,
}

impl Line {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            state: RefCell::default(),
            dialling: tokio::sync::Mutex::default(),
        }
    }

    /// The connection, dialled if there is none.
    pub(super) async fn connected(&self) -> RedisResult<Connection> {
        let _turn = self.dialling.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let link = self.link();
        let commands = self.shared.dial(labels::Connection::Reader).await?;
        info!("reading from redis");
        let mut state = self.state.borrow_mut();
        state.backoff.connected(Instant::now());
        state.last_number += 1;
        let number = state.last_number;
        let connection = Connection {
            commands,
            number,
            link,
        };
        Ok(state.connection.insert(connection).clone())
    }

    fn current(&self) -> Option<Connection> {
        let connection = self.state.borrow().connection.clone();
        connection.filter(|connection| connection.link == self.link())
    }

    fn link(&self) -> u64 {
        self.shared.link.load(Ordering::Relaxed)
    }

    /// The connection with this number is broken.
    pub(super) fn give_up(&self, number: u64) {
        let mut state = self.state.borrow_mut();
        if state
            .connection
            .as_ref()
            .is_some_and(|connection| connection.number == number)
        {
            state.connection = None;
            self.shared.metrics.redis_losses.inc(labels::Connection::Reader);
        }
    }

    /// How long to wait before it is tried again, after it was given up or could not be dialled.
    pub(super) fn pause(&self) -> Duration {
        self.state
            .borrow_mut()
            .backoff
            .next(Instant::now(), fastrand::f64())
    }
}
