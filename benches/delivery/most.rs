//! The most that arrives without loss and in time, and what happens beyond.
//!
//! The offered rate is doubled until several steps in a row have failed: a server that coalesces may be late at some
//! rate and in time again at a higher one, where there is more to coalesce. Then the search goes on between the last
//! good step and the one after it; there a step that fails is repeated once, because a shared machine may have been
//! busy with something else. What fails leaves its process behind, and the next step gets a fresh one. Nothing is
//! concluded from a step in which the generator was at its limit while the server was not: the search ends there,
//! and says so.

use std::time::Duration;

use super::Outcome;
use super::load::{Crowd, Plan, Tally};
use super::process::{Running, Spent, Target};
use super::report::{Reading, compared, fact, fault};
use super::traffic::{generator_cores, generator_was_the_limit};

/// What is offered beyond the most.
const OVERLOADS: [f64; 2] = [1.5, 2.0];
/// Failures in a row that end the doubling.
const FAILURES: usize = 3;
/// Quarterings of the first rate if none was good.
const LOWER_STARTS: usize = 4;

pub(crate) struct Search {
    /// Its rate is the first one, its seconds those of a step.
    pub(crate) plan: Plan,
    pub(crate) doublings: usize,
    pub(crate) halvings: usize,
    /// What the 99th percentile may be.
    pub(crate) latency_bound: Duration,
}

struct Step {
    tally: Tally,
    spent: Spent,
}

/// A process with its members, which serves for more steps as long as nothing went astray in it.
struct Stage {
    running: Running,
    crowd: Crowd,
}

impl Stage {
    fn set(target: &Target, plan: Plan) -> Outcome<Self> {
        let running = Running::start(target)?;
        let crowd = Crowd::gather(running.address(), running.last_address(), plan)?;
        Ok(Self { running, crowd })
    }

    fn step(&mut self, rate: f64, seconds: f64) -> Outcome<Step> {
        let meter = self.running.meter()?;
        let tally = self.crowd.run_at(rate, seconds)?;
        Ok(Step {
            tally,
            spent: meter.read()?,
        })
    }
}

impl Search {
    fn holds(&self, step: &Step) -> bool {
        step.tally.is_clean()
            && step.tally.latency.quantile_ms(0.99) <= self.latency_bound.as_secs_f64() * 1e3
    }

    /// Tries a rate; leaves no stage behind a failure.
    fn attempt(&self, target: &Target, stage: &mut Option<Stage>, rate: f64) -> Outcome<(Step, bool)> {
        let mut set = match stage.take() {
            Some(set) => set,
            None => Stage::set(target, self.plan)?,
        };
        let step = set.step(rate, self.plan.seconds)?;
        let holds = self.holds(&step);
        eprintln!(
            "  {rate:.0} messages/s: p99 {:.1} ms, generator {:.2} cores{}",
            step.tally.latency.quantile_ms(0.99),
            generator_cores(&step.spent),
            if holds { "" } else { ": too much" },
        );
        if holds {
            *stage = Some(set);
        }
        Ok((step, holds))
    }

    /// Doubles the rate from `first` on, and returns the last good one, if there was any.
    fn climb(&self, target: &Target, stage: &mut Option<Stage>, first: f64) -> Outcome<Option<Best>> {
        let (mut best, mut rate, mut failures): (Option<Best>, _, _) = (None, first, 0);
        let mut late = 0;
        for _ in 0..=self.doublings {
            match self.attempt(target, stage, rate)? {
                (step, true) => {
                    late += std::mem::take(&mut failures);
                    best = Some(Best {
                        rate,
                        step,
                        late,
                        limited: false,
                        topped: false,
                    });
                }
                (step, false) => {
                    failures += 1;
                    if let Some(best) = &mut best {
                        best.topped = true;
                        best.limited = generator_was_the_limit(&step.spent);
                    }
                    if failures == FAILURES || best.as_ref().is_some_and(|best| best.limited) {
                        break;
                    }
                }
            }
            rate *= 2.0;
        }
        Ok(best)
    }
}

/// The highest rate so far.
struct Best {
    rate: f64,
    step: Step,
    /// Lower rates that were too much.
    late: usize,
    /// Whether a higher one failed.
    topped: bool,
    /// Whether it did for the generator's sake.
    limited: bool,
}

