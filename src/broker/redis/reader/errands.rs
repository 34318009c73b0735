//! What goes out on the reading connection beside reads: seldom, and not worth a connection of its own.
//!
//! Each errand may be carried out twice without harm, so one that is lost with the connection is sent again until
//! [`PATIENCE`] ends. One that has waited longer is not begun: whoever asked has been told by then that it was not done.

use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{RedisReader, is_passing};
use crate::broker::control::Demand;
use crate::broker::history::{Numbering, ReadError};
use crate::broker::redis::control::{Asked, Control};
use crate::broker::redis::hearing::Place;
use crate::broker::redis::scripts::{KeptDemands, Script, Scripts, demands};
use crate::broker::redis::{call, call_script, within};
use crate::protocol::{Position, RoomName};

/// How long Redis may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long an errand is tried for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something to be done, and since when it is to be.
#[derive(Debug)]
pub(in crate::broker::redis) struct Errand {
    since: Instant,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Forget {
        room: RoomName,
        reply: oneshot::Sender<Result<Position, String>>,
    },
    Demand {
        control: Control,
        heard: oneshot::Sender<Result<u64, String>>,
    },
    Tell {
        channel: String,
        control: Control,
    },
    Missed {
        from: Place,
        reply: oneshot::Sender<Result<Kept, ReadError>>,
    },
}

/// A demand that was kept.
#[derive(Debug)]
pub(in crate::broker::redis) struct Missed {
    pub(in crate::broker::redis) demand: Demand,
    /// When it was made. `None` if that was before the machine started.
    pub(in crate::broker::redis) made: Option<Instant>,
}

/// What was kept.
#[derive(Debug)]
pub(in crate::broker::redis) struct Kept {
    /// In order. `None` is what is none of ours to understand.
    pub(in crate::broker::redis) page: Vec<(Place, Option<Missed>)>,
    /// Nothing follows.
    pub(in crate::broker::redis) is_last: bool,
}

/// Demands that are read at once.
const MAX_MISSED: usize = 100;

impl Errand {
    /// Delete a room's messages and begin another numbering.
    pub(in crate::broker::redis) fn forget(
        room: RoomName,
        reply: oneshot::Sender<Result<Position, String>>,
    ) -> Self {
        Self::new(Kind::Forget { room, reply })
    }

    /// Make a demand of all nodes. Answered by how many of them have heard it.
    pub(in crate::broker::redis) fn demand(
        control: Control,
        heard: oneshot::Sender<Result<u64, String>>,
    ) -> Self {
        Self::new(Kind::Demand { control, heard })
    }

    /// Publish on an internal channel.
    pub(in crate::broker::redis) fn tell(channel: String, control: Control) -> Self {
        Self::new(Kind::Tell { channel, control })
    }

    /// Read the demands from this place on.
    pub(in crate::broker::redis) fn missed(
        from: Place,
        reply: oneshot::Sender<Result<Kept, ReadError>>,
    ) -> Self {
        Self::new(Kind::Missed { from, reply })
    }

    fn new(kind: Kind) -> Self {
        Self {
            since: Instant::now(),
            kind,
        }
    }
}

impl RedisReader {
    pub(super) async fn run_errand(&mut self, Errand { since, kind }: Errand) {
        let deadline = since + PATIENCE;
        let scripts = &self.shared.scripts;
        // Who has asked may not wait any more, whatever it was: then an answer goes nowhere.
        match kind {
            Kind::Forget { room, reply } => {
                // Chosen once, so that a second call knows the first one's work.
                let numbering = Numbering::fresh();
                let told = Control::Forgotten { room: room.clone() }.encode();
                let channel = &self.shared.control_channel;
                let commands = alone(scripts.forget(&room, &numbering, channel, &told));
                let done = self
                    .send(&commands, Some(|scripts| &scripts.forget), deadline)
                    .await;
                let place = done.map(|_| numbering.position(0));
                let _ = reply.send(place.map_err(|error| error.to_string()));
            }
            Kind::Demand { control, heard } => {
                let commands = alone(scripts.demand(&self.shared.control_channel, &control.encode()));
                let replies = self
                    .send(&commands, Some(|scripts| &scripts.demand), deadline)
                    .await;
                let count = replies.and_then(|mut replies| {
                    let reply = replies.pop().unwrap_or(Value::Nil);
                    redis::from_redis_value::<u64>(reply).map_err(RedisError::from)
                });
                let _ = heard.send(count.map_err(|error| error.to_string()));
            }
            Kind::Tell { channel, control } => {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(channel).arg(control.encode());
                // Lost, it is missed by a node that gives up waiting for it.
                let _ = self.send(&alone(publish), None, deadline).await;
            }
            Kind::Missed { from, reply } => {
                let commands = scripts.missed(from, MAX_MISSED);
                let replies = self.send(&commands, None, deadline).await;
                let missed = replies.and_then(demands).map(|(demands, redis_now)| Kept {
                    is_last: demands.len() < MAX_MISSED,
                    page: understood(demands, redis_now, Instant::now()),
                });
                let _ = reply.send(missed.map_err(|error| {
                    let problem = error.to_string();
                    let may_pass = error.is_io_error() || error.is_connection_dropped() || is_passing(&error);
                    if may_pass {
                        ReadError::Away(problem)
                    } else {
                        ReadError::Refused(problem)
                    }
                }));
            }
        }
    }

    /// Sends commands, which may call a script, until there is an answer to all of them.
    async fn send(
        &mut self,
        commands: &Pipeline,
        script: Option<fn(&Scripts) -> &Script>,
        deadline: Instant,
    ) -> RedisResult<Vec<Value>> {
        if Instant::now() >= deadline {
            let problem = "the connection to redis was busy or away";
            return Err(RedisError::from(std::io::Error::other(problem)));
        }
        let replies = loop {
            match self.try_send(commands, script).await {
                Err(error) => {
                    self.lost(&error);
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                    sleep(self.line.pause()).await;
                }
                Ok(replies) => break replies,
            }
        };
        for reply in &replies {
            if let Value::ServerError(error) = reply {
                let error = RedisError::from(error.clone());
                if error.code() == Some("READONLY") {
                    // This server has become a replica: its master is elsewhere.
                    self.line.give_up(self.number);
                }
                return Err(error);
            }
        }
        Ok(replies)
    }

    async fn try_send(
        &mut self,
        commands: &Pipeline,
        script: Option<fn(&Scripts) -> &Script>,
    ) -> RedisResult<Vec<Value>> {
        let mut connection = self.line.connected().await?;
        self.number = connection.number;
        let sent = async {
            match script {
                Some(script) => {
                    call_script(&mut connection.commands, commands, script(&self.shared.scripts)).await
                }
                None => call(&mut connection.commands, commands).await,
            }
        };
        within(ANSWER_TIMEOUT, "an errand", sent).await
    }
}

fn alone(command: Cmd) -> Pipeline {
    let mut commands = Pipeline::with_capacity(1);
    commands.add_command(command);
    commands
}

/// `redis_now` is Redis's time in milliseconds, which is `now` here.
fn understood(kept: KeptDemands, redis_now: u64, now: Instant) -> Vec<(Place, Option<Missed>)> {
    let understand = |(place, payload): (Place, Vec<u8>)| {
        let missed = match Control::decode(&payload) {
            Ok(Control::Demand(Asked { demand, .. })) => {
                let age = Duration::from_millis(redis_now.saturating_sub(place.millis));
                let made = now.checked_sub(age);
                Some(Missed { demand, made })
            }
            // Anybody may write there.
            _ => None,
        };
        (place, missed)
    };
    kept.into_iter().map(understand).collect()
}
