//! Messages at a steady rate: what they cost and how long they took.

use super::Outcome;
use super::fleet::Fleet;
use super::load::{Crowd, Plan, Tally};
use super::process::{Running, Spent, Target, Usage, resident};
use super::report::{Reading, compared, fact, fault};

pub(crate) const CPU_PER_DELIVERY: &str = "cpu, us per delivery";
pub(crate) const CPU_PER_MESSAGE: &str = "cpu, us per message";
pub(crate) const REDIS_PER_MESSAGE: &str = "Redis: cpu, us per message";
pub(crate) const SWITCHES: &str = "context switches per message";
pub(crate) const DELIVERIES: &str = "deliveries per second";
pub(crate) const P50: &str = "latency p50, ms";
pub(crate) const P99: &str = "latency p99, ms";
pub(crate) const P999: &str = "latency p99.9, ms";
pub(crate) const MEMORY: &str = "resident, KiB per session";
pub(crate) const GENERATOR: &str = "generator: cpu, us per delivery";

/// What runs on one thread and needs this much of a core is at its limit.
const LIMIT_CORES: f64 = 0.9;
/// Deliveries are behind when the last one comes after so many times the schedule's length.
const BEHIND: f64 = 1.1;

/// One node, beside `held` other rooms. With `guarded` it fails if the generator was the bottleneck.
pub(crate) fn steady(target: &Target, held: usize, plan: Plan, guarded: bool) -> Outcome<Vec<Reading>> {
    let running = Running::start(target)?;
    // What only the first connections cost is no session's.
    let mut first = Fleet::new()?;
    first.connect(running.address(), 10, plan.v1)?;
    let empty = resident(running.pid())?;
    let mut crowd = Crowd::gather(running.address(), running.last_address(), plan)?;
    if held > 0 {
        crowd.hold(running.address(), held)?;
    }
    let meter = running.meter()?;
    let tally = crowd.run()?;
    let spent = meter.read()?;
    let grown = resident(running.pid())?.saturating_sub(empty) as f64;
    if guarded {
        judge_generator(&spent, &tally, plan)?;
    }
    let (messages, deliveries) = (tally.published as f64, tally.delivered as f64);
    let cpu = spent.server().microseconds();
    let mut readings = vec![
        compared(CPU_PER_DELIVERY, cpu / deliveries),
        compared(CPU_PER_MESSAGE, cpu / messages),
        compared(SWITCHES, spent.server().switches as f64 / messages),
        compared(DELIVERIES, deliveries / tally.span.as_secs_f64()),
    ];
    readings.extend(latency(&tally));
    readings.push(compared(MEMORY, grown / crowd.sessions() as f64));
    readings.extend(redis(&spent, messages));
    readings.extend(generator(&spent, &tally));
    readings.extend(astray(&tally));
    Ok(readings)
}

/// Publishers on the first node, members on the last.
pub(crate) fn across_nodes(target: &Target, plan: Plan, guarded: bool) -> Outcome<Vec<Reading>> {
    let running = Running::start(target)?;
    let mut crowd = Crowd::gather(running.address(), running.last_address(), plan)?;
    let meter = running.meter()?;
    let tally = crowd.run()?;
    let spent = meter.read()?;
    if guarded {
        judge_generator(&spent, &tally, plan)?;
    }
    let (messages, deliveries) = (tally.published as f64, tally.delivered as f64);
    let (publishing, delivering) = (spent.nodes[0], spent.nodes[spent.nodes.len() - 1]);
    let mut readings = Vec::from(latency(&tally));
    readings.extend([
        compared(DELIVERIES, deliveries / tally.span.as_secs_f64()),
        compared(
            "publishers' node: cpu, us per message",
            publishing.microseconds() / messages,
        ),
        compared(
            "members' node: cpu, us per message",
            delivering.microseconds() / messages,
        ),
        compared(
            "members' node: cpu, us per delivery",
            delivering.microseconds() / deliveries,
        ),
        compared(SWITCHES, spent.server().switches as f64 / messages),
    ]);
    readings.extend(redis(&spent, messages));
    readings.extend(generator(&spent, &tally));
    readings.extend(astray(&tally));
    Ok(readings)
}

/// The cores that the generator used.
pub(crate) fn generator_cores(spent: &Spent) -> f64 {
    spent.generator.cpu.as_secs_f64() / spent.wall.as_secs_f64()
}

/// The cores that were used or waited for: on a busy machine a thread is at its limit before it has used up a core.
fn demand(usage: Usage, spent: &Spent) -> f64 {
    (usage.cpu + usage.waited).as_secs_f64() / spent.wall.as_secs_f64()
}

/// Fails if the generator used up its core, or if deliveries fell behind the schedule while it, and not the server, was
/// at its limit. Waiting for a core alone is what every process on a busy machine does.
fn judge_generator(spent: &Spent, tally: &Tally, plan: Plan) -> Outcome<()> {
    let behind = tally.span.as_secs_f64() > plan.seconds * BEHIND;
    if generator_cores(spent) < LIMIT_CORES && !(behind && generator_was_the_limit(spent)) {
        return Ok(());
    }
    let (used, waited) = (spent.generator.cpu, spent.generator.waited);
    Err(format!(
        "the generator was the bottleneck, so nothing that it measured counts: of {:.1?} its one thread ran {used:.1?} \
         and waited {waited:.1?} for a core; lower --rate or --members, or use a quieter machine",
        spent.wall
    )
    .into())
}

/// Whether the generator was at its limit while the server was not.
pub(crate) fn generator_was_the_limit(spent: &Spent) -> bool {
    demand(spent.generator, spent) >= LIMIT_CORES && demand(spent.server(), spent) < LIMIT_CORES
}

fn latency(tally: &Tally) -> [Reading; 4] {
    [
        compared(P50, tally.latency.quantile_ms(0.5)),
        compared(P99, tally.latency.quantile_ms(0.99)),
        compared(P999, tally.latency.quantile_ms(0.999)),
        compared("latency max, ms", tally.latency.max_ms()),
    ]
}

fn redis(spent: &Spent, messages: f64) -> Option<Reading> {
    let used = spent.redis?;
    Some(compared(REDIS_PER_MESSAGE, used.microseconds() / messages))
}

fn generator(spent: &Spent, tally: &Tally) -> [Reading; 4] {
    [
        fact("generator: late sends p99, ms", tally.lag.quantile_ms(0.99)),
        fact(GENERATOR, spent.generator.microseconds() / tally.delivered as f64),
        fact("generator: cores used", generator_cores(spent)),
        fact(
            "generator: cores waited for",
            spent.generator.waited.as_secs_f64() / spent.wall.as_secs_f64(),
        ),
    ]
}

pub(crate) fn astray(tally: &Tally) -> [Reading; 6] {
    [
        fault("lost", tally.lost + tally.forgone),
        fault("duplicated", tally.duplicated),
        fault("reordered", tally.reordered),
        fault("misrouted", tally.misrouted),
        fault("refused", tally.refused),
        fault("connections closed", tally.closed),
    ]
}
