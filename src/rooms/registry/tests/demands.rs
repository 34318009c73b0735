//! What is demanded of sessions: when it is met, and what a closed one may still do.

use tokio::sync::oneshot;

use super::*;
use crate::broker::control::{Demand, Done};
use crate::rooms::registry::demands::Found;

/// Makes a demand. What it is met with comes through the channel.
fn demand(stage: &Stage, demand: Demand) -> oneshot::Receiver<u64> {
    let (met, answer) = oneshot::channel();
    let done = Done::new(move |sessions| met.send(sessions).expect("the test listens"));
    stage.registry.do_send(LinkEvent::Demanded {
        demand,
        before: None,
        done,
    });
    answer
}

fn found(stage: &Stage, id: u64, sessions: &[SessionId]) {
    let sessions = sessions.to_vec();
    stage.registry.do_send(Found { id, sessions });
}

#[actix::test]
async fn a_closed_session_is_out_before_the_answer_and_does_not_come_in_again() {
    let r = room("r");
    let mut stage = Stage::with_members(&r, &[session(1)]).await;
    let mut met = demand(&stage, Demand::Disconnect { user: "ann".into() });
    assert_eq!(stage.dispatch().await, "search ann closes true");
    assert!(met.try_recv().is_err());
    found(&stage, 1, &[session(1)]);
    assert_eq!(met.await, Ok(1));
    assert_eq!(stage.command().await, r#"unsubscribe 1 ["r"]"#);
    // Its last command was on its way.
    stage.join(session(1), &r, Dialect::V1);
    assert_eq!(stage.dispatch().await, "0-1 NotJoined(7, Forbidden)");
    stage.registry.do_send(Disconnect { session: session(1) });
    stage.join(session(2), &r, Dialect::V1);
    stage.registry.do_send(LinkEvent::Closed {
        generation: 1,
        kind: ChannelKind::Messages,
        rooms: vec![r.clone()],
    });
    assert_eq!(stage.command().await, r#"subscribe 1 ["r"]"#);
}

#[actix::test]
async fn those_who_are_in_the_room_leave_it_and_are_counted() {
    let r = room("r");
    let mut stage = Stage::with_members(&r, &[session(1), session(2)]).await;
    let remove = Demand::Remove {
        user: "ann".into(),
        room: r.clone(),
    };
    let met = demand(&stage, remove.clone());
    assert_eq!(stage.dispatch().await, "search ann closes false");
    found(&stage, 1, &[session(1), session(3)]);
    assert_eq!(stage.dispatch().await, r#"0-1 Removed("r")"#);
    assert_eq!(met.await, Ok(1));
    stage.message(&r, "hi");
    assert!(stage.dispatch().await.starts_with("[SessionId(0-2)]"));
    // An answer to another question changes nothing.
    let mut met = demand(&stage, remove);
    found(&stage, 9, &[session(2)]);
    assert_eq!(stage.dispatch().await, "search ann closes false");
    assert!(met.try_recv().is_err());
    found(&stage, 2, &[]);
    assert_eq!(met.await, Ok(0));
}

#[actix::test]
async fn every_worker_is_waited_for() {
    let mut stage = Stage::new();
    let (queue, mut second) = mpsc::unbounded_channel();
    stage.registry.do_send(AddWorker(WorkerId(1), queue));
    let mut met = demand(&stage, Demand::Disconnect { user: "ann".into() });
    stage.dispatch().await;
    assert!(matches!(second.recv().await, Some(Dispatch::Search(_))));
    found(&stage, 1, &[session(1)]);
    stage.assert_not_yet().await;
    assert!(met.try_recv().is_err());
    found(&stage, 1, &[SessionId::new(WorkerId(1), 1)]);
    assert_eq!(met.await, Ok(2));
}
