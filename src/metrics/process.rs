//! What is known of the process as a whole, under the names that Prometheus's client libraries use. It is read from
//! `/proc/self` when it is asked for; where there is none, only the start time and the version are left.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::LOG_LINES_DROPPED;
use super::kinds::{Catalogue, FloatGauge, Listed, Sampled};

/// The kernel's clock ticks per second as it reports them to programs: 100 on every architecture that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

const KIB: f64 = 1_024.0;

/// A name, its first sentence, its kind and where its value comes from.
type Reading = (&'static str, &'static str, MetricType, fn() -> Option<f64>);

const READINGS: [Reading; 4] = [
    (
        "process_resident_memory_bytes",
        "Memory of the process that is in RAM",
        MetricType::Gauge,
        resident_bytes,
    ),
    (
        "process_open_fds",
        "Open file descriptors",
        MetricType::Gauge,
        open_fds,
    ),
    (
        "process_max_fds",
        "File descriptors that may be open",
        MetricType::Gauge,
        max_fds,
    ),
    (
        "process_cpu_seconds",
        "Processor time that the process has used, in user and system mode",
        MetricType::Counter,
        cpu_seconds,
    ),
];

pub(super) fn about_the_process(registry: &mut Registry, listed: &mut Vec<Listed>) {
    let mut catalogue = Catalogue {
        registry: registry.sub_registry_with_prefix("roomcast"),
        prefix: "roomcast_",
        listed,
    };
    catalogue.add_metric(
        "log_lines_dropped",
        "Lines of the log that were dropped because nobody read it",
        (None, &[]),
        LOG_LINES_DROPPED.clone(),
    );
    let labels = vec![("version", env!("CARGO_PKG_VERSION"))];
    catalogue.add_metric(
        "build",
        "Which program this is",
        (Some("version"), &[]),
        Info::new(labels),
    );
    let mut catalogue = Catalogue {
        registry,
        prefix: "",
        listed,
    };
    let start: FloatGauge = catalogue.add(
        "process_start_time_seconds",
        "When the process began to count, in Unix time",
    );
    start.set(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64(),
    );
    for (name, help, kind, read) in READINGS {
        catalogue.add_metric(name, help, (None, &[]), Sampled { kind, read });
    }
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kib.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()? * KIB)
}

fn open_fds() -> Option<f64> {
    // Since Linux 6.2 the folder's size is their number; before, it is 0 and they are counted, this one left out.
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    let count = if size > 0 {
        usize::try_from(size).ok()?
    } else {
        fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1)
    };
    u32::try_from(count).ok().map(f64::from)
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    // "unlimited" is no number, and left out.
    files.split_whitespace().next()?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, which may contain anything.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn linux_tells_all_of_it() {
        let resident = resident_bytes().expect("VmRSS");
        assert!(resident > 1_000_000.0 && resident < 1e12, "{resident}");
        let open = open_fds().expect("descriptors");
        assert!(open >= 1.0 && open <= max_fds().expect("a limit"), "{open}");
        let counted = fs::read_dir("/proc/self/fd").expect("a folder").count();
        assert!((f64::from(u32::try_from(counted).expect("few")) - open).abs() < 64.0);
    }

    #[test]
    fn processor_time_is_in_seconds() {
        let (began, before) = (std::time::Instant::now(), cpu_seconds().expect("times"));
        let mut sum = 0_u64;
        while began.elapsed() < std::time::Duration::from_millis(300) {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        let used = cpu_seconds().expect("times") - before;
        // Other tests use the processors too; a wrong unit would be wrong by a factor of ten and more.
        assert!((0.05..30.0).contains(&used), "{used} s for 0.3 s ({sum})");
    }
}
