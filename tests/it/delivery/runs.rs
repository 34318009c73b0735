//! One run for each kind of fault: everybody talks, the fault happens, everything flows again, and the checker finds
//! nothing: nothing lost, nothing twice, nothing out of order, for members of both dialects.

use std::time::Duration;

use super::cluster::{Cluster, Report};
use super::faults::{Fault, Knows, Links};

/// Publishes that are acknowledged before the fault and after it.
const AROUND: usize = 60;

/// A publish is answered within 3 s whatever Redis does; the rest is for a busy machine.
const ANSWERED: Duration = Duration::from_millis(3_500);

/// Even a link that is open and dead is found out and replaced by then.
const HEALED: Duration = Duration::from_secs(10);

const NODE: usize = 0;
const ONE_LINK: Links = Links::Of(NODE);

/// The report of a run, and how long it took each member to hear a message of after the fault.
pub(crate) struct Survival {
    pub(crate) report: Report,
    /// Sorted.
    pub(crate) healing: Vec<Duration>,
}

/// A run with one fault.
pub(crate) async fn survive(fault: Fault, mut cluster: Cluster) -> Survival {
    cluster.talk().await;
    cluster.await_acknowledged(AROUND).await;
    let over = cluster.strike(fault).await;
    let flows = cluster.await_flow(over).await;
    if flows.is_ok() {
        cluster.await_acknowledged(AROUND).await;
    }
    let report = cluster.judge().await;
    println!("{fault}: {report}");
    report.assert_clean();
    flows.unwrap_or_else(|behind| panic!("{behind} members heard nothing any more"));
    let mut healing: Vec<Duration> = cluster
        .recorder()
        .history()
        .healing(over)
        .into_iter()
        .flatten()
        .collect();
    healing.sort_unstable();
    println!(
        "{fault}: healed after {:.2?}, the last member after {:.2?}",
        healing[healing.len() / 2],
        healing[healing.len() - 1]
    );
    let longest = healing[healing.len() - 1];
    assert!(longest < HEALED, "a member heard nothing for {longest:?}");
    let slowest = report.tally.slowest_answer;
    assert!(slowest < ANSWERED, "a publish was answered after {slowest:?}");
    Survival { report, healing }
}

/// A run whose fault throws nothing away: nobody may be told of a gap.
async fn assert_harmless(fault: Fault) {
    let Survival { report, .. } = survive(fault, Cluster::start().await).await;
    assert_eq!(report.tally.gaps, 0, "gaps were told though everything is kept");
}

/// A run whose fault throws away what Redis has: a new numbering, and everybody is told.
async fn assert_told(fault: Fault) {
    let Survival { report, .. } = survive(fault, Cluster::start().await).await;
    assert!(report.tally.gaps >= 20, "{} gaps were told", report.tally.gaps);
}

#[actix::test]
async fn nothing_is_lost_when_subscribing_connections_are_killed() {
    assert_harmless(Fault::SubscriptionsKilled).await;
}

#[actix::test]
async fn nothing_is_lost_when_all_connections_are_killed() {
    assert_harmless(Fault::ConnectionsKilled).await;
}

#[actix::test]
async fn nothing_is_lost_when_a_link_is_cut_for_a_moment() {
    assert_harmless(Fault::Cut(ONE_LINK, Duration::from_millis(200))).await;
}

#[actix::test]
async fn nothing_is_lost_when_both_links_are_cut_for_a_second() {
    assert_harmless(Fault::Cut(Links::Both, Duration::from_secs(1))).await;
}

#[actix::test]
async fn nothing_is_lost_when_a_link_is_cut_for_five_seconds() {
    assert_harmless(Fault::Cut(ONE_LINK, Duration::from_secs(5))).await;
}

#[actix::test]
async fn nothing_is_lost_when_a_link_stalls_while_it_is_open() {
    assert_harmless(Fault::Stalled(ONE_LINK, Duration::from_secs(6))).await;
}

#[actix::test]
async fn nothing_is_lost_when_the_ends_of_a_link_lose_each_other() {
    assert_harmless(Fault::Swallowed(ONE_LINK)).await;
}

#[actix::test]
async fn nothing_is_lost_when_redis_is_frozen() {
    assert_harmless(Fault::Stopped(Duration::from_secs(3))).await;
}

#[actix::test]
async fn nothing_is_lost_when_redis_is_killed_and_comes_back_with_all_it_had() {
    assert_harmless(Fault::Restarted {
        away: Duration::from_secs(1),
        knows: Knows::All,
    })
    .await;
}

#[actix::test]
async fn everybody_is_told_when_redis_is_killed_and_comes_back_with_nothing() {
    assert_told(Fault::Restarted {
        away: Duration::from_secs(1),
        knows: Knows::Nothing,
    })
    .await;
}

#[actix::test]
async fn everybody_is_told_when_redis_is_killed_and_comes_back_with_an_older_copy() {
    assert_told(Fault::Restarted {
        away: Duration::from_secs(1),
        knows: Knows::TooLittle,
    })
    .await;
}

#[actix::test]
async fn nothing_is_lost_when_scripts_are_flushed() {
    assert_harmless(Fault::ScriptsFlushed).await;
}

#[actix::test]
async fn everybody_is_told_when_everything_is_flushed() {
    assert_told(Fault::Flushed).await;
}

#[actix::test]
async fn nothing_is_lost_by_those_who_recover_on_the_other_node_when_theirs_is_killed() {
    assert_harmless(Fault::NodeKilled(NODE)).await;
}

#[actix::test]
async fn a_cut_that_outlives_what_is_kept_is_told_as_a_gap_of_exactly_what_is_missing() {
    const KEPT: usize = 20;
    let fault = Fault::Cut(ONE_LINK, Duration::from_secs(3));
    let Survival { report, .. } = survive(fault, Cluster::with_history_size(KEPT).await).await;
    // One for the member of `roomcast.v1` in each room on that node.
    assert_eq!(report.tally.gaps, 10, "gaps were told");
}

#[actix::test]
async fn a_quiet_run_is_clean() {
    let mut cluster = Cluster::start().await;
    cluster.talk().await;
    cluster.await_acknowledged(2 * AROUND).await;
    let report = cluster.judge().await;
    println!("{report}");
    report.assert_clean();
    assert_eq!((report.tally.refused, report.tally.unknown), (0, 0));
}
