//! Rules of the source that no compiler checks: who may import whom, what every file begins with, and that the
//! documents say what the source says.
//!
//! It reads text, as rustfmt leaves it: comments stand on lines of their own or behind a space, and are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use roomcast::config::SETTINGS;
use roomcast::metrics::Metrics;

/// Imports go one way: `http → session → rooms → broker → protocol`, beside leaves that import nothing of the crate
/// (`tokens` imports two of them).
/// What is not listed is not allowed; a module may always use itself. `main.rs`, `lib.rs` and its
/// `tests.rs` put everything together.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "http",
        &[
            "session", "rooms", "broker", "protocol", "tokens", "config", "metrics", "throttle",
        ],
    ),
    ("session", &["rooms", "broker", "protocol", "tokens", "metrics"]),
    (
        "rooms",
        &[
            "broker", "protocol", "tokens", "config", "lifeline", "metrics", "throttle",
        ],
    ),
    (
        "broker",
        &["protocol", "config", "lifeline", "metrics", "throttle"],
    ),
    ("tokens", &["protocol", "config", "metrics"]),
    ("shutdown", &[]),
    ("lifeline", &[]),
    ("protocol", &[]),
    ("config", &[]),
    ("logging", &[]),
    ("metrics", &[]),
    ("throttle", &[]),
];

/// The only files that know the WebSocket actor of the framework.
const KNOW_THE_WEBSOCKET_ACTOR: [&str; 2] = ["session/actor.rs", "http/ws.rs"];

const MOST_LINES: usize = 600;

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (file, text) in sources("src") {
        let module = top_module(&file);
        if matches!(module, "main" | "lib" | "tests") {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("src/{file}: {module} has no line in MAY_USE"));
            continue;
        };
        let code = without_comments(&text);
        let depth = file.trim_end_matches("/mod.rs").split('/').count();
        for used in used_by(&code, depth) {
            if used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("src/{file} uses crate::{used}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_import_reader_sees_through_braces_and_paths() {
    let code = "use crate::protocol::{RoomName, server::{self, ErrorCode}};\n\
        use crate::{\n    config::{Config, Secret},\n    rooms::table::RoomTable,\n};\n\
        pub(crate) use crate::metrics as counters;\n\
        fn call() { crate::broker::open(); let _ = Vec::<crate::http::Node>::new(); }\n\
        use super::close;\nuse super::super::session::actor;\n\
        #[cfg(test)]\nmod tests {\n    use super::super::super::nothing;\n    use crate::throttle;\n}\n";
    let expected = [
        "broker", "config", "http", "metrics", "protocol", "rooms", "session", "throttle",
    ];
    assert!(
        used_by(code, 2).iter().eq(expected.iter()),
        "{:?}",
        used_by(code, 2)
    );
    let commented = "let a = 1; // crate::http\n/// See [`crate::rooms`].\n//! crate::session\n";
    assert!(used_by(&without_comments(commented), 1).is_empty());
}

#[test]
fn only_two_files_know_the_websocket_actor() {
    let knowing: Vec<_> = sources("src")
        .into_iter()
        .filter(|(_, text)| without_comments(text).contains("actix_web_actors"))
        .map(|(file, _)| file)
        .collect();
    for file in &knowing {
        assert!(
            KNOW_THE_WEBSOCKET_ACTOR.contains(&file.as_str()),
            "src/{file} imports actix_web_actors"
        );
    }
}

#[test]
fn every_file_begins_with_a_head_page() {
    for directory in ["src", "tests", "benches"] {
        for (file, text) in sources(directory) {
            assert!(text.starts_with("//! "), "{directory}/{file} has no head page");
        }
    }
}

#[test]
fn no_file_of_the_program_is_longer_than_is_read_in_one_go() {
    for (file, text) in sources("src") {
        let lines = text.lines().count();
        assert!(
            lines <= MOST_LINES,
            "src/{file} has {lines} lines; {MOST_LINES} are allowed"
        );
    }
}

#[test]
fn the_readme_lists_every_setting_with_its_default() {
    let readme = document("README.md");
    let mut rows: BTreeMap<&str, &str> = readme
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let variable = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            let named = variable
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            named.then_some((variable, cells.next()?.trim_matches('`')))
        })
        .collect();
    for setting in SETTINGS {
        let variable = setting.variable;
        let default = rows
            .remove(variable)
            .unwrap_or_else(|| panic!("README.md: {variable} has no row in the table of settings"));
        if setting.default.is_empty() {
            assert!(
                !default.is_empty(),
                "README.md: {variable} says nothing about its default"
            );
        } else {
            assert_eq!(default, setting.default, "README.md: the default of {variable}");
        }
    }
    assert!(
        rows.is_empty(),
        "README.md has rows for settings that there are not: {rows:?}"
    );
}

