//! Presence on Redis: lists this node's sessions, keeps its lease beating, and takes dead nodes' sessions off the lists.
//!
//! ```text
//! roomcast:{P room}:presence   who is in a room: session -> lease and user
//! roomcast:{P}:leases          every node's lease -> its beat
//! roomcast:{P}:lease:<lease>   what stands under a lease: "session room", and the number of its last batch
//! P U+0001 presence:room       the channel that tells of changes
//! ```
//!
//! - One task does one thing at a time: a batch of changes, reads that wait together, a look at the leases, a part of a
//!   dead node's entries. Orders are taken meanwhile, and reduced to what is wanted ([`register`]).
//! - Nothing is tried while the link is down; the registry's reads tell when it is back.
//! - A node without members has no lease, and only looks.
//! - [`watch`] decides who is dead, [`wire`] is what travels.

mod register;
mod watch;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::Recipient;
use log::{debug, info, warn};
use redis::{Pipeline, RedisResult, Value};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use self::register::{Batch, BatchLimit, Register};
use self::watch::{LOOK_INTERVAL, Watch};
pub(super) use self::wire::decode;
use self::wire::{Applied, Kept};
use super::line::{Connection, Line};
use super::{Shared, call, call_script, within};
use crate::broker::LinkEvent;
use crate::broker::presence::{Order, Report};
use crate::protocol::RoomName;
use crate::throttle::Throttle;

/// Changes in one batch.
const BATCH: BatchLimit = BatchLimit {
    entries: 500,
    bytes: 128 * 1024,
};

/// Reads that go out together.
const MAX_READS: usize = 64;

/// Rooms that are renewed before the lease is again.
const MAX_ROOMS_BETWEEN: usize = 1_000;

/// How long Redis may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A list that was asked for longer ago is waited for by nobody.
const LIST_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether the link is back while something has to be done.
const LINK_INTERVAL: Duration = Duration::from_millis(100);

/// The least time between two batches that are not full: who comes meanwhile comes in one batch.
const BATCH_INTERVAL: Duration = Duration::from_millis(8);

/// See the module.
pub(super) struct RedisPresence {
    shared: Arc<Shared>,
    line: Rc<Line>,
    orders: mpsc::UnboundedReceiver<Vec<Order>>,
    events: Recipient<LinkEvent>,
    register: Register,
    watch: Watch,
    next_look: Instant,
    next_batch: Instant,
    /// The last task was a batch.
    applied_last: bool,
    /// The connection that was used last.
    number: u64,
    /// Nothing is tried before, since something failed.
    pause: Option<Instant>,
    /// Rosters to read, each for the last one who asked.
    rosters: HashMap<RoomName, u64>,
    /// Lists to read, oldest first.
    lists: VecDeque<(Instant, RoomName, u64)>,
    /// Leases to take away, with the beats with which they were found dead; ours without.
    dead: VecDeque<(Arc<str>, Option<String>)>,
    /// Keys to renew, one with each look.
    renewals: Vec<Kept>,
    log: Throttle,
}

/// What is done next.
enum Task {
    Begin(Arc<str>),
    Apply(Batch),
    Read(Vec<(RoomName, u64)>, Vec<(RoomName, u64)>),
    Look(Option<Kept>),
    Reap(Arc<str>, Option<String>),
}

impl RedisPresence {
    pub(super) fn new(
        shared: Arc<Shared>,
        line: Rc<Line>,
        orders: mpsc::UnboundedReceiver<Vec<Order>>,
        events: Recipient<LinkEvent>,
    ) -> Self {
        Self {
            shared,
            line,
            orders,
            events,
            register: Register::default(),
            watch: Watch::default(),
            next_look: Instant::now() + LOOK_INTERVAL.mul_f64(fastrand::f64()),
            next_batch: Instant::now(),
            applied_last: false,
            number: 0,
            pause: None,
            rosters: HashMap::new(),
            lists: VecDeque::new(),
            dead: VecDeque::new(),
            renewals: Vec::new(),
            log: Throttle::per_second(1),
        }
    }

