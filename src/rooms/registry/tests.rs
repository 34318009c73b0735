//! Who is told what, and in which order: the registry between a stub of the link and a stub of a worker.

use actix::prelude::{Addr, Recipient};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::broker::RoomMessage;
use crate::broker::history::{Entry, Numbering, Page, ReadError, ReadOutcome};
use crate::lifeline::{Ends, Lifelines};
use crate::protocol::{Content, Epoch, Position, Replay};
use crate::rooms::{Abort, Disconnect, Join, Leave, Narrow};
use crate::tokens::Rights;

mod demands;

const WORKER: WorkerId = WorkerId(0);

/// A link that does nothing but write down what it is told.
struct StubLink(mpsc::UnboundedSender<LinkCommand>);

impl Actor for StubLink {
    type Context = Context<Self>;
}

impl Handler<LinkCommand> for StubLink {
    type Result = ();

    fn handle(&mut self, command: LinkCommand, _: &mut Self::Context) {
        self.0.send(command).expect("the test listens");
    }
}

fn numbering() -> Numbering {
    Numbering::new(Epoch::new("k"), "secret")
}

fn message(room: &RoomName, text: &'static str) -> RoomMessage {
    RoomMessage {
        room: room.clone(),
        content: Content::text(text),
        sender: None,
        session: None,
        time: None,
    }
}

/// A registry with a stub on either side.
struct Stage {
    registry: Addr<RoomRegistry>,
    commands: mpsc::UnboundedReceiver<LinkCommand>,
    dispatches: mpsc::UnboundedReceiver<Dispatch>,
    _ends: Ends,
}

impl Stage {
    fn new() -> Self {
        Self::start(false)
    }

    fn start(with_history: bool) -> Self {
        let (command_log, commands) = mpsc::unbounded_channel();
        let (dispatch_queue, dispatches) = mpsc::unbounded_channel();
        let (lifelines, ends) = Lifelines::new();
        let limits = RegistryLimits {
            max_rooms: 2,
            max_backlog: 1_000_000,
            retention: Retention {
                size: if with_history { 1_000 } else { 0 },
                ttl: Duration::from_secs(300),
                key_ttl: Duration::from_secs(300),
            },
        };
        let link: Recipient<LinkCommand> = StubLink(command_log).start().recipient();
        let registry = RoomRegistry::new(
            Box::new(move |_| link),
            limits,
            Arc::default(),
            lifelines.hold("the registry"),
        )
        .start();
        registry.do_send(AddWorker(WORKER, dispatch_queue));
        Self {
            registry,
            commands,
            dispatches,
            _ends: ends,
        }
    }

    /// With a link, and with these sessions as members of the room.
    async fn with_members(room: &RoomName, members: &[SessionId]) -> Self {
        let mut stage = Self::new();
        stage.registry.do_send(LinkEvent::Up { generation: 1 });
        for session in members {
            stage.join(*session, room, Dialect::V1);
        }
        stage.command().await;
        stage.opened(1, room);
        for _ in members {
            stage.dispatch().await;
        }
        stage
    }

    fn join(&self, session: SessionId, room: &RoomName, dialect: Dialect) {
        self.registry.do_send(Join {
            session,
            room: room.clone(),
            ticket: 7,
            dialect,
            replay: Replay::default(),
            presence: None,
        });
    }

    fn leave(&self, session: SessionId, room: &RoomName) {
        self.registry.do_send(Leave {
            session,
            room: room.clone(),
            ticket: 8,
        });
    }

    fn opened(&self, generation: u64, room: &RoomName) {
        self.registry.do_send(LinkEvent::Opened {
            generation,
            kind: ChannelKind::Messages,
            rooms: vec![room.clone()],
        });
    }

    fn message(&self, room: &RoomName, text: &'static str) {
        self.arrive(Arrival::unnumbered(message(room, text)));
    }

    fn arrive(&self, arrival: Arrival) {
        let arrivals = vec![arrival];
        let transit = Transit::begin(&arrivals, &Metrics::default());
        self.registry.do_send(LinkEvent::Messages(arrivals, transit));
    }

    /// The reads that the registry has asked for.
    async fn reads(&mut self) -> Vec<ReadRequest> {
        let command = timeout(Duration::from_secs(5), self.commands.recv())
            .await
            .expect("a command in time");
        match command.expect("the link lives") {
            LinkCommand::Read(requests) => requests,
            other => panic!("another command: {other:?}"),
        }
    }

