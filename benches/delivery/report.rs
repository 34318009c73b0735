//! The tables: of each side the median of all rounds, and its ratio to the first side, round by round.

use std::fmt::Write;

use super::Outcome;
use super::process::Target;

/// How a reading is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Medians and ratios.
    Compared,
    /// For orientation: medians.
    Fact,
    /// What must not be: sums, and any makes the run fail.
    Fault,
}

#[derive(Clone)]
pub(crate) struct Reading {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) value: f64,
}

pub(crate) fn compared(name: impl Into<String>, value: f64) -> Reading {
    let name = name.into();
    Reading {
        name,
        kind: Kind::Compared,
        value,
    }
}

pub(crate) fn fact(name: impl Into<String>, value: f64) -> Reading {
    let name = name.into();
    Reading {
        name,
        kind: Kind::Fact,
        value,
    }
}

pub(crate) fn fault(name: impl Into<String>, count: u64) -> Reading {
    let name = name.into();
    Reading {
        name,
        kind: Kind::Fault,
        value: count as f64,
    }
}

/// One comparison, all its rounds.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    title: String,
    sides: Vec<String>,
    /// Of each round, each side's readings.
    rounds: Vec<Vec<Vec<Reading>>>,
}

impl Section {
    /// Runs all sides in turn, and all of them again for each further round.
    pub(crate) fn run(
        name: &'static str,
        title: String,
        sides: &[Target],
        rounds: usize,
        mut run: impl FnMut(&Target) -> Outcome<Vec<Reading>>,
    ) -> Outcome<Self> {
        let mut of_round = |round: usize| -> Outcome<Vec<Vec<Reading>>> {
            let one = |side: &Target| {
                eprintln!("{name} {round}/{rounds}: {}", side.label);
                run(side).map_err(|error| format!("{name}, {}: {error}", side.label).into())
            };
            sides.iter().map(one).collect()
        };
        Ok(Self {
            name,
            title,
            sides: sides.iter().map(|side| side.label.clone()).collect(),
            rounds: (1..=rounds).map(&mut of_round).collect::<Outcome<_>>()?,
        })
    }

    pub(crate) fn faults(&self) -> f64 {
        let readings = self.rounds.iter().flatten().flatten();
        readings
            .filter(|reading| reading.kind == Kind::Fault)
            .map(|reading| reading.value)
            .sum()
    }

    /// What a side read under this name, of all rounds. A side may lack it: the floor has no Redis.
    fn values(&self, side: usize, name: &str) -> Vec<f64> {
        let find = |readings: &Vec<Reading>| {
            readings
                .iter()
                .find(|reading| reading.name == name)
                .map(|r| r.value)
        };
        self.rounds
            .iter()
            .filter_map(|round| find(&round[side]))
            .collect()
    }

    fn median(&self, side: usize, name: &str) -> f64 {
        median(&sorted(self.values(side, name)))
    }

    /// "median (least-most)" of the ratios to the first side.
    fn ratio(&self, side: usize, name: &str) -> String {
        let (base, values) = (self.values(0, name), self.values(side, name));
        let ratios = sorted(
            base.iter()
                .zip(&values)
                .map(|(base, value)| value / base)
                .collect(),
        );
        match ratios.as_slice() {
            [] => "-".to_owned(),
            [only] => format!("{only:.2}"),
            [least, .., most] => format!("{:.2} ({least:.2}-{most:.2})", median(&ratios)),
        }
    }

    /// Every row of any side; one that the first side lacks stands where its own side has it.
    fn rows(&self) -> Vec<&Reading> {
        let mut rows: Vec<&Reading> = Vec::new();
        for readings in self.rounds.first().into_iter().flatten() {
            let mut next = 0;
            for reading in readings {
                match rows.iter().position(|row| row.name == reading.name) {
                    Some(at) => next = at + 1,
                    None => {
                        rows.insert(next, reading);
                        next += 1;
                    }
                }
            }
        }
        rows
    }

    pub(crate) fn print(&self) {
        println!("\n{}", self.title);
        let mut head = format!("  {:<46}", "");
        // Writing to memory does not fail.
        for side in &self.sides {
            let _ = write!(head, "{side:>13}");
        }
        for side in &self.sides[1..] {
            let _ = write!(head, "{:>20}", format!("{side} x"));
        }
        println!("{head}");
        for Reading { name, kind, .. } in self.rows() {
            let mut line = format!("  {name:<46}");
            for side in 0..self.sides.len() {
                let value = match kind {
                    Kind::Fault => self.values(side, name).iter().sum::<f64>().to_string(),
                    _ => shown(self.median(side, name)),
                };
                let _ = write!(line, "{value:>13}");
            }
            if *kind == Kind::Compared {
                for side in 1..self.sides.len() {
                    let _ = write!(line, "{:>20}", self.ratio(side, name));
                }
            }
            println!("{line}");
        }
    }

    /// This section's lines of the table in which a line is a side.
    pub(crate) fn print_lines(&self, columns: &[Column]) {
        for (number, side) in self.sides.iter().enumerate() {
            let mut line = format!("{:<12}{side:<14}", if number == 0 { self.name } else { "" });
            for Column {
                name, width, ratio, ..
            } in columns
            {
                let text = match (ratio, number) {
                    (false, _) => shown(self.median(number, name)),
                    (true, 0) => "1".to_owned(),
                    (true, _) => self.ratio(number, name),
                };
                let _ = write!(line, "{text:>width$}");
            }
            println!("{line}");
        }
    }
}

/// A column of the table in which a line is a side.
pub(crate) struct Column {
    /// The reading that it shows.
    pub(crate) name: &'static str,
    pub(crate) head: [&'static str; 2],
    pub(crate) width: usize,
    /// Whether it shows the reading's ratio to the first side.
    pub(crate) ratio: bool,
}

/// Prints the table in which a line is a side.
pub(crate) fn print_table(sections: &[&Section], columns: &[Column]) {
    for row in 0..2 {
        let mut head = format!("{:<26}", if row == 0 { "" } else { "scenario    side" });
        for column in columns {
            let _ = write!(head, "{:>width$}", column.head[row], width = column.width);
        }
        println!("{head}");
    }
    sections.iter().for_each(|section| section.print_lines(columns));
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
        size if size.is_nan() => "-".to_owned(),
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
