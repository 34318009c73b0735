//! The kinds of metrics that there are, and how a list of them is declared once.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::CodeLabel;
use super::labels::Label;

/// A gauge of whole and broken numbers.
pub type FloatGauge = Gauge<f64, AtomicU64>;

/// Counters by the code of a frame. A code has no sample until it has been counted once.
pub type ByCode = Family<CodeLabel, Counter>;

/// Counters by a label whose values are known beforehand: all of them are there from the start, and counting takes no
/// lock.
pub struct By<L> {
    counts: Arc<[AtomicU64]>,
    label: PhantomData<fn() -> L>,
}

impl<L: Label> By<L> {
    /// Counts one.
    pub fn inc(&self, label: L) {
        self.inc_by(label, 1);
    }

    /// Counts several.
    pub fn inc_by(&self, label: L, count: u64) {
        self.counts[label.index()].fetch_add(count, Ordering::Relaxed);
    }

    /// What has been counted.
    #[must_use]
    pub fn get(&self, label: L) -> u64 {
        self.counts[label.index()].load(Ordering::Relaxed)
    }
}

impl<L: Label> Default for By<L> {
    fn default() -> Self {
        Self {
            counts: L::VALUES.iter().map(|_| AtomicU64::new(0)).collect(),
            label: PhantomData,
        }
    }
}

impl<L> Clone for By<L> {
    fn clone(&self) -> Self {
        Self {
            counts: self.counts.clone(),
            label: PhantomData,
        }
    }
}

impl<L> fmt::Debug for By<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("By").field(&self.counts).finish()
    }
}

impl<L: Label> EncodeMetric for By<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (value, count) in L::VALUES.iter().zip(self.counts.iter()) {
            let labels = [(L::KEY, *value)];
            ConstCounter::new(count.load(Ordering::Relaxed)).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// Upper bounds of the buckets of a [`Latency`], in seconds.
const BOUNDS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// A histogram of times from 0.25 ms to 5 s.
#[derive(Clone, Debug)]
pub struct Latency(Histogram);

impl Latency {
    /// Counts one that took this long.
    pub fn observe(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(BOUNDS))
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// A number that is asked for when the metrics are. `None`: it is left out.
#[derive(Debug)]
pub(super) struct Sampled {
    pub(super) kind: MetricType,
    pub(super) read: fn() -> Option<f64>,
}

impl EncodeMetric for Sampled {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        match (self.kind, (self.read)()) {
            (_, None) => Ok(()),
            (MetricType::Counter, Some(value)) => ConstCounter::new(value).encode(encoder),
            (_, Some(value)) => ConstGauge::new(value).encode(encoder),
        }
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }

    fn is_empty(&self) -> bool {
        (self.read)().is_none()
    }
}

/// What can be declared in a list of metrics.
pub(super) trait Kind: Metric + Clone + Default {
    const LABEL: Option<&'static str> = None;
    const VALUES: &'static [&'static str] = &[];
}

impl Kind for Counter {}
impl Kind for Gauge {}
impl Kind for FloatGauge {}
impl Kind for Latency {}

impl Kind for ByCode {
    const LABEL: Option<&'static str> = Some("code");
}

impl<L: Label> Kind for By<L> {
    const LABEL: Option<&'static str> = Some(L::KEY);
    const VALUES: &'static [&'static str] = L::VALUES;
}

/// A metric as a document describes it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name, with the ending that its samples have.
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// The name of its label, if it has one.
    pub label: Option<&'static str>,
    /// The values of its label, if they are known beforehand.
    pub values: &'static [&'static str],
}

/// Registers metrics, and keeps a list of them.
#[derive(Debug)]
pub(super) struct Catalogue<'a> {
    pub(super) registry: &'a mut Registry,
    /// With the underscore; empty: none.
    pub(super) prefix: &'static str,
    pub(super) listed: &'a mut Vec<Listed>,
}

impl Catalogue<'_> {
    /// A metric with this name, whose end says what its unit is, and the first sentence about it.
    pub(super) fn add<K: Kind>(&mut self, name: &str, help: &str) -> K {
        let metric = K::default();
        self.add_metric(name, help, (K::LABEL, K::VALUES), metric.clone());
        metric
    }

    pub(super) fn add_metric(
        &mut self,
        name: &str,
        help: &str,
        (label, values): (Option<&'static str>, &'static [&'static str]),
        metric: impl Metric,
    ) {
        let kind = metric.metric_type();
        self.listed.push(Listed {
            name: format!("{}{name}{}", self.prefix, ending(kind)),
            kind: kind.as_str().to_owned(),
            label,
            values,
        });
        // The library adds the full stop again.
        let help = help.trim().trim_end_matches('.');
        if let Some(name) = name.strip_suffix("_bytes") {
            self.registry.register_with_unit(name, help, Unit::Bytes, metric);
        } else if let Some(name) = name.strip_suffix("_seconds") {
            self.registry
                .register_with_unit(name, help, Unit::Seconds, metric);
        } else {
            self.registry.register(name, help, metric);
        }
    }
}

/// What the samples of a metric have at the end of their name, beside its own.
fn ending(kind: MetricType) -> &'static str {
    match kind {
        MetricType::Counter => "_total",
        MetricType::Info => "_info",
        _ => "",
    }
}

/// A struct of metrics. Each is declared once: the field's name is the metric's name without `roomcast_` and `_total`, and
/// its documentation the help text.
macro_rules! metrics {
    ($(#[$about:meta])* pub struct $name:ident {
        $($(#[doc = $help:literal])+ $field:ident: $kind:ty,)+
    }) => {
        $(#[$about])*
        #[derive(Debug)]
        pub struct $name {
            registry: Registry,
            listed: Vec<Listed>,
            began: Instant,
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        impl Default for $name {
            fn default() -> Self {
                let (mut registry, mut listed) = (Registry::default(), Vec::new());
                let mut catalogue = Catalogue {
                    registry: registry.sub_registry_with_prefix("roomcast"),
                    prefix: "roomcast_",
                    listed: &mut listed,
                };
                $(let $field = catalogue.add(stringify!($field), concat!($($help),+));)+
                about_the_process(&mut registry, &mut listed);
                Self { registry, listed, began: Instant::now(), $($field,)+ }
            }
        }
    };
}
pub(super) use metrics;
