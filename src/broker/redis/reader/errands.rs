//! What goes out on the reading connection beside reads: seldom, and not worth a connection of its own.
//!
//! Each errand may be carried out twice without harm, so one that is lost with the connection is sent again until
//! [`PATIENCE`] ends. One that has waited longer is not begun: whoever asked has been told by then that it was not done.

use std::time::{Duration, Instant};

use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::RedisReader;
use crate::broker::history::Numbering;
use crate::broker::redis::control::Control;
use crate::broker::redis::{call_script, within};
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
    Tell {
        channel: String,
        control: Control,
        heard: oneshot::Sender<Result<u64, String>>,
    },
}

impl Errand {
    /// Delete a room's messages and begin another numbering.
    pub(in crate::broker::redis) fn forget(
        room: RoomName,
        reply: oneshot::Sender<Result<Position, String>>,
    ) -> Self {
        Self::new(Kind::Forget { room, reply })
    }

    /// Publish on an internal channel. Answered by how many connections have heard it.
    pub(in crate::broker::redis) fn tell(
        channel: String,
        control: Control,
        heard: oneshot::Sender<Result<u64, String>>,
    ) -> Self {
        Self::new(Kind::Tell {
            channel,
            control,
            heard,
        })
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
        match kind {
            Kind::Forget { room, reply } => {
                // Chosen once, so that a second call knows the first one's work.
                let numbering = Numbering::fresh();
                let mut commands = Pipeline::new();
                let told = Control::Forgotten { room: room.clone() }.encode();
                let channel = &self.shared.control_channel;
                commands.add_command(self.shared.scripts.forget(&room, &numbering, channel, &told));
                let done = self.send(&commands, deadline).await;
                let place = done.map(|_| numbering.position(0));
                // Fails when nobody waits any more.
                let _ = reply.send(place.map_err(|error| error.to_string()));
            }
            Kind::Tell {
                channel,
                control,
                heard,
            } => {
                let mut commands = Pipeline::new();
                commands.cmd("PUBLISH").arg(channel).arg(control.encode());
                let reply = self.send(&commands, deadline).await;
                let count =
                    reply.and_then(|reply| redis::from_redis_value::<u64>(reply).map_err(RedisError::from));
                let _ = heard.send(count.map_err(|error| error.to_string()));
            }
        }
    }

    async fn send(&mut self, commands: &Pipeline, deadline: Instant) -> RedisResult<Value> {
        if Instant::now() >= deadline {
            let problem = "the connection to redis was busy or away";
            return Err(RedisError::from(std::io::Error::other(problem)));
        }
        loop {
            match self.try_send(commands).await {
                Err(error) => {
                    self.lost(&error);
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                    sleep(self.line.pause()).await;
                }
                Ok(Value::ServerError(error)) => {
                    let error = RedisError::from(error);
                    if error.code() == Some("READONLY") {
                        // This server has become a replica: its master is elsewhere.
                        self.line.give_up(self.number);
                    }
                    return Err(error);
                }
                Ok(reply) => return Ok(reply),
            }
        }
    }

    async fn try_send(&mut self, commands: &Pipeline) -> RedisResult<Value> {
        let mut connection = self.line.connected().await?;
        self.number = connection.number;
        let sent = call_script(&mut connection.commands, commands, &self.shared.scripts.forget);
        let reply = within(ANSWER_TIMEOUT, "an errand", sent).await?.pop();
        reply.ok_or_else(|| RedisError::from(std::io::Error::other("a reply is missing")))
    }
}
