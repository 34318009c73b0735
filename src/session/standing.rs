//! What a session may do, and for how long: nothing before it has shown a token, what its token allows afterwards, and
//! everything where no tokens are checked. Pure; time is an argument.
//!
//! - A command is judged when it arrives, and again when it begins: it may have waited in its lane while the token was
//!   renewed.
//! - A session that has shown no token puts nothing into a lane: its refusals keep no place and no memory.
//! - A renewal replaces rights and end. One that is refused changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::lanes::Step;
use super::reply::Refusal;
use crate::metrics::labels::TokenProblem;
use crate::protocol::client::{ClientFrame, Command, ProtocolError, Token};
use crate::protocol::error::ErrorCode;
use crate::protocol::{RoomName, excerpt};
use crate::rooms::Ticket;
use crate::tokens::{Grant, Rights, Verifier, unix_millis};

/// How long a session may be there without a token.
const TOKEN_PATIENCE: Duration = Duration::from_secs(10);

/// The standing of one session.
pub(super) struct Standing(State);

enum State {
    /// No tokens are checked.
    Free,
    /// Its token is awaited since then.
    Awaited(Arc<Verifier>, Instant),
    /// It has shown a good one.
    Granted(Arc<Verifier>, Grant),
}

/// What became of a token that was shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// It was refused.
    Refused {
        refusal: Refusal,
        /// What to count.
        problem: Option<TokenProblem>,
        /// The session ends with it.
        is_final: bool,
    },
    /// The session begins.
    Begins(Grant),
    /// The session goes on with this grant.
    Renewed(Grant),
}

impl Standing {
    /// Of a session that begins now: `verifier` where tokens are checked, `grant` if it has shown one.
    pub(super) fn new(verifier: Option<Arc<Verifier>>, grant: Option<Grant>, now: Instant) -> Self {
        Self(match (verifier, grant) {
            (None, _) => State::Free,
            (Some(verifier), None) => State::Awaited(verifier, now),
            (Some(verifier), Some(grant)) => State::Granted(verifier, grant),
        })
    }

    /// Whether its first token is awaited.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self.0, State::Awaited(..))
    }

    /// Lets a frame of the peer pass, or makes an error of it.
    pub(super) fn admit(
        &self,
        frame: Result<ClientFrame, ProtocolError>,
    ) -> Result<ClientFrame, ProtocolError> {
        let (id, room, refusal) = match (&self.0, frame) {
            (
                State::Awaited(..),
                Ok(ClientFrame {
                    id,
                    command:
                        Command::Subscribe { .. }
                        | Command::Unsubscribe { .. }
                        | Command::Publish { .. }
                        | Command::Members { .. }
                        | Command::Ping,
                }),
            ) => (id, None, awaits_token()),
            (State::Awaited(..), Err(error)) if error.code != ErrorCode::BadJson => {
                (error.id, None, awaits_token())
            }
            (State::Granted(_, grant), Ok(frame)) => {
                let refused = match &frame.command {
                    Command::Subscribe { room, .. } | Command::Members { room } => {
                        refuse_join(&grant.rights, room).map(|refusal| (room.clone(), refusal))
                    }
                    Command::Publish { room, .. } => {
                        refuse_publish(&grant.rights, room).map(|refusal| (room.clone(), refusal))
                    }
                    Command::Unsubscribe { .. } | Command::Authenticate { .. } | Command::Ping => None,
                };
                match refused {
                    None => return Ok(frame),
                    Some((room, refusal)) => (frame.id, Some(room), refusal),
                }
            }
            (_, frame) => return frame,
        };
        Err(ProtocolError {
            code: refusal.code,
            message: refusal.message,
            id,
            room,
        })
    }

    /// The answer to a command that is about to begin, if it may not any more.
    pub(super) fn forbids(&self, step: &Step) -> Option<(Ticket, Refusal)> {
        let State::Granted(_, grant) = &self.0 else {
            return None;
        };
        match step {
            Step::Join { ticket, room, .. } | Step::Members { ticket, room } => {
                Some((*ticket, refuse_join(&grant.rights, room)?))
            }
            Step::Publish { ticket, room, .. } => Some((*ticket, refuse_publish(&grant.rights, room)?)),
            Step::Leave { .. } | Step::Cancel { .. } | Step::Hurry { .. } | Step::Reply { .. } => None,
        }
    }

    /// Takes a token, the first one or another.
    pub(super) fn show(&mut self, token: &Token, now: SystemTime) -> Shown {
        let (verifier, earlier) = match &self.0 {
            State::Free => {
                let message = "this server checks no tokens; go on without AUTH";
                return Shown::Refused {
                    refusal: Refusal::new(ErrorCode::BadCommand, message),
                    problem: None,
                    is_final: false,
                };
            }
            State::Awaited(verifier, _) => (verifier, None),
            State::Granted(verifier, grant) => (verifier, Some(grant)),
        };
        let grant = match verifier.verify(token.reveal(), now) {
            Ok(grant) => grant,
            Err(error) => {
                return Shown::Refused {
                    refusal: Refusal::new(ErrorCode::Unauthorized, error.to_string()),
                    problem: Some(error.problem()),
                    is_final: earlier.is_none(),
                };
            }
        };
        if earlier.is_some_and(|earlier| earlier.user != grant.user) {
            let message =
                "a renewal is for the same user (sub) as the token before; connect anew to be another";
            return Shown::Refused {
                refusal: Refusal::new(ErrorCode::Forbidden, message),
                problem: Some(TokenProblem::OtherUser),
                is_final: false,
            };
        }
        let is_first = earlier.is_none();
        self.0 = State::Granted(verifier.clone(), grant.clone());
        if is_first {
            Shown::Begins(grant)
        } else {
            Shown::Renewed(grant)
        }
    }

    /// How long the session may go on; `None` if for ever.
    pub(super) fn time_left(&self, now: Instant, time: SystemTime) -> Option<Duration> {
        match &self.0 {
            State::Free => None,
            State::Awaited(_, since) => {
                Some(TOKEN_PATIENCE.saturating_sub(now.saturating_duration_since(*since)))
            }
            State::Granted(_, grant) => {
                let expires = grant.expires?;
                Some(Duration::from_millis(expires.saturating_sub(unix_millis(time))))
            }
        }
    }
}