    /// Runs until the subscriber is gone.
    pub(super) async fn run(mut self) {
        loop {
            self.forget_old_lists();
            let gauge = &self.shared.metrics.presence_entries;
            gauge.set(self.register.len().try_into().unwrap_or(i64::MAX));
            let Some(task) = self.next_task() else {
                let wake = self.wake();
                tokio::select! {
                    () = sleep_until(wake.into()) => {}
                    orders = self.orders.recv() => match orders {
                        Some(orders) => self.take(orders),
                        None => return,
                    },
                }
                continue;
            };
            if !self.carry_out(task).await {
                return;
            }
        }
    }

    fn has_link(&self) -> bool {
        self.shared.has_link.load(Ordering::Relaxed)
    }

    /// When something may have to be done if no order comes.
    fn wake(&self) -> Instant {
        if !self.has_link() {
            return Instant::now() + LINK_INTERVAL;
        }
        let due = if self.register.due() > 0 {
            self.next_batch.min(self.next_look)
        } else {
            self.next_look
        };
        // Everything else is done at once, unless there is a pause.
        self.pause.unwrap_or(due)
    }

    fn take(&mut self, orders: Vec<Order>) {
        let mut reports = Vec::new();
        for order in orders {
            match order {
                Order::Change(change) => reports.extend(self.register.change(change).map(Report::Settled)),
                Order::Roster { room, serial } => {
                    self.rosters.insert(room, serial);
                }
                Order::List { room, serial } => self.lists.push_back((Instant::now(), room, serial)),
            }
        }
        self.report(reports);
    }

    fn report(&self, reports: Vec<Report>) {
        if !reports.is_empty() {
            self.events.do_send(LinkEvent::Presence(reports));
        }
    }

    fn forget_old_lists(&mut self) {
        let mut reports = Vec::new();
        while let Some((asked, ..)) = self.lists.front()
            && asked.elapsed() > LIST_PATIENCE
        {
            if let Some((_, room, serial)) = self.lists.pop_front() {
                let list = Err("redis has not answered in time".to_owned());
                reports.push(Report::Listed { room, serial, list });
            }
        }
        self.report(reports);
    }

    fn next_task(&mut self) -> Option<Task> {
        let now = Instant::now();
        if !self.has_link() || self.pause.is_some_and(|end| now < end) {
            return None;
        }
        self.pause = None;
        if now >= self.next_look {
            self.next_look = now + LOOK_INTERVAL;
            return Some(Task::Look(self.next_renewal()));
        }
        let has_reads = !self.rosters.is_empty() || !self.lists.is_empty();
        // What was asked for after a change sees it; but a stream of changes does not hold up reads.
        let applies = !(has_reads && self.applied_last) && (has_reads || self.is_batch_due(now));
        self.applied_last = false;
        if applies {
            if self.register.needs_lease() {
                return Some(Task::Begin(self.register.begin_lease(new_lease)));
            }
            if let Some(batch) = self.register.take_batch(BATCH) {
                self.applied_last = true;
                self.next_batch = now + BATCH_INTERVAL;
                return Some(Task::Apply(batch));
            }
        }
        if has_reads {
            return Some(self.next_read());
        }
        if let Some(lease) = self.register.take_abandoned() {
            self.dead.push_back((lease, None));
        }
        let (lease, beat) = self.dead.pop_front()?;
        Some(Task::Reap(lease, beat))
    }

    fn next_read(&mut self) -> Task {
        let rooms: Vec<RoomName> = self.rosters.keys().take(MAX_READS).cloned().collect();
        let rosters = rooms
            .into_iter()
            .filter_map(|room| self.rosters.remove_entry(&room))
            .collect();
        let count = self.lists.len().min(MAX_READS);
        let lists = self.lists.drain(..count);
        Task::Read(rosters, lists.map(|(_, room, serial)| (room, serial)).collect())
    }

    fn is_batch_due(&self, now: Instant) -> bool {
        now >= self.next_batch || self.register.due() >= BATCH.entries
    }

    /// One key of this node at a time, so that this costs next to nothing however many there are.
    fn next_renewal(&mut self) -> Option<Kept> {
        let lease = self.register.lease()?.name.clone();
        loop {
            match self.renewals.pop() {
                Some(Kept::Room(room)) if !self.register.is_in(&room) => {}
                Some(kept) => return Some(kept),
                None => {
                    let rooms: Vec<RoomName> = self.register.rooms().cloned().collect();
                    // What all of them hang on is renewed more often than each.
                    for some in rooms.chunks(MAX_ROOMS_BETWEEN) {
                        self.renewals.extend(some.iter().cloned().map(Kept::Room));
                        self.renewals.extend([Kept::Lease(lease.clone()), Kept::Leases]);
                    }
                    if rooms.is_empty() {
                        self.renewals.push(Kept::Lease(lease.clone()));
                    }
                }
            }
        }
    }