/// The highest rate, and what 1.5 and 2 times as much leads to.
pub(crate) fn find(target: &Target, search: &Search) -> Outcome<Vec<Reading>> {
    let mut stage = None;
    let mut first = search.plan.rate;
    let mut found = search.climb(target, &mut stage, first)?;
    for _ in 0..LOWER_STARTS {
        if found.is_some() {
            break;
        }
        first /= 4.0;
        // Above it nothing was good: one step is enough.
        let (step, holds) = search.attempt(target, &mut stage, first)?;
        found = holds.then_some(Best {
            rate: first,
            step,
            late: 0,
            topped: true,
            limited: false,
        });
    }
    let mut best = found.ok_or_else(|| format!("even {first:.1} messages/s are too many"))?;
    let mut bad = best.rate * 2.0;
    for _ in 0..if best.topped { search.halvings } else { 0 } {
        let between = (best.rate * bad).sqrt();
        let mut tried = search.attempt(target, &mut stage, between)?;
        if !tried.1 && !generator_was_the_limit(&tried.0.spent) {
            tried = search.attempt(target, &mut stage, between)?;
        }
        match tried {
            (step, true) => (best.rate, best.step) = (between, step),
            (step, false) => {
                best.limited = generator_was_the_limit(&step.spent);
                bad = between;
            }
        }
    }
    drop(stage);
    if best.limited {
        println!(
            "{}: the generator was the bottleneck above {:.0} messages/s; the true limit is higher",
            target.label, best.rate
        );
    }
    let mut readings = at_the_most(&best);
    for factor in OVERLOADS {
        let step = Stage::set(target, search.plan)?.step(best.rate * factor, search.plan.seconds)?;
        readings.extend(beyond(factor, &step));
    }
    Ok(readings)
}

fn per_second(step: &Step) -> f64 {
    step.tally.delivered as f64 / step.tally.span.as_secs_f64()
}

fn at_the_most(best: &Best) -> Vec<Reading> {
    let Step { tally, spent } = &best.step;
    let wall = spent.wall.as_secs_f64();
    let mut readings = vec![
        compared("most: deliveries per second", per_second(&best.step)),
        compared("most: latency p50, ms", tally.latency.quantile_ms(0.5)),
        compared("most: latency p99, ms", tally.latency.quantile_ms(0.99)),
        compared(
            "most: cpu, us per delivery",
            spent.server().microseconds() / tally.delivered as f64,
        ),
        fact(
            "most: server: cores used",
            spent.server().cpu.as_secs_f64() / wall,
        ),
    ];
    if let Some(redis) = spent.redis {
        readings.push(fact("most: Redis: cores used", redis.cpu.as_secs_f64() / wall));
    }
    readings.push(fact("most: generator: cores used", generator_cores(spent)));
    readings.push(fact(
        "most: the generator was the limit (1: yes)",
        f64::from(u8::from(best.limited)),
    ));
    readings.push(fact("most: lower rates that were too much", best.late as f64));
    readings
}

/// Beyond the most, messages that were refused and sessions that were closed for being too slow (4008) are by design;
/// what was accepted must still reach, once and in order, each session that stayed.
fn beyond(factor: f64, step: &Step) -> Vec<Reading> {
    let tally = &step.tally;
    let named = |what: &str| format!("{factor} x: {what}");
    let per_message = (tally.delivered + tally.lost + tally.forgone) / tally.published.max(1);
    vec![
        compared(named("deliveries per second"), per_second(step)),
        compared(named("latency p50, ms"), tally.latency.quantile_ms(0.5)),
        compared(named("latency p99, ms"), tally.latency.quantile_ms(0.99)),
        fact(
            named("generator: late sends p99, ms"),
            tally.lag.quantile_ms(0.99),
        ),
        fact(named("generator: cores used"), generator_cores(&step.spent)),
        fact(named("messages refused"), tally.refused as f64),
        fact(named("sessions closed as too slow (4008)"), tally.too_slow as f64),
        fact(named("deliveries that these missed"), tally.forgone as f64),
        fault(named("sessions closed otherwise"), tally.closed - tally.too_slow),
        fault(
            named("lost"),
            tally.lost.saturating_sub(tally.refused * per_message),
        ),
        fault(
            named("duplicated, reordered, misrouted"),
            tally.duplicated + tally.reordered + tally.misrouted,
        ),
    ]
}
