//! How soon messages flow again after each fault, as a table.

use std::time::Duration;

use super::cluster::Cluster;
use super::faults::{Fault, Knows, Links};
use super::runs::{Survival, survive};

/// Each fault happens so often.
const TIMES: usize = 3;

/// Prints the table of docs/operations.md. The time is from the fault's end, or from its beginning where new connections
/// work at once, to the first message of after it at each of the members of ten rooms on two nodes. Messages come every
/// 50 ms in each room, so this is the resolution.
#[actix::test]
#[ignore = "takes three minutes and measures: tests/run healing"]
async fn healing_times() {
    let one = Links::Of(0);
    let faults = [
        Fault::SubscriptionsKilled,
        Fault::ConnectionsKilled,
        Fault::Cut(one, Duration::from_millis(200)),
        Fault::Cut(one, Duration::from_secs(1)),
        Fault::Cut(one, Duration::from_secs(5)),
        Fault::Cut(Links::Both, Duration::from_secs(1)),
        Fault::Stalled(one, Duration::from_secs(3)),
        Fault::Stalled(one, Duration::from_secs(8)),
        Fault::Swallowed(one),
        Fault::Stopped(Duration::from_secs(3)),
        Fault::Restarted {
            away: Duration::from_secs(2),
            knows: Knows::All,
        },
        Fault::Restarted {
            away: Duration::from_secs(2),
            knows: Knows::Nothing,
        },
        Fault::ScriptsFlushed,
        Fault::Flushed,
        Fault::NodeKilled(0),
    ];
    let mut rows = String::new();
    for fault in faults {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let Survival { healing, .. } = survive(fault, Cluster::start().await).await;
            times.extend(healing.last().copied());
        }
        times.sort_unstable();
        let (median, longest) = (times[TIMES / 2], times[TIMES - 1]);
        rows += &format!(
            "| {fault} | {:.2} s | {:.2} s |\n",
            median.as_secs_f64(),
            longest.as_secs_f64()
        );
    }
    println!("\n| Fault | All members hear again after | At most |\n| --- | --- | --- |\n{rows}");
}