#[test]
fn the_protocol_page_lists_every_error_code() {
    let page = document("docs/protocol.md");
    let codes = match_arms("protocol/error.rs", |value| {
        value.strip_prefix('"')?.strip_suffix('"').map(str::to_owned)
    });
    for code in codes {
        assert!(
            page.contains(&format!("`{code}`")),
            "docs/protocol.md does not know `{code}`"
        );
    }
}

#[test]
fn the_protocol_page_lists_exactly_the_close_codes() {
    let page = document("docs/protocol.md");
    let codes = match_arms("protocol/close.rs", |value| value.parse::<u16>().ok());
    let listed: BTreeSet<u16> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()?.parse().ok())
        .filter(|code| (1000..5000).contains(code))
        .collect();
    assert_eq!(
        listed, codes,
        "left: docs/protocol.md, right: src/protocol/close.rs"
    );
}

/// A row: name, type, label with its values, meaning, alarm.
#[test]
fn the_operations_page_lists_exactly_the_metrics() {
    let page = document("docs/operations.md");
    let mut rows: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in page.lines() {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let name = cells.next().and_then(|cell| cell.strip_prefix('`'));
        let Some(name) = name.and_then(|name| name.strip_suffix('`')) else {
            continue;
        };
        if name.starts_with("roomcast_") || name.starts_with("process_") {
            let earlier = rows.insert(name, cells.collect());
            assert!(earlier.is_none(), "docs/operations.md has two rows for {name}");
        }
    }
    for metric in Metrics::default().list() {
        let name = metric.name.as_str();
        let row = rows
            .remove(name)
            .unwrap_or_else(|| panic!("docs/operations.md: {name} has no row in the table of metrics"));
        let [kind, label, meaning, ..] = row[..] else {
            panic!("docs/operations.md: the row of {name} has too few cells");
        };
        assert_eq!(kind, metric.kind, "docs/operations.md: the type of {name}");
        let expected = match (metric.label, metric.values) {
            (None, _) => String::new(),
            (Some(label), []) => format!("`{label}`"),
            (Some(label), values) => format!("`{label}`: {}", values.join(", ")),
        };
        assert_eq!(label, expected, "docs/operations.md: the label of {name}");
        assert!(!meaning.is_empty(), "docs/operations.md: {name} has no meaning");
    }
    assert!(
        rows.is_empty(),
        "docs/operations.md has rows for metrics that there are not: {rows:?}"
    );
}

/// The files of a directory and below, by their path in it with forward slashes, and their text.
fn sources(directory: &str) -> BTreeMap<String, String> {
    fn walk(directory: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
            if path.is_dir() {
                walk(&path, &format!("{prefix}{name}/"), found);
            } else if name.ends_with(".rs") {
                found.insert(
                    format!("{prefix}{name}"),
                    fs::read_to_string(&path).expect("a text"),
                );
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join(directory),
        "",
        &mut found,
    );
    assert!(!found.is_empty(), "{directory} has no sources");
    found
}

fn document(path: &str) -> String {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(full).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `rooms` of `rooms/table.rs`, `metrics` of `metrics.rs`.
fn top_module(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.trim_end_matches(".rs")
}

fn without_comments(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| line.split(" // ").next().unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What stands directly under the crate in each of the paths of a file, of which the module is this deep in it.
fn used_by(code: &str, depth: usize) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, keyword) in code.match_indices("crate::") {
        // Not the end of a longer name; `$crate` is the crate as well.
        if !code[..at].ends_with(is_name_char) {
            first_names(&code[at + keyword.len()..], &mut used);
        }
    }
    // Inside the tests' module a `super` leads to the file itself.
    let outside_tests = code.split("\nmod tests {").next().unwrap_or(code);
    let climb = "super::".repeat(depth);
    for (at, _) in outside_tests.match_indices(&climb) {
        if !outside_tests[..at].ends_with(|c| is_name_char(c) || c == ':') {
            first_names(&outside_tests[at + climb.len()..], &mut used);
        }
    }
    used
}

/// The first names of a path, or of each path in braces.
fn first_names(path: &str, names: &mut BTreeSet<String>) {
    let Some(group) = path.strip_prefix('{') else {
        let end = path.find(|c| !is_name_char(c)).unwrap_or(path.len());
        names.insert(path[..end].to_owned());
        return;
    };
    let (mut depth, mut expecting) = (0, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => return,
            '}' => depth -= 1,
            ',' if depth == 0 => expecting = true,
            other if expecting && !other.is_whitespace() => {
                expecting = false;
                first_names(&group[at..], names);
            }
            _ => {}
        }
    }
}

fn is_name_char(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The values of the match arms `Self::Name => value,` in a file that `read` takes.
fn match_arms<T: Ord>(file: &str, read: impl Fn(&str) -> Option<T>) -> BTreeSet<T> {
    let text = &sources("src")[file];
    let values: BTreeSet<T> = text
        .lines()
        .filter_map(|line| {
            let (_, value) = line.trim().strip_prefix("Self::")?.split_once(" => ")?;
            read(value.trim_end_matches(','))
        })
        .collect();
    assert!(!values.is_empty(), "src/{file} names no codes any more");
    values
}
