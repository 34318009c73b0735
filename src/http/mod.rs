//! The HTTP surface: routes, and what every request can reach.

mod api;
mod gate;
mod head;
pub mod ops;
pub mod pages;
pub mod server;
pub mod ws;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actix_web::guard;
use actix_web::web::{self, Data, ServiceConfig};
use tokio::sync::Semaphore;

pub(crate) use self::api::max_bodies;
use crate::broker::health::Health;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::rooms::hub::Hub;
use crate::tokens::Verifier;

/// What all workers share.
pub struct Node {
    /// Settings.
    pub config: Config,
    /// The node's name on the wire: new at each start, because its sessions are.
    pub name: Arc<str>,
    /// The singletons.
    pub hub: Hub,
    /// The process's numbers.
    pub metrics: Arc<Metrics>,
    /// How the broker is.
    pub health: Arc<Health>,
    /// Sessions that fit.
    pub capacity: Arc<Capacity>,
    /// Bytes that bodies of requests to the API may still take, all together.
    pub api_bodies: Semaphore,
    /// Checks tokens; `None` lets anybody in.
    pub verifier: Option<Arc<Verifier>>,
    /// Set once the node is stopping.
    pub draining: AtomicBool,
}

impl Node {
    /// Whether the node is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Counts open sessions against a limit.
#[derive(Debug)]
pub struct Capacity {
    max: usize,
    open: AtomicUsize,
}

/// A place for one session, given back when it is dropped. One beyond the limit exists only to be turned away.
#[derive(Debug)]
pub struct Place {
    capacity: Arc<Capacity>,
    /// Within the limit.
    pub fits: bool,
}

impl Capacity {
    /// Room for `max` sessions.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max,
            open: AtomicUsize::new(0),
        }
    }

    /// Takes a place.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Place {
        let fits = self.open.fetch_add(1, Ordering::AcqRel) < self.max;
        Place {
            capacity: self.clone(),
            fits,
        }
    }

    /// Sessions that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.capacity.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Routes of one worker. Runs on the worker's thread, and starts what the worker's sessions need there.
pub fn configure(app: &mut ServiceConfig, node: Data<Node>) {
    let worker = node.hub.add_worker();
    let upgrade = || web::route().guard(guard::fn_guard(ws::asks_for_upgrade));
    let conformance = node.config.conformance;
    app.app_data(node)
        .app_data(Rc::clone(&worker))
        .service(
            web::resource("/")
                .route(upgrade().to(ws::upgrade))
                .route(web::get().to(pages::page))
                .route(web::head().to(pages::page)),
        )
        .service(
            web::resource("/ws")
                .route(upgrade().to(ws::upgrade))
                .route(web::route().to(ws::upgrade_required)),
        )
        .configure(|app| {
            if conformance {
                let echo = web::resource("/echo");
                let echo = echo.route(upgrade().to(ws::echo));
                app.service(echo.route(web::route().to(ws::upgrade_required)));
            }
        })
        .service(web::resource(["/api", "/api/{path:.*}"]).route(web::route().to(api::serve)))
        .route("/healthz", web::get().to(ops::healthz))
        .route("/readyz", web::get().to(ops::readyz))
        .route("/metrics", web::get().to(ops::metrics))
        .route("/{file}", web::get().to(pages::file))
        .route("/{file}", web::head().to(pages::file));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_when_it_is_dropped() {
        let capacity = Arc::new(Capacity::new(1));
        let first = capacity.take();
        assert!(first.fits);
        let second = capacity.take();
        assert!(!second.fits);
        drop((first, second));
        assert!(capacity.take().fits);
        assert_eq!(capacity.open(), 0);
    }
}
