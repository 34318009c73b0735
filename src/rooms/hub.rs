//! Handles to what a node has once: the registry and the way into the broker. Cloned into every HTTP worker.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::{Actor, Addr, Arbiter, ArbiterHandle};
use tokio::sync::mpsc;

use super::registry::{AddWorker, Announce, RegistryLimits, Retire, RoomRegistry};
use super::worker::Worker;
use super::{Notice, WorkerId};
use crate::broker::{Broker, Publisher};
use crate::config::Config;
use crate::lifeline::Lifelines;
use crate::metrics::Metrics;

/// The node's singletons.
#[derive(Clone)]
pub struct Hub {
    /// Membership.
    pub registry: Addr<RoomRegistry>,
    /// The way into the broker.
    pub publisher: Publisher,
    next_worker: Arc<AtomicU16>,
    metrics: Arc<Metrics>,
    heartbeat: Duration,
    lifelines: Lifelines,
    _thread: Arc<HubThread>,
}

/// The arbiter of the registry and the broker; it ends with the last handle.
struct HubThread(ArbiterHandle);

impl Drop for HubThread {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Hub {
    /// Starts the registry, and with it the broker, on an arbiter of their own.
    #[must_use]
    pub fn start(broker: Broker, config: &Config, metrics: &Arc<Metrics>, lifelines: Lifelines) -> Self {
        let publisher = broker.publisher();
        let limits = RegistryLimits {
            max_rooms: config.max_rooms,
            max_backlog: config.max_backlog,
            retention: config.retention,
        };
        let registry_metrics = metrics.clone();
        let arbiter = Arbiter::new();
        let registry_lifelines = lifelines.clone();
        let registry = RoomRegistry::start_in_arbiter(&arbiter.handle(), move |_| {
            let lifeline = registry_lifelines.hold("the room registry");
            let start_link = Box::new(move |events| broker.start(events, &registry_lifelines));
            RoomRegistry::new(start_link, limits, registry_metrics, lifeline)
        });
        Self {
            registry,
            publisher,
            next_worker: Arc::new(AtomicU16::new(0)),
            metrics: metrics.clone(),
            heartbeat: config.heartbeat,
            lifelines,
            _thread: Arc::new(HubThread(arbiter.handle())),
        }
    }

    /// Starts what a worker needs, on the current thread.
    #[must_use]
    pub fn add_worker(&self) -> Rc<Worker> {
        let id = WorkerId(self.next_worker.fetch_add(1, Ordering::Relaxed));
        let queue = mpsc::unbounded_channel();
        self.registry.do_send(AddWorker(id, queue.0.clone()));
        let registry = self.registry.clone().recipient();
        let metrics = self.metrics.clone();
        Worker::start(id, queue, registry, metrics, self.heartbeat, &self.lifelines)
    }

    /// Closes all sessions, one after another over this time.
    pub fn retire(&self, over: Duration) {
        self.registry.do_send(Retire {
            began: Instant::now(),
            over,
        });
    }

    /// Tells every session of the node.
    pub fn announce(&self, notice: Notice) {
        self.registry.do_send(Announce(notice));
    }
}
