//! What a mistake of ours costs: a session that panics is closed, a part of the node that panics ends the node. Over
//! real sockets; the panics are triggered from within.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::rt::task::JoinHandle;
use awc::ws::{Frame, Message};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::time::timeout;

use super::*;
use crate::rooms::registry;

const PATIENCE: Duration = Duration::from_secs(10);

/// A node on a port that the system gave out.
struct Running {
    node: Data<Node>,
    address: SocketAddr,
    end: JoinHandle<Result<(), RunError>>,
    stops: mpsc::UnboundedSender<Stop>,
}

impl Running {
    fn start(variables: &[(&str, &str)]) -> Self {
        let lookup = |name: &str| {
            let variable = variables.iter().find(|(variable, _)| *variable == name);
            variable.map(|(_, value)| value.into())
        };
        let config = Config::load(["roomcast"], &lookup);
        let assembled = assemble(config.expect("good settings")).expect("a broker");
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (stops_sender, stops) = mpsc::unbounded_channel();
        let node = assembled.node.clone();
        let end = actix::spawn(serve(assembled, listener, stops, |_| {}));
        Self {
            node,
            address,
            end,
            stops: stops_sender,
        }
    }

    async fn connect(&self) -> impl Stream<Item = Frame> + Sink<Message> + Unpin + use<> {
        let url = format!("http://{}/ws", self.address);
        let (_, socket) = awc::Client::new()
            .ws(url)
            .connect()
            .await
            .expect("a handshake that is accepted");
        socket.map(|frame| frame.expect("a good frame"))
    }
}

async fn next<T>(socket: &mut (impl Stream<Item = T> + Unpin)) -> Option<T> {
    timeout(PATIENCE, socket.next()).await.expect("something in time")
}

fn command(kind: &str) -> Message {
    Message::Text(format!(r#"{{"type":"{kind}","room":"r","message":"hi"}}"#).into())
}

#[actix::test]
async fn a_session_that_panics_is_closed_with_1011_and_the_node_goes_on() {
    let running = Running::start(&[]);
    let mut doomed = running.connect().await;
    assert!(doomed.send(command("SUBSCRIBE")).await.is_ok());
    assert!(doomed.send(command("sendMessage")).await.is_ok());
    assert!(matches!(next(&mut doomed).await, Some(Frame::Text(text)) if text == "hi"));
    running.node.hub.panic_in_sessions();
    let Some(Frame::Close(Some(reason))) = next(&mut doomed).await else {
        panic!("it is told that it ends")
    };
    assert_eq!(u16::from(reason.code), 1011);
    assert!(next(&mut doomed).await.is_none(), "nothing follows");
    drop(doomed);

    let mut other = running.connect().await;
    assert!(other.send(command("SUBSCRIBE")).await.is_ok());
    assert!(other.send(command("sendMessage")).await.is_ok());
    assert!(matches!(next(&mut other).await, Some(Frame::Text(text)) if text == "hi"));
    let metrics = &running.node.metrics;
    assert_eq!(metrics.session_panics.get(), 1);
    assert_eq!((metrics.sessions.get(), running.node.capacity.open()), (1, 1));
    assert!(!running.end.is_finished());
}

#[actix::test]
async fn the_panic_of_a_part_ends_the_node_and_says_so() {
    // Nobody listens on port 1; the subscriber is there all the same.
    let on_redis = &[("REDIS_URL", "redis://127.0.0.1:1")];
    for (variables, panic, part, stops) in [
        (&[][..], registry::Panic::Here, "the room registry", false),
        (&[], registry::Panic::InTheLink, "the embedded broker", false),
        (
            on_redis,
            registry::Panic::InTheLink,
            "the subscriber of redis",
            false,
        ),
        // While it stops, too.
        (&[], registry::Panic::Here, "the room registry", true),
    ] {
        let running = Running::start(variables);
        let mut client = running.connect().await;
        if stops {
            running.stops.send(Stop::Drain).expect("it runs");
            while !running.node.is_draining() {
                tokio::task::yield_now().await;
            }
        }
        running.node.hub.registry.do_send(panic);
        let end = timeout(PATIENCE, running.end).await.expect("an end in time");
        let error = end
            .expect("the node itself did not panic")
            .expect_err("it had to end");
        assert_eq!(
            error.to_string(),
            format!("{part} died; the node cannot go on without it, and ends so that it can be started anew")
        );
        assert!(next(&mut client).await.is_none());
    }
}
