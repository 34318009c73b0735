//! What nodes tell each other on internal channels, and who waits for whom. Pure.
//!
//! - Every node hears the **control channel**, on which a demand is made, and a channel of its own, on which the nodes that
//!   have met one of its demands say so.
//! - Redis tells how many connections heard a demand. It is met when as many nodes have said so, the asking one among them:
//!   without its own link that one would not hear what it asks for.
//! - A node whose link is away does not hear it. Demands are kept for such a node, which carries out what it has missed before
//!   it hears anything else ([`hearing`](super::hearing)).
//! - Anybody may publish here. What has another form is dropped.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::hearing::Place;
use super::payload::PayloadError;
use crate::broker::control::Demand;
use crate::protocol::{RoomName, user_name};

/// The longest payload, in bytes: every character of a room and a user escaped.
const MAX_BYTES: usize = 4 * 1024;

/// The longest name of a node, in bytes.
const MAX_NODE_BYTES: usize = 64;

/// Answers that are kept of one demand; there are not so many nodes.
const MAX_ANSWERS: usize = 10_000;

/// What the channels carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// Meet this, and tell `from`.
    Demand(Asked),
    /// The demand with this id of the node that hears it is met by `from`.
    Met { id: u64, from: String, sessions: u64 },
    /// The room's history was deleted.
    Forgotten { room: RoomName },
}

/// A demand as nodes hear it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Chosen by the node that asks.
    pub(super) id: u64,
    /// That node.
    pub(super) from: String,
    pub(super) demand: Demand,
    /// Where it is kept. Not known to the asking node, and not to be read in what is kept: there Redis says it.
    pub(super) at: Option<Place>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
enum Wire {
    Disconnect {
        id: u64,
        from: String,
        user: String,
        #[serde(skip_serializing)]
        at: Option<String>,
    },
    Remove {
        id: u64,
        from: String,
        user: String,
        room: String,
        #[serde(skip_serializing)]
        at: Option<String>,
    },
    Met {
        id: u64,
        from: String,
        sessions: u64,
    },
    Forgotten {
        room: String,
    },
}

impl Control {
    pub(super) fn encode(self) -> String {
        let wire = match self {
            Self::Demand(Asked { id, from, demand, .. }) => match demand {
                Demand::Disconnect { user } => Wire::Disconnect {
                    id,
                    from,
                    user: user.to_string(),
                    at: None,
                },
                Demand::Remove { user, room } => Wire::Remove {
                    id,
                    from,
                    user: user.to_string(),
                    room: room.to_string(),
                    at: None,
                },
            },
            Self::Met { id, from, sessions } => Wire::Met { id, from, sessions },
            Self::Forgotten { room } => Wire::Forgotten {
                room: room.to_string(),
            },
        };
        serde_json::to_string(&wire).expect("strings and numbers always serialize")
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        if payload.len() > MAX_BYTES {
            return Err(PayloadError::TooLarge);
        }
        let wire = serde_json::from_slice(payload).map_err(|_| PayloadError::Malformed)?;
        Self::checked(wire).ok_or(PayloadError::Malformed)
    }

    fn checked(wire: Wire) -> Option<Self> {
        let room = |name: String| RoomName::new(&name).ok();
        let is_node =
            |name: &str| (1..=MAX_NODE_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
        let node = |name: String| is_node(&name).then_some(name);
        let asked = |id, from, demand, at: Option<String>| {
            Some(Self::Demand(Asked {
                id,
                from: node(from)?,
                demand,
                at: at.map(|at| at.parse()).transpose().ok()?,
            }))
        };
        Some(match wire {
            Wire::Disconnect { id, from, user, at } => {
                let user = user_name(&user)?;
                asked(id, from, Demand::Disconnect { user }, at)?
            }
            Wire::Remove {
                id,
                from,
                user,
                room: name,
                at,
            } => {
                let (user, room) = (user_name(&user)?, room(name)?);
                asked(id, from, Demand::Remove { user, room }, at)?
            }
            Wire::Met { id, from, sessions } => Self::Met {
                id,
                from: node(from)?,
                sessions,
            },
            Wire::Forgotten { room: name } => Self::Forgotten { room: room(name)? },
        })
    }
}

/// Who waits to hear that a demand is met everywhere: the sessions that it was done to, or why that is not known.
pub(super) type MetReply = oneshot::Sender<Result<u64, String>>;

/// This node's demands that are not met yet.
#[derive(Debug)]
pub(super) struct Demands {
    node: Arc<str>,
    last_id: u64,
    open: HashMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    /// How many have heard it, once Redis has said so.
    heard: Option<u64>,
    /// By node: how many sessions.
    met: HashMap<String, u64>,
    reply: MetReply,
}

impl Demands {
    pub(super) fn new(node: Arc<str>) -> Self {
        Self {
            node,
            last_id: 0,
            open: HashMap::new(),
        }
    }

    /// A demand is about to be made. Its id.
    pub(super) fn open(&mut self, reply: MetReply) -> u64 {
        self.last_id += 1;
        let open = Open {
            heard: None,
            met: HashMap::new(),
            reply,
        };
        self.open.insert(self.last_id, open);
        self.last_id
    }

    /// So many connections have heard it.
    pub(super) fn heard(&mut self, id: u64, by: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            open.heard = Some(by);
        }
        self.settle(id);
    }

    /// A node has met it.
    pub(super) fn met(&mut self, id: u64, node: String, sessions: u64) {
        if let Some(open) = self.open.get_mut(&id)
            && open.met.len() < MAX_ANSWERS
        {
            // A demand that was made twice, because the first answer of Redis was lost, finds nobody the second time.
            let known = open.met.entry(node).or_default();
            *known = (*known).max(sessions);
        }
        self.settle(id);
    }