    fn answer(&self, request: &ReadRequest, top: u64, offsets: impl IntoIterator<Item = u64>) {
        let entry = |offset| Entry {
            offset,
            message: message(&request.room, "old"),
        };
        let page = Page {
            numbering: numbering(),
            top,
            entries: offsets.into_iter().map(entry).collect(),
        };
        self.registry.do_send(LinkEvent::Read(vec![ReadOutcome {
            id: request.id,
            room: request.room.clone(),
            page: Ok(page),
        }]));
    }

    async fn command(&mut self) -> String {
        let command = timeout(Duration::from_secs(5), self.commands.recv())
            .await
            .expect("a command in time");
        match command.expect("the link lives") {
            LinkCommand::Subscribe {
                generation, rooms, ..
            } => format!("subscribe {generation} {rooms:?}"),
            LinkCommand::Unsubscribe {
                generation, rooms, ..
            } => {
                format!("unsubscribe {generation} {rooms:?}")
            }
            LinkCommand::Read(requests) => format!("read {requests:?}"),
            LinkCommand::Forget { room, .. } => format!("forget {room:?}"),
            LinkCommand::Demand { demand, .. } => format!("demand {demand:?}"),
            LinkCommand::Presence(orders) => format!("presence {orders:?}"),
            LinkCommand::Panic => "panic".to_owned(),
        }
    }

    async fn dispatch(&mut self) -> String {
        let dispatch = timeout(Duration::from_secs(5), self.dispatches.recv())
            .await
            .expect("a dispatch in time");
        match dispatch.expect("the registry lives") {
            Dispatch::One(session, Notice::Joined(ticket, admission)) => {
                let at = admission.position.map(|position| position.offset);
                let replayed = admission.replay.events.len();
                match (at, admission.recovered) {
                    (None, None) => format!("{session} Joined({ticket})"),
                    (at, recovered) => {
                        format!(
                            "{session} Joined({ticket}) at {at:?} recovered {recovered:?} replayed {replayed}"
                        )
                    }
                }
            }
            Dispatch::One(session, notice) => format!("{session} {notice:?}"),
            Dispatch::Search(search) => format!("search {} closes {}", search.user, search.closes),
            Dispatch::Room { members, events, .. } => {
                let frames: Vec<_> = events
                    .iter()
                    .filter_map(|event| Some(event.frame(Dialect::V1)?.text()))
                    .collect();
                format!("{members:?} {frames:?}")
            }
        }
    }

    /// Whatever was sent before has been handled when this returns, and nobody was told anything.
    async fn assert_nobody_told(&mut self) {
        self.handled().await;
        assert!(self.dispatches.try_recv().is_err());
    }

    /// Whatever was sent before has been handled when this returns, and nothing was asked of the link.
    async fn assert_not_yet(&mut self) {
        self.handled().await;
        assert!(self.commands.try_recv().is_err());
    }

    async fn handled(&self) {
        self.registry
            .send(Abort {
                session: session(99),
                room: room("none"),
                ticket: 0,
                reason: NotJoined::Cancelled,
                only_without_link: false,
            })
            .await
            .expect("the registry lives");
    }
}

fn room(name: &str) -> RoomName {
    RoomName::new(name).expect("a valid name")
}

fn session(serial: u64) -> SessionId {
    SessionId::new(WORKER, serial)
}

