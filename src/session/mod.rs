//! One WebSocket: what its peer sends becomes commands, what its rooms tell becomes frames.
//!
//! [`actor`] is the session, [`seat`] what the handshake gives it. Around it stand the streams of its connection, `inbound` (framing, sizes, pace) and
//! `outbound` (pieces, progress), with `outbox` between the session and that. `joiner` makes one message of its fragments, `lanes` keeps the order of its commands,
//! `rate` counts them, `standing` says what the peer may do, `replay` holds back what is live while the past is told, `reply` words the answers.

pub mod actor;
mod framing;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod inbound;
mod joiner;
mod lanes;
mod outbound;
mod outbox;
mod rate;
mod replay;
mod reply;
pub mod seat;
mod standing;