    fn settle(&mut self, id: u64) {
        let is_met = self.open.get(&id).is_some_and(|open| {
            let heard = open.heard.is_some_and(|heard| open.met.len() as u64 >= heard);
            heard && open.met.contains_key(&*self.node)
        });
        if is_met && let Some(Open { met, reply, .. }) = self.open.remove(&id) {
            let sessions = met.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
            // Fails when nobody waits any more.
            let _ = reply.send(Ok(sessions));
        }
    }

    /// It has not been met in time, if it is still open.
    pub(super) fn give_up(&mut self, id: u64) {
        if let Some(Open { heard, met, reply }) = self.open.remove(&id) {
            let of = heard.map_or_else(|| "an unknown number of".to_owned(), |heard| heard.to_string());
            let problem = format!("{} of {of} nodes have confirmed it in time", met.len());
            let _ = reply.send(Err(problem));
        }
    }

    /// It could not be made.
    pub(super) fn fail(&mut self, id: u64, problem: String) {
        if let Some(Open { reply, .. }) = self.open.remove(&id) {
            let _ = reply.send(Err(problem));
        }
    }

    /// The link is lost, and with it what nodes may have said.
    pub(super) fn fail_all(&mut self, problem: &str) {
        for (_, Open { reply, .. }) in self.open.drain() {
            let _ = reply.send(Err(problem.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> RoomName {
        RoomName::new("r\"1").expect("a valid name")
    }

    fn asked(id: u64, from: String, demand: Demand) -> Control {
        Control::Demand(Asked {
            id,
            from,
            demand,
            at: None,
        })
    }

    #[test]
    fn the_place_that_redis_adds_is_read() {
        let payload = r#"{"what":"disconnect","id":1,"from":"a","user":"ann","at":"1764000000000-2"}"#;
        let Ok(Control::Demand(Asked { at, .. })) = Control::decode(payload.as_bytes()) else {
            panic!("a demand");
        };
        assert_eq!(at, "1764000000000-2".parse().ok());
    }

    #[test]
    fn what_is_written_is_read() {
        let from = || "8fab".to_owned();
        let removal = Demand::Remove {
            user: "\u{2028}\"".into(),
            room: room(),
        };
        for control in [
            asked(1, from(), Demand::Disconnect { user: "ann".into() }),
            asked(u64::MAX, from(), removal),
            Control::Met {
                id: 1,
                from: from(),
                sessions: 2,
            },
            Control::Forgotten { room: room() },
        ] {
            assert_eq!(Control::decode(control.clone().encode().as_bytes()), Ok(control));
        }
    }

    #[test]
    fn what_breaks_a_rule_is_dropped() {
        for payload in [
            "",
            "{}",
            r#"{"what":"forgotten","room":""}"#,
            r#"{"what":"disconnect","id":1,"from":"a","user":""}"#,
            r#"{"what":"disconnect","id":1,"from":"","user":"ann"}"#,
            r#"{"what":"disconnect","id":1,"from":"a\n","user":"ann"}"#,
            r#"{"what":"disconnect","id":-1,"from":"a","user":"ann"}"#,
            r#"{"what":"disconnect","id":1,"from":"a","user":"ann","at":"1"}"#,
            r#"{"what":"remove","id":1,"from":"a","user":"ann","room":"a\u0001"}"#,
            r#"{"what":"explode"}"#,
        ] {
            assert_eq!(
                Control::decode(payload.as_bytes()),
                Err(PayloadError::Malformed),
                "{payload}"
            );
        }
        let long = format!(
            r#"{{"what":"forgotten","room":"r","x":"{}"}}"#,
            "x".repeat(MAX_BYTES)
        );
        assert_eq!(Control::decode(long.as_bytes()), Err(PayloadError::TooLarge));
    }

    #[test]
    fn the_longest_names_fit() {
        let demand = Demand::Remove {
            user: "\\".repeat(crate::protocol::MAX_USER_BYTES).into(),
            room: RoomName::new(&"\"".repeat(crate::protocol::MAX_ROOM_NAME_BYTES)).expect("valid"),
        };
        let control = asked(u64::MAX, "x".repeat(MAX_NODE_BYTES), demand);
        assert_eq!(Control::decode(control.clone().encode().as_bytes()), Ok(control));
    }

    #[test]
    fn a_demand_is_met_when_all_who_heard_it_have_said_so_in_whatever_order() {
        let mut demands = Demands::new("own".into());
        let (reply, mut answer) = oneshot::channel();
        let id = demands.open(reply);
        demands.met(id, "other".to_owned(), 2);
        demands.heard(id, 2);
        demands.met(id, "other".to_owned(), 0);
        assert!(answer.try_recv().is_err());
        demands.met(id + 1, "own".to_owned(), 9);
        assert!(answer.try_recv().is_err());
        demands.met(id, "own".to_owned(), 1);
        assert_eq!(answer.try_recv(), Ok(Ok(3)));
    }

    #[test]
    fn it_is_not_met_without_the_asking_node() {
        let mut demands = Demands::new("own".into());
        let (reply, mut answer) = oneshot::channel();
        let id = demands.open(reply);
        demands.heard(id, 1);
        demands.met(id, "other".to_owned(), 2);
        assert!(answer.try_recv().is_err());
        demands.give_up(id);
        let problem = answer.try_recv().expect("an answer").expect_err("not met");
        assert!(problem.starts_with("1 of 1"), "{problem}");
    }
}
