//! The table: medians of both sides, and the second side's ratio to the first, pair by pair.

/// How a reading is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A cost: medians and ratio.
    Cost,
    /// For orientation: medians.
    Fact,
    /// What must not be: sums, and any makes the run fail.
    Fault,
}

#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) value: f64,
}

/// All runs of a scenario.
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) sides: [String; 2],
    /// Of each pair, the readings of both sides, in the same order.
    pub(crate) pairs: Vec<[Vec<Reading>; 2]>,
}

impl Section {
    pub(crate) fn faults(&self) -> f64 {
        let readings = self.pairs.iter().flatten().flatten();
        readings
            .filter(|reading| reading.kind == Kind::Fault)
            .map(|reading| reading.value)
            .sum()
    }

    pub(crate) fn print(&self) {
        let [first, second] = &self.sides;
        println!("\n{}", self.title);
        println!(
            "  {:<38}{first:>12}{second:>12}    ratio: {:>7} {:>7} {:>7}",
            "", "min", "median", "max"
        );
        let names = self
            .pairs
            .first()
            .map(|[readings, _]| readings.as_slice())
            .unwrap_or_default();
        for (row, Reading { name, kind, .. }) in names.iter().enumerate() {
            // A side may lack the last rows: the floor has no Redis.
            let side = |side: usize| -> Vec<f64> {
                self.pairs
                    .iter()
                    .filter_map(|pair| Some(pair[side].get(row)?.value))
                    .collect()
            };
            let (first, second) = (side(0), side(1));
            if *kind == Kind::Fault {
                println!(
                    "  {name:<38}{:>12}{:>12}",
                    first.iter().sum::<f64>(),
                    second.iter().sum::<f64>()
                );
                continue;
            }
            let ratios = match kind {
                Kind::Cost => sorted(first.iter().zip(&second).map(|(a, b)| b / a).collect()),
                _ => Vec::new(),
            };
            print!(
                "  {name:<38}{:>12}{:>12}",
                shown(median(&sorted(first))),
                shown(median(&sorted(second)))
            );
            match ratios.as_slice() {
                [] => println!(),
                [least, ..] => {
                    let most = ratios[ratios.len() - 1];
                    println!("    {:>6} {least:>7.2} {:>7.2} {most:>7.2}", "", median(&ratios));
                }
            }
        }
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        length => f64::midpoint(sorted[(length - 1) / 2], sorted[length / 2]),
    }
}

/// Three digits that matter.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size.is_nan() => "-".to_owned(),
        _ => format!("{value:.2}"),
    }
}
