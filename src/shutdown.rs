//! Stopping: which signals there are, and the order in which a node ends.
//!
//! 1. The node says so: `/readyz` and upgrades answer 503; it goes on listening.
//! 2. SIGTERM: its `roomcast.v1` sessions are told when each will be closed, and all are closed with 1012, one after
//!    another over the drain time, after what they are owed. They are served until then, so a client that connects
//!    elsewhere first misses nothing. SIGINT: all are closed with 1001 at once.
//! 3. When the last one is gone, or time is up, the HTTP server stops and [`run`](crate::run) returns.
//!
//! A second signal skips the wait.

use std::time::Duration;

use tokio::sync::mpsc;

/// How a node is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// In an orderly way, as a platform does before it starts the next version (SIGTERM).
    Drain,
    /// At once, as somebody at a keyboard does (SIGINT).
    Interrupt,
}

/// After the drain time: for the last sessions to be answered what they have asked, and to read it.
pub const DRAIN_GRACE: Duration = Duration::from_millis(3_500);

/// How long the broker may take to hear that the last sessions are not listed as members any more.
pub const UNLIST_PATIENCE: Duration = Duration::from_millis(250);

/// How long interrupted sessions may take to be told.
pub const INTERRUPT_PATIENCE: Duration = Duration::from_millis(400);

/// Requests to stop, one for each signal that the process receives. Must be called within a runtime.
///
/// # Errors
/// If the system does not let the process listen to signals.
pub fn signals() -> std::io::Result<mpsc::UnboundedReceiver<Stop>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        actix::spawn(async move {
            loop {
                let stop = tokio::select! {
                    _ = terminate.recv() => Stop::Drain,
                    _ = interrupt.recv() => Stop::Interrupt,
                };
                if sender.send(stop).is_err() {
                    return;
                }
            }
        });
    }
    #[cfg(not(unix))]
    actix::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() && sender.send(Stop::Interrupt).is_ok() {}
    });
    Ok(receiver)
}
