//! Latencies in logarithmic slots: 64 to a doubling, so a quantile is at most 1.6 % too low. Constant size.

const STEP_BITS: u32 = 6;
const STEPS: usize = 1 << STEP_BITS;

pub(crate) struct Histogram {
    slots: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            slots: vec![0; STEPS * 60],
            count: 0,
            max: 0,
        }
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        let magnitude = (nanoseconds | STEPS as u64).ilog2() - STEP_BITS;
        self.slots[((magnitude as usize) << STEP_BITS) + (nanoseconds >> magnitude) as usize] += 1;
        self.count += 1;
        self.max = self.max.max(nanoseconds);
    }

    /// The value that the share `quantile` (0 to 1) of all records does not exceed, in milliseconds.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        let mut left = (quantile * self.count as f64).ceil().max(1.0) as u64;
        for (slot, &count) in self.slots.iter().enumerate() {
            if left <= count {
                return lower_bound(slot) as f64 / 1e6;
            }
            left -= count;
        }
        self.max_ms()
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.max as f64 / 1e6
    }
}

fn lower_bound(slot: usize) -> u64 {
    let magnitude = (slot >> STEP_BITS).saturating_sub(1);
    ((slot - (magnitude << STEP_BITS)) as u64) << magnitude
}
