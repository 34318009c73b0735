//! Handles to what a node has once: the registry and the way into the broker. Cloned into every HTTP worker.

use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix::prelude::{Actor, Addr, Arbiter, ArbiterHandle};
use tokio::sync::mpsc;

use super::WorkerId;
use super::registry::{AddWorker, RegistryLimits, RoomRegistry};
use super::retirement::Retirement;
use super::worker::{Order, Worker, WorkerLimits};
use crate::broker::{Broker, Publisher};
use crate::config::Config;
use crate::lifeline::Lifelines;
use crate::metrics::Metrics;
use crate::protocol::close::CloseCode;

/// The node's singletons.
#[derive(Clone)]
pub struct Hub {
    /// Membership.
    pub registry: Addr<RoomRegistry>,
    /// The way into the broker.
    pub publisher: Publisher,
    /// Ways to the workers that neither the registry nor a queue of deliveries stands in.
    orders: Arc<Mutex<Vec<mpsc::UnboundedSender<Order>>>>,
    metrics: Arc<Metrics>,
    worker_limits: WorkerLimits,
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
            orders: Arc::default(),
            metrics: metrics.clone(),
            worker_limits: WorkerLimits {
                heartbeat: config.heartbeat,
                max_backlog: config.max_backlog,
            },
            lifelines,
            _thread: Arc::new(HubThread(arbiter.handle())),
        }
    }

    /// Starts what a worker needs, on the current thread.
    #[must_use]
    pub fn add_worker(&self) -> Rc<Worker> {
        let (order_sender, orders) = mpsc::unbounded_channel();
        let id = {
            let mut all = self.orders();
            all.push(order_sender);
            WorkerId(u16::try_from(all.len() - 1).expect("workers are few"))
        };
        let queue = mpsc::unbounded_channel();
        self.registry.do_send(AddWorker(id, queue.0.clone()));
        let registry = self.registry.clone().recipient();
        let metrics = self.metrics.clone();
        Worker::start(
            id,
            (queue, orders),
            registry,
            metrics,
            self.worker_limits,
            &self.lifelines,
        )
    }

    /// Closes all sessions, one after another over this time.
    pub fn retire(&self, over: Duration) {
        let began = Instant::now();
        let workers = self.orders();
        for (index, worker) in workers.iter().enumerate() {
            let retirement = Retirement::new(began, over, index, workers.len());
            // Fails when the worker's thread has ended, and its sessions with it.
            let _ = worker.send(Order::Retire(retirement));
        }
    }

    /// Closes all sessions at once, and whoever comes still.
    pub fn close_all(&self, code: CloseCode) {
        for worker in self.orders().iter() {
            let _ = worker.send(Order::Close(code));
        }
    }

    #[cfg(test)]
    pub(crate) fn panic_in_sessions(&self) {
        for worker in self.orders().iter() {
            let _ = worker.send(Order::Panic);
        }
    }

    fn orders(&self) -> MutexGuard<'_, Vec<mpsc::UnboundedSender<Order>>> {
        // Nothing that could panic is done while it is held.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
