//! What a node occupies of the machine's memory. Where that cannot be found out, nothing is checked.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Pid;
use tokio::task::JoinHandle;

use super::node::Node;

/// Follows a process's memory.
pub(crate) struct Memory {
    before: Option<usize>,
    peak: Rc<Cell<Option<usize>>>,
    watch: JoinHandle<()>,
}

impl Memory {
    /// From now on.
    pub(crate) fn of(node: &Node) -> Self {
        let pid = node.pid();
        let before = resident(pid);
        let peak = Rc::new(Cell::new(before));
        let watch = {
            let peak = peak.clone();
            actix::spawn(async move {
                loop {
                    peak.set(peak.get().max(resident(pid)));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        Self { before, peak, watch }
    }

    /// Checks that it has never been more than so much above what it was.
    pub(crate) fn assert_growth(&self, most: usize) {
        let (Some(before), Some(peak)) = (self.before, self.peak.get()) else {
            return;
        };
        let growth = peak - before;
        println!(
            "memory grew by {} KiB, {} KiB are allowed",
            growth / 1024,
            most / 1024
        );
        assert!(
            growth <= most,
            "memory grew by {growth} bytes, {most} are allowed"
        );
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// What a process occupies of the machine's memory, in bytes.
#[cfg(target_os = "linux")]
fn resident(pid: Pid) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

#[cfg(not(target_os = "linux"))]
fn resident(_: Pid) -> Option<usize> {
    None
}
