//! The shape, written plainly: the least that a server made of these parts can cost.
//!
//! A session is an actor of actix-web-actors, a registry actor on a thread of its own sends each message to the mailboxes
//! of the room's sessions. Nothing else is there: one dialect, no limits, no heartbeats, no history, no Redis, and whatever a
//! client sends that the generator does not is a panic. What this costs more than the floor is the price of the framework;
//! what the server costs more than this is its own.

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::{
    Actor, ActorContext, Addr, Arbiter, AsyncContext, Context, Handler, Message, Recipient, StreamHandler,
};
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, web};
use actix_web_actors::ws::{self, ProtocolError, WebsocketContext};
use bytestring::ByteString;
use serde::Deserialize;

use super::Outcome;

/// The hidden first argument that makes this binary a plain server.
pub(crate) const SUBCOMMAND: &str = "plain-process";

/// More than the generator has waiting.
const MAILBOX: usize = 1_000_000;

/// As many as the server starts by default on the machine that the figures are from.
const WORKERS: usize = 2;

static LAST_SESSION: AtomicUsize = AtomicUsize::new(0);

/// A message to a room that a session is in.
#[derive(Message)]
#[rtype(result = "()")]
struct Delivery(ByteString);

#[derive(Message)]
#[rtype(result = "()")]
enum Demand {
    Join(String, usize, Recipient<Delivery>),
    Leave(String, usize),
    Publish(String, ByteString),
    Ended(usize),
}

#[derive(Deserialize)]
struct Command {
    r#type: String,
    #[serde(alias = "roomId")]
    room: String,
    #[serde(default)]
    message: String,
}

#[derive(Default)]
struct Registry(HashMap<String, HashMap<usize, Recipient<Delivery>>>);

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Demand> for Registry {
    type Result = ();

    fn handle(&mut self, demand: Demand, _: &mut Self::Context) {
        match demand {
            Demand::Join(room, session, mailbox) => {
                self.0.entry(room).or_default().insert(session, mailbox);
            }
            Demand::Leave(room, session) => {
                if let Some(members) = self.0.get_mut(&room) {
                    members.remove(&session);
                }
            }
            Demand::Publish(room, text) => {
                for mailbox in self.0.get(&room).into_iter().flat_map(HashMap::values) {
                    mailbox.do_send(Delivery(text.clone()));
                }
            }
            Demand::Ended(session) => {
                for members in self.0.values_mut() {
                    members.remove(&session);
                }
            }
        }
    }
}

struct Session {
    number: usize,
    registry: Addr<Registry>,
}

impl Actor for Session {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.registry.do_send(Demand::Ended(self.number));
    }
}

impl Handler<Delivery> for Session {
    type Result = ();

    fn handle(&mut self, Delivery(text): Delivery, ctx: &mut Self::Context) {
        ctx.text(text);
    }
}

impl StreamHandler<Result<ws::Message, ProtocolError>> for Session {
    fn handle(&mut self, frame: Result<ws::Message, ProtocolError>, ctx: &mut Self::Context) {
        match frame {
            Ok(ws::Message::Text(text)) => {
                let Command {
                    r#type,
                    room,
                    message,
                } = serde_json::from_str(&text).expect("a command of the generator");
                self.registry.do_send(match &*r#type {
                    "SUBSCRIBE" => Demand::Join(room, self.number, ctx.address().recipient()),
                    "UNSUBSCRIBE" => Demand::Leave(room, self.number),
                    _ => Demand::Publish(room, message.into()),
                });
            }
            Ok(ws::Message::Ping(payload)) => ctx.pong(&payload),
            Ok(ws::Message::Close(reason)) => {
                ctx.close(reason);
                ctx.stop();
            }
            Ok(_) => {}
            Err(_) => ctx.stop(),
        }
    }
}

async fn upgrade(
    request: HttpRequest,
    body: web::Payload,
    registry: web::Data<Addr<Registry>>,
) -> Result<HttpResponse, Error> {
    let session = Session {
        number: LAST_SESSION.fetch_add(1, Ordering::Relaxed),
        registry: Addr::clone(&registry),
    };
    ws::start(session, &request, body)
}

/// Serves until standard input ends.
pub(crate) fn run() -> Outcome<()> {
    std::thread::spawn(|| {
        // Whatever it ends with: whoever started this has gone.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    rlimit::increase_nofile_limit(u64::MAX)?;
    actix::System::new().block_on(async {
        let thread = Arbiter::new();
        let registry = Registry::start_in_arbiter(&thread.handle(), |_| Registry::default());
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(registry.clone()))
                .default_service(web::get().to(upgrade))
        });
        let server = server.workers(WORKERS).bind(("127.0.0.1", 0))?;
        println!("plain on http://{}", server.addrs()[0]);
        server.run().await?;
        Ok(())
    })
}
