//! Random faults for as long as somebody has patience, judged round by round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::cluster::Cluster;
use super::faults::{Fault, Knows, Links};

/// Faults in a round; then everything comes to rest and is judged.
const FAULTS: usize = 5;

/// Publishes that are acknowledged between two faults, at most.
const BETWEEN: usize = 600;

/// Messages that are kept of each room: enough for any fault, or not.
const HISTORY_SIZES: [usize; 3] = [1_000, 100, 30];

/// The seed that nobody has asked for.
fn fresh_seed() -> u64 {
    fastrand::u64(..1_000_000)
}

/// A number from the environment, or nothing.
fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is {value:?}, and has to be a whole number")))
}

/// Any fault, of any size.
fn any_fault(rng: &mut Rng) -> Fault {
    let links = [Links::Of(0), Links::Of(1), Links::Both][rng.usize(..3)];
    let mut duration = |most: u64| Duration::from_millis(rng.u64(1..=most / 100) * 100);
    let (short, long) = (duration(3_000), duration(8_000));
    match rng.u32(..11) {
        0 => Fault::SubscriptionsKilled,
        1 => Fault::ConnectionsKilled,
        2 | 3 => Fault::Cut(links, long),
        4 => Fault::Stalled(links, long),
        5 => Fault::Swallowed(links),
        6 => Fault::Stopped(long),
        7 => Fault::Restarted {
            away: short,
            knows: [Knows::All, Knows::Nothing, Knows::TooLittle][rng.usize(..3)],
        },
        8 => Fault::ScriptsFlushed,
        9 => Fault::Flushed,
        _ => Fault::NodeKilled(rng.usize(..2)),
    }
}

/// `SOAK_SECONDS` long (60), with the faults that `SOAK_SEED` gives (a fresh one, which is printed).
#[actix::test]
#[ignore = "takes as long as it is told to: tests/run soak"]
async fn soak() {
    let seconds = variable("SOAK_SECONDS").unwrap_or(60);
    let seed = variable("SOAK_SEED").unwrap_or_else(fresh_seed);
    println!("soak of {seconds} s with seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let began = Instant::now();
    let history_size = HISTORY_SIZES[rng.usize(..HISTORY_SIZES.len())];
    println!("{history_size} messages are kept of each room");
    let mut cluster = Cluster::with_history_size(history_size).await;
    let mut sums = Sums::default();
    while began.elapsed() < Duration::from_secs(seconds) {
        cluster.talk().await;
        for nth in 1..=FAULTS {
            let fault = any_fault(&mut rng);
            let over = cluster.strike(fault).await;
            sums.struck += 1;
            // Some strike before the one before has healed.
            if nth < FAULTS && rng.u32(..4) == 0 {
                println!("          {fault}, and at once");
            } else {
                let flows = cluster.await_flow(over).await;
                sums.add_healing(&cluster, fault, over, flows.is_ok());
                cluster.await_acknowledged(rng.usize(20..BETWEEN)).await;
            }
            for node in 0..2 {
                if !cluster.has_node(node) {
                    cluster.start_node(node).await;
                    cluster.call_home().await;
                }
            }
        }
        let report = cluster.judge().await;
        println!("{:6.0} s: {report}", began.elapsed().as_secs_f64());
        for violation in &report.violations {
            println!("          {violation}");
        }
        sums.messages += report.tally.acknowledged;
        sums.received += report.tally.received;
        sums.violations += report.violations.len();
        if sums.violations > 0 {
            report.assert_clean();
        }
        cluster.turn_over();
    }
    sums.print(seed, began.elapsed());
    assert_eq!(sums.unhealed, 0, "faults that did not heal");
}

/// What is said in the end.
#[derive(Default)]
struct Sums {
    messages: usize,
    received: usize,
    violations: usize,
    struck: usize,
    unhealed: usize,
    /// Healing times by kind of fault.
    faults: BTreeMap<&'static str, Vec<Duration>>,
}

impl Sums {
    fn add_healing(&mut self, cluster: &Cluster, fault: Fault, over: Duration, flows: bool) {
        let healing = cluster.recorder().history().healing(over);
        let longest = healing.into_iter().flatten().max().unwrap_or_default();
        let verdict = if flows { "healed" } else { "NOT HEALED" };
        println!(
            "          {fault}: {verdict} after {:.2} s",
            longest.as_secs_f64()
        );
        self.unhealed += usize::from(!flows);
        self.faults.entry(fault.kind()).or_default().push(longest);
    }

    fn print(&mut self, seed: u64, took: Duration) {
        println!("\n| Fault | Times | Healed after, median | Longest |\n| --- | --- | --- | --- |");
        for (kind, healing) in &mut self.faults {
            healing.sort_unstable();
            let Some(longest) = healing.last() else {
                continue;
            };
            println!(
                "| {kind} | {} | {:.2} s | {:.2} s |",
                healing.len(),
                healing[healing.len() / 2].as_secs_f64(),
                longest.as_secs_f64()
            );
        }
        println!(
            "\nsoak: {:.0} s, seed {seed}, {} messages acknowledged, {} received, {} faults, {} not healed, {} violations",
            took.as_secs_f64(),
            self.messages,
            self.received,
            self.struck,
            self.unhealed,
            self.violations
        );
    }
}
