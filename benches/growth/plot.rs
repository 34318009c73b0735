//! A picture of lines over two logarithmic axes, as an SVG file that needs nothing but a viewer.
//!
//! Its background is white in itself, so that it can be read on a dark page too.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 28.0;
const HEAD: f64 = 60.0;
const LEGEND_ROW: f64 = 20.0;
const LEGEND_COLUMN: f64 = 340.0;
const BODY: f64 = 290.0;
const FOOT: f64 = 52.0;

/// Of the Okabe-Ito palette, whose colours everybody can tell apart.
const COLOURS: [&str; 2] = ["#0072b2", "#d55e00"];

/// Names nearer to each other than this, in pixels, would overlap.
const NEAREST_NAMES: f64 = 30.0;

/// The least span of the vertical axis, so that noise does not fill it.
const LEAST_SPAN: f64 = 9.0;

pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    /// What stays as it is.
    pub(crate) fixed: &'a str,
    pub(crate) across: &'a str,
    pub(crate) up: &'a str,
    /// How a place across is written.
    pub(crate) shown: &'a dyn Fn(usize) -> String,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Line {
    pub(crate) label: String,
    pub(crate) colour: usize,
    pub(crate) dashed: bool,
    pub(crate) points: Vec<Point>,
}

pub(crate) struct Point {
    pub(crate) across: usize,
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

/// A logarithmic axis and where it lies in the picture.
struct Scale {
    values: [f64; 2],
    pixels: [f64; 2],
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let [from, to] = self.values.map(f64::ln);
        let share = (value.ln() - from) / (to - from);
        self.pixels[0] + share * (self.pixels[1] - self.pixels[0])
    }
}

impl Plot<'_> {
    /// The file's text.
    pub(crate) fn svg(&self) -> String {
        let rows = self.lines.len().div_ceil(2) as f64;
        let top = HEAD + rows * LEGEND_ROW + 8.0;
        let bottom = top + BODY;
        let height = bottom + FOOT;
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let mut places: Vec<usize> = points().map(|point| point.across).collect();
        places.sort_unstable();
        places.dedup();
        let (first, last) = (places[0] as f64, places[places.len() - 1] as f64);
        let across = Scale {
            values: [first, last.max(first * 1.1)],
            pixels: [LEFT + 16.0, WIDTH - RIGHT - 16.0],
        };
        let least = points().map(|point| point.least).fold(f64::INFINITY, f64::min);
        let most = points().map(|point| point.most).fold(0.0, f64::max);
        let ticks = ticks(least, most);
        let up = Scale {
            values: [ticks[0], ticks[ticks.len() - 1]],
            pixels: [bottom, top],
        };
        let mut svg = Svg::default();
        svg.head(height, self.title);
        svg.text(LEFT, 26.0, "font-size=\"17\" font-weight=\"600\"", self.title);
        svg.text(LEFT, 46.0, "fill=\"#57606a\"", self.fixed);
        for (index, line) in self.lines.iter().enumerate() {
            let x = LEFT + (index % 2) as f64 * LEGEND_COLUMN;
            let y = HEAD + (index / 2) as f64 * LEGEND_ROW + 6.0;
            svg.path(line, &[(x, y), (x + 30.0, y)]);
            svg.text(x + 38.0, y + 4.5, "", &line.label);
        }
        for &tick in &ticks {
            let y = up.at(tick);
            svg.grid((LEFT, y), (WIDTH - RIGHT, y));
            svg.text(LEFT - 8.0, y + 4.5, "text-anchor=\"end\"", &format!("{tick}"));
        }
        let mut free_from = f64::NEG_INFINITY;
        for &place in &places {
            let x = across.at(place as f64);
            svg.grid((x, top), (x, bottom));
            if x >= free_from {
                svg.text(x, bottom + 18.0, "text-anchor=\"middle\"", &(self.shown)(place));
                free_from = x + NEAREST_NAMES;
            }
        }
        let middle = LEFT + (WIDTH - RIGHT - LEFT) / 2.0;
        svg.text(middle, bottom + 40.0, "text-anchor=\"middle\"", self.across);
        let turned = format!(
            "text-anchor=\"middle\" transform=\"rotate(-90 18 {})\"",
            top + BODY / 2.0
        );
        svg.text(18.0, top + BODY / 2.0, &turned, self.up);
        for line in &self.lines {
            let path: Vec<(f64, f64)> = line
                .points
                .iter()
                .map(|point| (across.at(point.across as f64), up.at(point.median)))
                .collect();
            svg.path(line, &path);
            for (point, &(x, y)) in line.points.iter().zip(&path) {
                svg.spread(line, x, up.at(point.least), up.at(point.most));
                svg.dot(line, x, y);
            }
        }
        svg.0.push_str("</svg>\n");
        svg.0
    }
}

/// 1, 2, 5, 10, … as many as include both values, and no fewer than make a readable axis.
fn ticks(least: f64, most: f64) -> Vec<f64> {
    let steps: Vec<f64> = (-2..6)
        .flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(decade)))
        .collect();
    let mut from = steps.iter().rposition(|&step| step <= least).unwrap_or(0);
    let mut to = steps
        .iter()
        .position(|&step| step >= most)
        .unwrap_or(steps.len() - 1);
    while steps[to] / steps[from] < LEAST_SPAN {
        // Downwards first: a line high up looks as dear as it is.
        if (to - from) % 2 == 0 && from > 0 {
            from -= 1;
        } else {
            to = (to + 1).min(steps.len() - 1);
        }
    }
    steps[from..=to].to_vec()
}

#[derive(Default)]
struct Svg(String);

impl Svg {
    fn add(&mut self, element: &str) {
        self.0.push_str(element);
        self.0.push('\n');
    }

    fn head(&mut self, height: f64, title: &str) {
        let title = escaped(title);
        self.add(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" \
             fill=\"#1f2328\">\n<title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
        ));
    }

    fn text(&mut self, x: f64, y: f64, attributes: &str, text: &str) {
        let text = escaped(text);
        self.add(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>"
        ));
    }

    fn grid(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.add(&format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#d8dee4\"/>"
        ));
    }

    fn path(&mut self, line: &Line, points: &[(f64, f64)]) {
        let points = points.iter().fold(String::new(), |mut list, (x, y)| {
            // Writing to memory does not fail.
            let _ = write!(list, "{x:.1},{y:.1} ");
            list
        });
        let colour = line.colour();
        let dashes = if line.dashed {
            " stroke-dasharray=\"6 4\""
        } else {
            ""
        };
        self.add(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>",
            points.trim_end()
        ));
    }

    /// From the least to the most.
    fn spread(&mut self, line: &Line, x: f64, least: f64, most: f64) {
        self.add(&format!(
            "<path d=\"M{:.1} {least:.1}h8m-4 0V{most:.1}m-4 0h8\" stroke=\"{}\" fill=\"none\"/>",
            x - 4.0,
            line.colour()
        ));
    }

    fn dot(&mut self, line: &Line, x: f64, y: f64) {
        let colour = line.colour();
        let fill = if line.dashed { "#ffffff" } else { colour };
        self.add(&format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        ));
    }
}

impl Line {
    fn colour(&self) -> &'static str {
        COLOURS[self.colour % COLOURS.len()]
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