    /// Whether to go on: the node may have stopped meanwhile.
    async fn carry_out(&mut self, task: Task) -> bool {
        let (commands, script_is_needed) = self.commands(&task);
        let (line, shared) = (self.line.clone(), self.shared.clone());
        let exchange = async move {
            let mut connection: Connection = line.connected().await?;
            let commands = &commands;
            let answers = async {
                if script_is_needed {
                    call_script(&mut connection.commands, commands, &shared.scripts.list).await
                } else {
                    call(&mut connection.commands, commands).await
                }
            };
            let answers = within(ANSWER_TIMEOUT, "presence", answers).await;
            RedisResult::Ok((connection.number, answers))
        };
        let mut exchange = pin!(exchange);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut exchange => break outcome,
                orders = self.orders.recv() => match orders {
                    Some(orders) => self.take(orders),
                    None => return false,
                },
            }
        };
        let answers = match outcome {
            Ok((number, answers)) => {
                if number != self.number {
                    // Whatever broke the last one may have been long, or another Redis.
                    self.number = number;
                    self.watch.blink();
                    self.next_look = Instant::now();
                }
                answers
            }
            Err(error) => Err(error),
        };
        let understood = match answers {
            Ok(answers) => self.understand(&task, answers).await,
            Err(error) => {
                self.line.give_up(self.number);
                Err(error)
            }
        };
        if let Err(error) = understood {
            if let Some(unlogged) = self.log.pass(Instant::now()) {
                warn!("presence on redis failed: problem=\"{error}\" unlogged={unlogged}");
            }
            if error.code() == Some("READONLY") {
                // This server has become a replica: its master is elsewhere.
                self.line.give_up(self.number);
            }
            self.watch.blink();
            self.pause = Some(Instant::now() + self.line.pause());
            self.failed(task);
        }
        true
    }

    fn commands(&self, task: &Task) -> (Pipeline, bool) {
        let scripts = &self.shared.scripts;
        let mut commands = Pipeline::new();
        match task {
            Task::Begin(lease) => {
                for command in wire::begin_lease(scripts, lease) {
                    commands.add_command(command);
                }
            }
            Task::Apply(batch) => {
                commands.add_command(wire::apply(scripts, batch));
            }
            Task::Read(rosters, lists) => {
                for (room, _) in rosters {
                    commands.add_command(wire::read_roster(scripts, room));
                }
                for (room, _) in lists {
                    for command in wire::read_list(scripts, room) {
                        commands.add_command(command);
                    }
                }
            }
            Task::Look(kept) => {
                commands.add_command(wire::look(scripts));
                if let Some(lease) = self.register.lease() {
                    commands.add_command(wire::beat(scripts, &lease.name));
                }
                if let Some(kept) = kept {
                    commands.add_command(wire::renew(scripts, kept));
                }
            }
            Task::Reap(lease, beat) => {
                commands.add_command(wire::reap(scripts, lease, beat.as_deref()));
            }
        }
        (commands, matches!(task, Task::Apply(_)))
    }

    async fn understand(&mut self, task: &Task, answers: Vec<Value>) -> RedisResult<()> {
        let mut answers = answers.into_iter();
        let mut next = || match answers.next() {
            Some(Value::ServerError(error)) => Err(error.into()),
            Some(answer) => Ok(answer),
            None => Err(wire::malformed()),
        };
        match task {
            Task::Begin(lease) => {
                let beat = redis::from_redis_value(next()?)?;
                for _ in 0..3 {
                    next()?;
                }
                self.register.begun(beat);
                self.shared.metrics.presence_leases_taken.inc();
                info!("presence lease taken: lease={lease}");
                self.renewals.clear();
            }
            Task::Apply(batch) => match wire::applied(next()?)? {
                Applied::Done(beat, rooms) => self.applied(batch, beat, rooms),
                Applied::Lost => self.lost(),
            },
            Task::Read(rosters, lists) => {
                let mut reports = Vec::new();
                for (room, serial) in rosters {
                    let members = wire::roster(next()?)?;
                    reports.push(Report::Roster {
                        room: room.clone(),
                        serial: *serial,
                        members,
                    });
                }
                for (room, serial) in lists {
                    let list = wire::list(next()?, next()?)?;
                    reports.push(Report::Listed {
                        room: room.clone(),
                        serial: *serial,
                        list: Ok(list),
                    });
                }
                self.report(reports);
            }
            Task::Look(kept) => {
                let leases: Vec<(String, String)> = redis::from_redis_value(next()?)?;
                let is_held = match self.register.lease() {
                    Some(_) => self.register.beaten(redis::from_redis_value(next()?)?),
                    None => true,
                };
                if let Some(kept) = kept {
                    let is_there: bool = redis::from_redis_value(next()?)?;
                    if let (Kept::Room(room), false, true) = (kept, is_there, is_held) {
                        // Evicted: Redis was short of memory.
                        self.register.vanished(room);
                    }
                }
                self.looked(leases);
                if !is_held {
                    self.lost();
                }
                self.drop_lease().await?;
            }
            Task::Reap(lease, beat) => {
                let (taken, is_ended): (u64, bool) = redis::from_redis_value(next()?)?;
                if taken > 0 {
                    warn!("presence of a node that died taken off the lists: lease={lease} entries={taken}");
                }
                self.shared.metrics.presence_entries_reaped.inc_by(taken);
                if !is_ended {
                    self.dead.push_front((lease.clone(), beat.clone()));
                }
            }
        }
        Ok(())
    }

    fn applied(&mut self, batch: &Batch, beat: i64, rooms: Vec<Value>) {
        let mut reports = Vec::new();
        for (part, before) in batch.rooms.iter().zip(rooms) {
            if let Some(members) = wire::roster_after(part, before) {
                reports.push(Report::Roster {
                    room: part.room.clone(),
                    serial: part.serial,
                    members,
                });
            }
        }
        let settled = self.register.applied(batch, beat);
        reports.extend(settled.into_iter().map(Report::Settled));
        self.report(reports);
    }

    fn looked(&mut self, leases: Vec<(String, String)>) {
        let own = self.register.lease().map(|lease| lease.name.clone());
        for (lease, beat) in self.watch.look(leases, Instant::now()) {
            let is_known = self.dead.iter().any(|(known, _)| **known == *lease);
            if own.as_deref() != Some(lease.as_str()) && !is_known {
                // A node that stopped in an orderly way leaves an empty one.
                debug!("presence lease of a node that is gone: lease={lease} beat={beat}");
                self.dead.push_back((lease.into(), Some(beat)));
            }
        }
    }

    fn lost(&mut self) {
        warn!("presence lease lost: redis has lost data, or another node took this one for dead");
        self.shared.metrics.presence_leases_lost.inc();
        self.register.lost();
        self.watch.blink();
    }

    /// A node without members has no lease.
    async fn drop_lease(&mut self) -> RedisResult<()> {
        if let Some(lease) = self.register.drop_lease() {
            let mut commands = Pipeline::new();
            for command in wire::end_lease(&self.shared.scripts, &lease.name) {
                commands.add_command(command);
            }
            let mut connection = self.line.connected().await?;
            // If this fails, somebody finds it dead; nothing stands under it.
            within(
                ANSWER_TIMEOUT,
                "presence",
                call(&mut connection.commands, &commands),
            )
            .await?;
        }
        Ok(())
    }

    /// Something was not answered: it is tried again, later.
    fn failed(&mut self, task: Task) {
        match task {
            Task::Apply(batch) => self.register.failed(&batch),
            Task::Read(rosters, lists) => {
                for (room, serial) in rosters {
                    self.rosters.entry(room).or_insert(serial);
                }
                let reports = lists.into_iter().map(|(room, serial)| Report::Listed {
                    room,
                    serial,
                    list: Err("redis has not answered".to_owned()),
                });
                self.report(reports.collect());
            }
            Task::Begin(_) => {}
            Task::Look(_) => self.next_look = Instant::now(),
            // Whoever is dead is found again; ours are not looked for.
            Task::Reap(_, Some(_)) => self.dead.retain(|(_, beat)| beat.is_none()),
            Task::Reap(lease, None) => self.dead.push_front((lease, None)),
        }
    }
}

/// A name that no other lease has had.
fn new_lease() -> Arc<str> {
    format!("{:016x}", fastrand::u64(..)).into()
}