#[actix::test]
async fn a_session_is_told_that_it_joined_once_the_broker_has_confirmed_and_before_any_message() {
    let (mut stage, r) = (Stage::new(), room("r"));
    stage.registry.do_send(LinkEvent::Up { generation: 1 });
    stage.join(session(1), &r, Dialect::V1);
    assert_eq!(stage.command().await, r#"subscribe 1 ["r"]"#);
    stage.message(&r, "too early");
    stage.assert_nobody_told().await;
    stage.opened(1, &r);
    stage.message(&r, "hi");
    assert_eq!(stage.dispatch().await, "0-1 Joined(7)");
    assert!(stage.dispatch().await.contains(r#"\"message\":\"hi\""#));
}

#[actix::test]
async fn the_last_one_out_unsubscribes_and_nothing_of_the_room_follows() {
    let r = room("r");
    let mut stage = Stage::with_members(&r, &[session(1), session(2)]).await;
    stage.leave(session(1), &r);
    assert_eq!(stage.dispatch().await, "0-1 Left(8)");
    stage.leave(session(2), &r);
    stage.message(&r, "too late");
    assert_eq!(stage.dispatch().await, "0-2 Left(8)");
    assert_eq!(stage.command().await, r#"unsubscribe 1 ["r"]"#);
    stage.assert_nobody_told().await;
}

#[actix::test]
async fn one_who_comes_as_the_last_one_leaves_is_let_in_at_once() {
    let r = room("r");
    let mut stage = Stage::with_members(&r, &[session(1)]).await;
    stage.leave(session(1), &r);
    stage.join(session(2), &r, Dialect::V1);
    assert_eq!(stage.dispatch().await, "0-1 Left(8)");
    assert_eq!(stage.dispatch().await, "0-2 Joined(7)");
    stage.assert_nobody_told().await;
    assert!(
        stage.commands.try_recv().is_err(),
        "the two cancel each other out"
    );
}

#[actix::test]
async fn after_a_loss_members_are_told_of_a_gap_and_newcomers_are_not() {
    let r = room("r");
    let mut stage = Stage::with_members(&r, &[session(1)]).await;
    stage.registry.do_send(LinkEvent::Down);
    stage.join(session(2), &r, Dialect::V1);
    stage.registry.do_send(LinkEvent::Up { generation: 2 });
    assert_eq!(stage.command().await, r#"subscribe 2 ["r"]"#);
    stage.opened(1, &r);
    stage.assert_nobody_told().await;
    stage.opened(2, &r);
    let gap = stage.dispatch().await;
    assert!(
        gap.starts_with("[SessionId(0-1)]") && gap.contains("gap"),
        "{gap}"
    );
    assert_eq!(stage.dispatch().await, "0-2 Joined(7)");
}

#[actix::test]
async fn a_plain_session_does_not_wait_for_a_link_and_is_a_member_when_it_is_back() {
    let (mut stage, r) = (Stage::new(), room("r"));
    stage.join(session(1), &r, Dialect::Plain);
    assert_eq!(stage.dispatch().await, "0-1 Deferred(7)");
    stage.registry.do_send(LinkEvent::Up { generation: 1 });
    stage.command().await;
    stage.opened(1, &r);
    stage.message(&r, "hi");
    assert!(stage.dispatch().await.starts_with("[SessionId(0-1)]"));
}

#[actix::test]
async fn a_session_that_is_gone_leaves_its_rooms() {
    let r = room("r");
    let mut stage = Stage::with_members(&r, &[session(1)]).await;
    stage.registry.do_send(Disconnect { session: session(1) });
    assert_eq!(stage.command().await, r#"unsubscribe 1 ["r"]"#);
}

/// What is left of a session's rights: these rooms.
fn narrow(session: SessionId, rooms: &[&str]) -> Narrow {
    let rights = Rights::new(Some(rooms.iter().copied()), None::<[&str; 0]>);
    Narrow {
        session,
        rights: Arc::new(rights),
    }
}

#[actix::test]
async fn a_session_leaves_the_rooms_that_its_rights_do_not_cover_any_more() {
    let (a, b) = (room("a"), room("b"));
    let mut stage = Stage::with_members(&a, &[session(1), session(2)]).await;
    stage.join(session(1), &b, Dialect::V1);
    assert_eq!(stage.command().await, r#"subscribe 1 ["b"]"#);
    stage.opened(1, &b);
    assert_eq!(stage.dispatch().await, "0-1 Joined(7)");
    stage.registry.do_send(narrow(session(1), &["b*"]));
    stage.message(&a, "to the other");
    assert_eq!(stage.dispatch().await, r#"0-1 Removed("a")"#);
    let told = stage.dispatch().await;
    assert!(told.starts_with("[SessionId(0-2)]"), "{told}");
    stage.assert_not_yet().await;
    // The last one out, as by its own wish.
    stage.registry.do_send(narrow(session(1), &[]));
    assert_eq!(stage.dispatch().await, r#"0-1 Removed("b")"#);
    assert_eq!(stage.command().await, r#"unsubscribe 1 ["b"]"#);
    stage.registry.do_send(narrow(session(1), &[]));
    stage.assert_nobody_told().await;
}

#[actix::test]
async fn a_join_that_waits_and_is_not_allowed_any_more_is_answered_once() {
    let r = room("r");
    let mut stage = Stage::new();
    stage.registry.do_send(LinkEvent::Up { generation: 1 });
    stage.join(session(1), &r, Dialect::V1);
    assert_eq!(stage.command().await, r#"subscribe 1 ["r"]"#);
    stage.registry.do_send(narrow(session(1), &["q"]));
    stage.registry.do_send(Abort {
        session: session(1),
        room: r.clone(),
        ticket: 7,
        reason: NotJoined::Cancelled,
        only_without_link: false,
    });
    stage.opened(1, &r);
    assert_eq!(stage.dispatch().await, "0-1 NotJoined(7, Forbidden)");
    assert_eq!(stage.command().await, r#"unsubscribe 1 ["r"]"#);
    stage.message(&r, "nobody's");
    stage.assert_nobody_told().await;
}

#[actix::test]
async fn a_refused_room_disappoints_those_who_wait() {
    let (mut stage, r) = (Stage::new(), room("r"));
    stage.registry.do_send(LinkEvent::Up { generation: 1 });
    stage.join(session(1), &r, Dialect::V1);
    stage.command().await;
    stage.registry.do_send(LinkEvent::Refused {
        generation: 1,
        kind: ChannelKind::Messages,
        room: r,
        reason: "no".to_owned(),
    });
    assert_eq!(stage.dispatch().await, r#"0-1 NotJoined(7, Unavailable("no"))"#);
}

#[actix::test]
async fn a_session_in_as_many_rooms_as_it_may_be_is_told_so() {
    let mut stage = Stage::with_members(&room("a"), &[session(1)]).await;
    stage.join(session(1), &room("b"), Dialect::V1);
    stage.join(session(1), &room("c"), Dialect::V1);
    assert_eq!(stage.dispatch().await, "0-1 NotJoined(7, RoomLimit(2))");
}

/// A registry with history and these members, of a room at offset 5.
async fn at_offset_5(room: &RoomName, members: &[SessionId]) -> Stage {
    let mut stage = Stage::start(true);
    stage.registry.do_send(LinkEvent::Up { generation: 1 });
    for session in members {
        stage.join(*session, room, Dialect::V1);
    }
    stage.command().await;
    stage.opened(1, room);
    let reads = stage.reads().await;
    assert_eq!((reads.len(), reads[0].after), (1, None));
    stage.answer(&reads[0], 5, []);
    for _ in members {
        let joined = stage.dispatch().await;
        assert!(
            joined.contains("at Some(5) recovered None replayed 0"),
            "{joined}"
        );
    }
    stage
}

fn numbered(room: &RoomName, offset: u64) -> Arrival {
    Arrival {
        message: message(room, "new"),
        claim: Some(numbering().claim(offset)),
    }
}

#[actix::test]
async fn with_history_a_membership_begins_where_the_room_is_once_it_is_live() {
    let r = room("r");
    let mut stage = at_offset_5(&r, &[session(1)]).await;
    stage.arrive(numbered(&r, 6));
    assert!(stage.dispatch().await.contains(r#"\"offset\":6"#));
    // The registry knows where the room is: who comes now waits for nothing.
    stage.join(session(2), &r, Dialect::V1);
    assert_eq!(
        stage.dispatch().await,
        "0-2 Joined(7) at Some(6) recovered None replayed 0"
    );
    assert!(stage.commands.try_recv().is_err());
}

#[actix::test]
async fn after_a_loss_all_rooms_are_read_at_once_and_filled_before_newcomers_are_let_in() {
    let r = room("r");
    let mut stage = at_offset_5(&r, &[session(1)]).await;
    let other = room("other");
    stage.join(session(1), &other, Dialect::V1);
    stage.command().await;
    stage.opened(1, &other);
    let reads = stage.reads().await;
    stage.answer(&reads[0], 0, []);
    stage.dispatch().await;
    stage.registry.do_send(LinkEvent::Down);
    stage.registry.do_send(LinkEvent::Up { generation: 2 });
    stage.command().await;
    stage.registry.do_send(LinkEvent::Opened {
        generation: 2,
        kind: ChannelKind::Messages,
        rooms: vec![r.clone(), other.clone()],
    });
    stage.join(session(2), &r, Dialect::V1);
    stage.arrive(numbered(&r, 8));
    let reads = stage.reads().await;
    assert_eq!(reads.len(), 2);
    stage.assert_nobody_told().await;
    let read = reads.iter().find(|read| read.room == r).expect("it was read");
    assert_eq!(read.after, Some(5));
    stage.answer(read, 7, 6..=7);
    let told = stage.dispatch().await;
    for offset in 6..=8 {
        assert!(told.contains(&format!(r#"\"offset\":{offset}"#)), "{told}");
    }
    assert_eq!(
        stage.dispatch().await,
        "0-2 Joined(7) at Some(8) recovered None replayed 0"
    );
}

#[actix::test]
async fn many_who_come_back_share_one_read() {
    let r = room("r");
    let mut stage = at_offset_5(&r, &[session(1)]).await;
    for serial in 2..=100 {
        stage.registry.do_send(Join {
            session: session(serial),
            room: r.clone(),
            ticket: 7,
            dialect: Dialect::V1,
            replay: Replay {
                after: Some(Position {
                    offset: 2,
                    epoch: Epoch::new("k"),
                }),
                last: 0,
            },
            presence: None,
        });
    }
    let reads = stage.reads().await;
    assert_eq!((reads.len(), reads[0].after), (1, Some(2)));
    stage.answer(&reads[0], 5, 3..=5);
    for serial in 2..=100 {
        assert_eq!(
            stage.dispatch().await,
            format!("0-{serial} Joined(7) at Some(5) recovered Some(true) replayed 3")
        );
    }
    assert!(stage.commands.try_recv().is_err());
}

#[actix::test]
async fn a_read_that_finds_the_broker_away_is_tried_again() {
    let r = room("r");
    let mut stage = Stage::start(true);
    stage.registry.do_send(LinkEvent::Up { generation: 1 });
    stage.join(session(1), &r, Dialect::V1);
    stage.command().await;
    stage.opened(1, &r);
    let reads = stage.reads().await;
    stage.registry.do_send(LinkEvent::Read(vec![ReadOutcome {
        id: reads[0].id,
        room: r.clone(),
        page: Err(ReadError::Away("no".to_owned())),
    }]));
    let reads = stage.reads().await;
    stage.answer(&reads[0], 0, []);
    assert_eq!(
        stage.dispatch().await,
        "0-1 Joined(7) at Some(0) recovered None replayed 0"
    );
}

#[actix::test]
async fn the_next_page_for_the_members_waits_until_they_have_written_the_last_one() {
    let r = room("r");
    let mut stage = at_offset_5(&r, &[session(1)]).await;
    stage.arrive(numbered(&r, 9));
    let reads = stage.reads().await;
    stage.answer(&reads[0], 9, 6..=7);
    stage.assert_not_yet().await;
    assert!(stage.dispatch().await.contains(r#"\"offset\":7"#));
    let reads = stage.reads().await;
    assert_eq!(reads[0].after, Some(7));
    stage.answer(&reads[0], 9, 8..=9);
    assert!(stage.dispatch().await.contains(r#"\"offset\":9"#));
}

#[actix::test]
async fn a_room_that_was_left_is_not_read_again_before_its_first_read_is_answered() {
    let (mut stage, r) = (Stage::start(true), room("r"));
    stage.registry.do_send(LinkEvent::Up { generation: 1 });
    stage.join(session(1), &r, Dialect::V1);
    stage.command().await;
    stage.opened(1, &r);
    let first = stage.reads().await;
    for _ in 0..3 {
        stage.leave(session(1), &r);
        stage.join(session(1), &r, Dialect::V1);
        assert_eq!(stage.dispatch().await, "0-1 Left(8)");
        stage.assert_not_yet().await;
    }
    // It was read before this membership began, so it does not say where that begins.
    stage.answer(&first[0], 4, []);
    let second = stage.reads().await;
    stage.assert_nobody_told().await;
    stage.answer(&second[0], 5, []);
    let told = stage.dispatch().await;
    assert_eq!(told, "0-1 Joined(7) at Some(5) recovered None replayed 0");
}
