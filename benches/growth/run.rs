//! The command line, the order of the runs, and what is made of them.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::axis::{Axis, Curve, Extent, Side};
use super::delivery::{Outcome, floor};
use super::plot::{Line, Plot, Point};

/// Says how to run it. A plain `cargo bench` starts every benchmark with `--bench` alone, and this one takes too long
/// for what nobody asked for by name.
const HOW_TO: &str = "growth: nothing was measured; `cargo bench --bench growth -- --axis all` takes up to 15 minutes, \
--axis sessions, rooms, members or size a part of that";

/// Stands for every axis.
const ALL: &str = "all";

pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let outcome = if arguments.get(1).is_some_and(|first| first == floor::SUBCOMMAND) {
        floor::run(&arguments[2..])
    } else if arguments[1..] == ["--bench"] {
        println!("{HOW_TO}");
        Ok(())
    } else {
        rlimit::increase_nofile_limit(u64::MAX)
            .map_err(Into::into)
            .and_then(|_| run(&Options::parse(&arguments)))
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("growth: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    axes: Vec<Axis>,
    extent: Extent,
    rounds: usize,
    seconds: f64,
    directory: PathBuf,
}

impl Options {
    /// Reads the arguments, the program's name first; prints help or what is wrong, and exits.
    fn parse(arguments: &[String]) -> Self {
        // `cargo test` says nothing.
        let smoke = arguments.len() == 1;
        let matches = command(!smoke).get_matches_from(arguments);
        let extent = if smoke {
            Extent::Smoke
        } else if matches.get_flag("quick") {
            Extent::Quick
        } else {
            Extent::Full
        };
        let axis = matches.get_one::<String>("axis");
        Self {
            axes: Axis::ALL
                .into_iter()
                .filter(|one| axis.is_none_or(|name| name == ALL || name == one.name()))
                .collect(),
            extent,
            rounds: count(&matches, "rounds").unwrap_or(if extent == Extent::Full { 3 } else { 1 }),
            seconds: matches
                .get_one::<f64>("seconds")
                .copied()
                .unwrap_or(match extent {
                    Extent::Full => 2.0,
                    Extent::Quick => 1.0,
                    Extent::Smoke => 0.2,
                }),
            directory: match matches.get_one::<PathBuf>("to") {
                Some(directory) => directory.clone(),
                None if smoke => concat!(env!("CARGO_TARGET_TMPDIR"), "/growth").into(),
                None => concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance").into(),
            },
        }
    }
}

fn count(matches: &ArgMatches, name: &str) -> Option<usize> {
    matches.get_one::<u16>(name).map(|&count| usize::from(count))
}

fn command(must_say_which: bool) -> Command {
    let positive = |text: &str| match text.parse::<f64>() {
        Ok(value) if (0.1..=60.0).contains(&value) => Ok(value),
        _ => Err("a number from 0.1 to 60 is expected"),
    };
    Command::new("growth")
        .about("Measures what a delivery costs as sessions, rooms, members and sizes grow, and draws it.")
        .arg(
            Arg::new("axis")
                .long("axis")
                .required(must_say_which)
                .value_parser(PossibleValuesParser::new(
                    [ALL].into_iter().chain(Axis::ALL.map(Axis::name)),
                ))
                .help("What grows; all of it takes up to 15 minutes"),
        )
        .arg(
            Arg::new("rounds")
                .long("rounds")
                .value_parser(value_parser!(u16).range(1..))
                .help("Runs of each point [default: 3; with --quick 1]"),
        )
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .value_parser(positive)
                .help("How long a run sends messages [default: 2; with --quick 1]"),
        )
        .arg(
            Arg::new("quick")
                .long("quick")
                .action(ArgAction::SetTrue)
                .help("Fewer and smaller points: to see whether it works"),
        )
        .arg(
            Arg::new("to")
                .long("to")
                .value_parser(value_parser!(PathBuf))
                .help("Where the pictures go [default: docs/performance]"),
        )
        .arg(
            Arg::new("bench")
                .long("bench")
                .action(ArgAction::SetTrue)
                .hide(true),
        )
}

