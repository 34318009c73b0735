//! Stopping: which signals there are, and the order in which a node ends.
//!
//! 1. The node says so: `/readyz` and upgrades answer 503; it goes on listening.
//! 2. Its sessions are closed with the signal's code, after what they are owed.
//! 3. When the last one is gone, or time is up, the HTTP server stops and [`run`](crate::run) returns.
//!
//! A second signal skips the wait.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::protocol::close::CloseCode;

/// How a node is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// In an orderly way, as a platform does before it starts the next version (SIGTERM).
    Drain,
    /// At once, as somebody at a keyboard does (SIGINT).
    Interrupt,
}

impl Stop {
    /// What the sessions are closed with.
    #[must_use]
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Drain => CloseCode::Restarting,
            Self::Interrupt => CloseCode::GoingAway,
        }
    }

    /// How long sessions may take to be told.
    #[must_use]
    pub fn patience(self) -> Duration {
        match self {
            Self::Drain => Duration::from_secs(2),
            Self::Interrupt => Duration::from_millis(500),
        }
    }
}

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
