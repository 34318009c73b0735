//! What a node takes of the machine: memory, descriptors, time. Where that cannot be found out, nothing is checked.

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

    /// The most that it has been above what it was, in bytes.
    pub(crate) fn growth(&self) -> Option<usize> {
        Some(self.peak.get()? - self.before?)
    }

    /// Checks that it has never been more than so much above what it was.
    pub(crate) fn assert_growth(&self, most: usize) {
        let Some(growth) = self.growth() else { return };
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

/// Descriptors that a node has open.
#[cfg(target_os = "linux")]
pub(crate) fn descriptors(node: &Node) -> Option<usize> {
    let directory = format!("/proc/{}/fd", node.pid().as_raw_nonzero());
    Some(std::fs::read_dir(directory).expect("a process of ours").count())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn descriptors(_: &Node) -> Option<usize> {
    None
}

/// Processor time that a node has used.
#[cfg(target_os = "linux")]
pub(crate) fn processor_time(node: &Node) -> Option<Duration> {
    // Linux counts it in hundredths of a second wherever this runs.
    const TICK: Duration = Duration::from_millis(10);
    let path = format!("/proc/{}/stat", node.pid().as_raw_nonzero());
    let line = std::fs::read_to_string(path).expect("a process of ours");
    let (_, fields) = line.rsplit_once(") ").expect("a name in brackets");
    let mut ticks = fields.split(' ').skip(11).map(|field| field.parse::<u32>());
    let mut next = || ticks.next().expect("a field").expect("a number");
    Some(TICK * (next() + next()))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn processor_time(_: &Node) -> Option<Duration> {
    None
}