fn run(options: &Options) -> Outcome<()> {
    fs::create_dir_all(&options.directory)?;
    for &axis in &options.axes {
        let curves = axis.curves(options.extent);
        let measured = measure(axis, &curves, options)?;
        print_table(axis, &curves, &measured);
        let path = options.directory.join(format!("{}.svg", axis.name()));
        fs::write(&path, draw(axis, &curves, &measured))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        println!("\n{}", path.display());
    }
    Ok(())
}

/// By curve, side (as in [`Side::BOTH`]) and point: each run's µs per delivery, sorted.
type Measured = Vec<[Vec<Vec<f64>>; 2]>;

fn measure(axis: Axis, curves: &[Curve], options: &Options) -> Outcome<Measured> {
    let mut measured: Measured = curves
        .iter()
        .map(|curve| Side::BOTH.map(|_| vec![Vec::new(); curve.points.len()]))
        .collect();
    for round in 1..=options.rounds {
        for (curve, sides) in curves.iter().zip(&mut measured) {
            for (index, &point) in curve.points.iter().enumerate() {
                for (side, runs) in Side::BOTH.into_iter().zip(&mut *sides) {
                    let what = format!("{} {}, {}", axis.name(), axis.shown(point), side.name());
                    eprintln!("round {round}/{}: {what}", options.rounds);
                    let cost = curve
                        .measure(point, side, options.seconds)
                        .map_err(|error| format!("{what}: {error}"))?;
                    runs[index].push(cost);
                    runs[index].sort_by(f64::total_cmp);
                }
            }
        }
    }
    Ok(measured)
}

fn print_table(axis: Axis, curves: &[Curve], measured: &Measured) {
    println!("\n{}: {}", axis.title(), axis.fixed());
    println!("CPU per delivery in microseconds: median (least to most)");
    for (curve, [floor, server]) in curves.iter().zip(measured) {
        let unit = axis.unit();
        println!("\n{:<30}{:>26}{:>26}{:>8}", unit, "floor", "server", "ratio");
        for ((&point, floor), server) in curve.points.iter().zip(floor).zip(server) {
            let place = match curve.label {
                "" => axis.shown(point),
                label => format!("{}, {label}", axis.shown(point)),
            };
            let cell = |runs: &[f64]| {
                let (least, most) = (runs[0], runs[runs.len() - 1]);
                format!("{:.2} ({least:.2} to {most:.2})", median(runs))
            };
            let ratio = median(server) / median(floor);
            println!("{place:<30}{:>26}{:>26}{ratio:>8.2}", cell(floor), cell(server));
        }
    }
}

fn draw(axis: Axis, curves: &[Curve], measured: &Measured) -> String {
    let mut lines = Vec::new();
    for (colour, (curve, sides)) in curves.iter().zip(measured).enumerate() {
        // The server's is the first of a row in the legend.
        for (side, runs) in Side::BOTH.into_iter().zip(sides).rev() {
            lines.push(Line {
                label: match curve.label {
                    "" => side.name().to_owned(),
                    label => format!("{}, {label}", side.name()),
                },
                colour,
                dashed: side == Side::Floor,
                points: curve
                    .points
                    .iter()
                    .zip(runs)
                    .map(|(&across, runs)| Point {
                        across,
                        least: runs[0],
                        median: median(runs),
                        most: runs[runs.len() - 1],
                    })
                    .collect(),
            });
        }
    }
    Plot {
        title: axis.title(),
        fixed: axis.fixed(),
        across: axis.unit(),
        up: "CPU per delivery, µs",
        shown: &|point| axis.shown(point),
        lines,
    }
    .svg()
}

fn median(sorted: &[f64]) -> f64 {
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}