fn awaits_token() -> Refusal {
    let message = "this server lets nobody in without a token; the first command is {\"type\":\"AUTH\",\"token\":\"…\"}";
    Refusal::new(ErrorCode::Unauthorized, message)
}

fn refuse_join(rights: &Rights, room: &RoomName) -> Option<Refusal> {
    (!rights.may_join(room.as_str())).then(|| {
        let shown = excerpt(room.as_str());
        let message = format!(
            "the token does not allow to join \"{shown}\"; its \"rooms\" would have to list that, or a prefix with *"
        );
        Refusal::new(ErrorCode::Forbidden, message)
    })
}

fn refuse_publish(rights: &Rights, room: &RoomName) -> Option<Refusal> {
    (!rights.may_publish(room.as_str())).then(|| {
        let shown = excerpt(room.as_str());
        let message = format!(
            "the token does not allow to publish to \"{shown}\"; its \"publish\" (without that, its \"rooms\") would \
             have to list it, or a prefix with *"
        );
        Refusal::new(ErrorCode::Forbidden, message)
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::Dialect;
    use crate::protocol::client::RequestId;
    use crate::tokens::signing::Signer;
    use crate::tokens::tests;

    const NOW: u64 = 1_800_000_000;

    fn time() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn token(claims: &Value) -> Token {
        Token::new(&Signer::secret("s").sign(claims))
    }

    fn verifier() -> Arc<Verifier> {
        Arc::new(tests::verifier(&[("ROOMCAST_JWT_SECRET", "s")]))
    }

    fn awaited() -> Standing {
        Standing::new(Some(verifier()), None, Instant::now())
    }

    fn granted(claims: &Value) -> Standing {
        let mut standing = awaited();
        let shown = standing.show(&token(claims), time());
        assert!(matches!(shown, Shown::Begins(_)), "{shown:?}");
        standing
    }

    /// What becomes of a frame: `None` if it passes, or else code and id, and whether it has a place in a lane.
    fn judged(standing: &Standing, frame: &Value) -> Option<(&'static str, Option<RequestId>, bool)> {
        let decoded = ClientFrame::decode(&frame.to_string(), Dialect::V1, 100);
        let error = standing.admit(decoded).err()?;
        assert!(error.message.len() < 300);
        Some((error.code.as_str(), error.id, error.room.is_some()))
    }

    fn frames() -> [Value; 5] {
        [
            json!({"type": "SUBSCRIBE", "id": 1, "room": "r"}),
            json!({"type": "UNSUBSCRIBE", "id": 1, "room": "r"}),
            json!({"type": "sendMessage", "id": 1, "room": "r", "message": "m"}),
            json!({"type": "MEMBERS", "id": 1, "room": "r"}),
            json!({"type": "PING", "id": 1}),
        ]
    }

    #[test]
    fn before_its_token_a_session_may_do_nothing() {
        let standing = awaited();
        for frame in frames() {
            let expected = Some(("unauthorized", Some(RequestId::Number(1)), false));
            assert_eq!(judged(&standing, &frame), expected, "{frame}");
        }
        for wrong in [
            json!({"type": "SUBSCRIBE", "room": ""}),
            json!({"type": "sendMessage", "room": "r", "message": "x".repeat(200)}),
            json!({"type": "AUTH"}),
            json!({"type": "other"}),
        ] {
            assert_eq!(
                judged(&standing, &wrong),
                Some(("unauthorized", None, false)),
                "{wrong}"
            );
        }
        assert_eq!(judged(&standing, &json!(5)), Some(("bad_json", None, false)));
        assert_eq!(judged(&standing, &json!({"type": "AUTH", "token": "x"})), None);
    }

    #[test]
    fn where_no_tokens_are_checked_everything_passes_but_a_token() {
        let mut standing = Standing::new(None, None, Instant::now());
        assert!(frames().iter().all(|frame| judged(&standing, frame).is_none()));
        assert_eq!(standing.time_left(Instant::now(), time()), None);
        let Shown::Refused {
            refusal,
            problem: None,
            is_final: false,
        } = standing.show(&token(&json!({})), time())
        else {
            panic!("it is refused")
        };
        assert_eq!(refusal.code, ErrorCode::BadCommand);
    }

    #[test]
    fn each_command_needs_its_right() {
        for (claims, allowed) in [
            (json!({}), [true, true, true, true, true]),
            (json!({"rooms": ["r"]}), [true, true, true, true, true]),
            (
                json!({"rooms": ["r*"], "publish": []}),
                [true, true, false, true, true],
            ),
            (
                json!({"rooms": [], "publish": ["*"]}),
                [false, true, true, false, true],
            ),
            (json!({"rooms": ["q"]}), [false, true, false, false, true]),
        ] {
            let standing = granted(&claims);
            for (frame, allowed) in frames().iter().zip(allowed) {
                let expected = (!allowed).then_some(("forbidden", Some(RequestId::Number(1)), true));
                assert_eq!(judged(&standing, frame), expected, "{claims} {frame}");
            }
        }
    }

    #[test]
    fn what_has_waited_is_judged_again() {
        let mut standing = granted(&json!({}));
        let room = RoomName::new("r").expect("valid");
        let join = Step::Join {
            ticket: 4,
            room: room.clone(),
            replay: crate::protocol::Replay::default(),
            presence: None,
        };
        let publish = Step::Publish {
            ticket: 5,
            room: room.clone(),
            content: crate::protocol::Content::text("m"),
            key: None,
            since: Instant::now(),
        };
        let leave = Step::Leave { ticket: 6, room };
        let forbidden = |standing: &Standing| {
            [&join, &publish, &leave].map(|step| {
                standing
                    .forbids(step)
                    .map(|(ticket, refusal)| (ticket, refusal.code))
            })
        };
        assert_eq!(forbidden(&standing), [None, None, None]);
        assert!(matches!(
            standing.show(&token(&json!({"rooms": ["q"]})), time()),
            Shown::Renewed(_)
        ));
        let expected = [
            Some((4, ErrorCode::Forbidden)),
            Some((5, ErrorCode::Forbidden)),
            None,
        ];
        assert_eq!(forbidden(&standing), expected);
    }

    #[test]
    fn a_bad_token_is_final_only_as_the_first_one() {
        let bad = Token::new("bad");
        let refused = |shown: Shown| match shown {
            Shown::Refused {
                refusal,
                problem,
                is_final,
            } => (refusal.code, problem, is_final),
            other => panic!("{other:?}"),
        };
        let expected = (ErrorCode::Unauthorized, Some(TokenProblem::Malformed), true);
        assert_eq!(refused(awaited().show(&bad, time())), expected);
        let mut standing = granted(&json!({"exp": NOW + 10, "rooms": ["q"]}));
        let expected = (ErrorCode::Unauthorized, Some(TokenProblem::Malformed), false);
        assert_eq!(refused(standing.show(&bad, time())), expected);
        // The old grant stays.
        assert_eq!(
            standing.time_left(Instant::now(), time()),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            judged(&standing, &frames()[0]).map(|(code, ..)| code),
            Some("forbidden")
        );
    }

    #[test]
    fn a_renewal_is_for_the_same_user() {
        for (first, second) in [
            (json!({"sub": "a"}), json!({"sub": "b"})),
            (json!({"sub": "a"}), json!({})),
            (json!({}), json!({"sub": "a"})),
        ] {
            let mut standing = granted(&first);
            let shown = standing.show(&token(&second), time());
            let Shown::Refused {
                refusal,
                problem: Some(TokenProblem::OtherUser),
                is_final: false,
            } = shown
            else {
                panic!("{first} {second}: {shown:?}")
            };
            assert_eq!(refusal.code, ErrorCode::Forbidden);
            assert!(matches!(standing.show(&token(&first), time()), Shown::Renewed(_)));
        }
    }

    #[test]
    fn time_runs_out_for_a_token_and_for_its_absence() {
        let start = Instant::now();
        let standing = Standing::new(Some(verifier()), None, start);
        let left = |seconds| standing.time_left(start + Duration::from_secs(seconds), time());
        assert_eq!(
            (left(4), left(10), left(11)),
            (
                Some(Duration::from_secs(6)),
                Some(Duration::ZERO),
                Some(Duration::ZERO)
            )
        );
        let mut standing = granted(&json!({"exp": NOW + 5}));
        let left =
            |standing: &Standing, seconds| standing.time_left(start, time() + Duration::from_secs(seconds));
        assert_eq!(left(&standing, 2), Some(Duration::from_secs(3)));
        assert_eq!(
            (left(&standing, 5), left(&standing, 600)),
            (Some(Duration::ZERO), Some(Duration::ZERO))
        );
        let _ = standing.show(&token(&json!({"exp": NOW + 50})), time());
        assert_eq!(left(&standing, 2), Some(Duration::from_secs(48)));
        let _ = standing.show(&token(&json!({})), time());
        assert_eq!(left(&standing, 2), None);
    }
}
