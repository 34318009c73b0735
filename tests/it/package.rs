//! The browser client as a package: what is in it, that its types say what it has, and that it works in Node.
//!
//! - What needs no other program is tested always: the version, and that every name of the client is declared.
//! - What needs Node or npm is tested where they are, and says so where they are not: the server needs neither.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::node::Node;

/// The compiler that the declarations are checked with, where npm can install it.
const TYPESCRIPT: &str = "typescript@7.0.2";

const CASES: [&str; 4] = ["cases.js", "handover.js", "tokens.js", "presence.js"];

const TSC: [&str; 10] = [
    "--noEmit",
    "--target",
    "es2024",
    "--lib",
    "es2024,dom,dom.iterable",
    "--module",
    "nodenext",
    "--types",
    "",
    "--skipLibCheck",
];

/// Before this version there is a global WebSocket only if it is asked for, and before the next not even then.
const NODE_WITH_WEBSOCKET: u32 = 22;
const NODE_WITH_HIDDEN_WEBSOCKET: u32 = 20;

#[test]
fn the_package_is_of_this_version_and_needs_no_other() {
    let package = package();
    assert_eq!(package["name"], "roomcast");
    assert_eq!(
        package["version"],
        env!("CARGO_PKG_VERSION"),
        "left: static/package.json, right: Cargo.toml"
    );
    assert_eq!(package["license"], env!("CARGO_PKG_LICENSE"));
    for kind in ["dependencies", "peerDependencies", "scripts"] {
        assert!(package.get(kind).is_none(), "{kind}");
    }
}

#[test]
fn every_name_of_the_client_is_declared() {
    let client = text("static/roomcast.js");
    let declared = text("static/roomcast.d.ts");
    let mut missing = Vec::new();
    for name in exported(&client) {
        let words = [
            format!("export class {name} "),
            format!("export function {name}("),
        ];
        if !words.iter().any(|words| declared.contains(words)) {
            missing.push(name);
        }
    }
    for class in ["RoomcastError", "Reporter", "Roomcast", "MemberList"] {
        let there = body(&client, &format!("class {class}"));
        let here = body(&declared, &format!("class {class}"));
        let members = public_members(&there);
        assert!(!members.is_empty(), "{class}");
        missing.extend(
            members
                .difference(&public_members(&here))
                .map(|member| format!("{class}.{member}")),
        );
    }
    for interface in [
        "RoomcastEventMap",
        "RoomcastOptions",
        "SubscribeOptions",
        "PublishOptions",
        "StateDetail",
        "MessageDetail",
        "GapDetail",
        "UnsubscribedDetail",
        "Member",
        "MembersDetail",
        "MemberListEventMap",
        "MembersChange",
    ] {
        let fields = documented_properties(&client, interface);
        assert!(!fields.is_empty(), "{interface}");
        let here = body(&declared, &format!("interface {interface}"));
        let has = |field: &str| {
            let inherited = field == "room" && here.contains("extends RoomDetail");
            inherited || here.contains(&format!("\n  {field}: ")) || here.contains(&format!("\n  {field}?: "))
        };
        missing.extend(
            fields
                .iter()
                .filter(|field| !has(field))
                .map(|field| format!("{interface}.{field}")),
        );
    }
    assert_eq!(
        missing,
        Vec::<String>::new(),
        "static/roomcast.d.ts does not know them"
    );
}

#[test]
fn the_page_about_the_client_names_all_that_it_has() {
    let client = text("static/roomcast.js");
    let page = text("docs/client.md");
    let mut missing = Vec::new();
    for class in ["Reporter", "Roomcast", "MemberList"] {
        missing.extend(public_members(&body(&client, &format!("class {class}"))));
    }
    for map in [
        "RoomcastEventMap",
        "RoomcastOptions",
        "SubscribeOptions",
        "PublishOptions",
        "MemberListEventMap",
    ] {
        missing.extend(documented_properties(&client, map));
    }
    missing.retain(|name| !page.contains(&format!("`{name}")));
    assert_eq!(missing, Vec::<String>::new(), "docs/client.md does not know them");
}

#[test]
fn the_declarations_and_the_documents_examples_pass_the_compiler() {
    let Some(tsc) = typescript() else { return };
    let project = project();
    for name in ["sample.ts", "examples.d.ts"] {
        fs::copy(
            file(&format!("tests/it/package/{name}")),
            project.path().join(name),
        )
        .expect("a copy");
    }
    let mut compile = Command::new("node");
    compile
        .arg(&tsc)
        .args(TSC)
        .args(["--strict", "sample.ts"])
        .current_dir(project.path());
    let output = run(&mut compile);
    assert!(output.status.success(), "{}", said(&output));

    let mut compile = Command::new("node");
    compile
        .arg(&tsc)
        .args(TSC)
        .args(["--allowJs", "--checkJs", "--strict", "false", "examples.d.ts"])
        .current_dir(project.path());
    for (page, fewest) in [
        ("docs/client.md", 5),
        ("docs/migrating.md", 4),
        ("static/README.md", 1),
    ] {
        let examples = examples(page);
        assert!(examples.len() >= fewest, "{page} has {} examples", examples.len());
        for (nth, example) in examples.iter().enumerate() {
            let name = format!("{}-{nth}.js", page.replace(['/', '.'], "-"));
            // A module, so that the names of one are not those of another; `client` stands for the one above.
            fs::write(project.path().join(&name), format!("{example}\nexport {{}};\n")).expect("a file");
            compile.arg(name);
        }
    }
    let output = run(&mut compile);
    assert!(output.status.success(), "{}", said(&output));
}

#[actix::test]
async fn the_examples_for_those_who_migrate_run() {
    let Some(major) = version_of("node") else { return };
    if major < NODE_WITH_HIDDEN_WEBSOCKET {
        return skipped(&format!("Node {major} has no WebSocket"));
    }
    let node = Node::start(&[]).await;
    let examples = examples("docs/migrating.md");
    for (nth, shown) in [(0, "hello"), (1, "hello"), (2, "lobby: hello")] {
        let project = project();
        let example = examples[nth].replace("wss://chat.example.com", &node.ws_url());
        let show = "globalThis.show = (text) => { console.log(text); process.exit(0); };";
        fs::write(project.path().join("show.mjs"), show).expect("a file");
        fs::write(
            project.path().join("example.mjs"),
            format!("import './show.mjs';\n{example}"),
        )
        .expect("a file");
        let mut program = with_websocket(major);
        program.arg("example.mjs").current_dir(project.path());
        assert_eq!(said(&run(&mut program)).trim(), shown, "{example}");
    }
}

#[test]
fn the_package_has_the_client_and_nothing_else() {
    if version_of("npm").is_none() {
        return;
    }
    let mut pack = Command::new("npm");
    pack.args(["pack", "--dry-run", "--json", "--offline"])
        .current_dir(file("static"));
    let output = run(&mut pack);
    assert!(output.status.success(), "{}", said(&output));
    let packed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    // npm up to version 11 gives a list, later ones an object with the package's name.
    let package = packed
        .get(0)
        .or_else(|| packed.get("roomcast"))
        .expect("one package");
    let files: BTreeSet<&str> = package["files"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|file| file["path"].as_str())
        .collect();
    assert_eq!(
        files,
        BTreeSet::from(["README.md", "package.json", "roomcast.d.ts", "roomcast.js"])
    );
}

#[test]
fn the_client_keeps_its_promises_in_node() {
    let Some(major) = version_of("node") else { return };
    if major < NODE_WITH_HIDDEN_WEBSOCKET {
        return skipped(&format!("Node {major} is too old for the client"));
    }
    let project = project();
    fs::copy(
        file("tests/it/package/cases.mjs"),
        project.path().join("cases.mjs"),
    )
    .expect("a copy");
    let mut cases = Command::new("node");
    cases.arg("cases.mjs").current_dir(project.path());
    cases.args(CASES.map(|name| file(&format!("tests/it/browser/{name}"))));
    let output = run(&mut cases);
    assert_eq!(said(&output).trim(), "[]");
}

#[actix::test]
async fn the_client_talks_to_a_server_with_nodes_own_websocket() {
    let Some(major) = version_of("node") else { return };
    if major < NODE_WITH_HIDDEN_WEBSOCKET {
        return skipped(&format!("Node {major} has no WebSocket"));
    }
    let node = Node::start(&[]).await;
    let project = project();
    fs::copy(file("tests/it/package/talk.mjs"), project.path().join("talk.mjs")).expect("a copy");
    let mut talk = with_websocket(major);
    talk.arg("talk.mjs")
        .arg(format!("{}/ws", node.ws_url()))
        .current_dir(project.path());
    let output = run(&mut talk);
    let heard: Value = serde_json::from_str(&said(&output)).unwrap_or_else(|_| panic!("{}", said(&output)));
    let expected = json!({"room": "lobby", "sender": "ann", "message": {"any": ["json"]}, "own": false});
    assert_eq!(heard, expected);
}

/// Node of this version, with a global WebSocket.
fn with_websocket(major: u32) -> Command {
    let mut node = Command::new("node");
    if major < NODE_WITH_WEBSOCKET {
        node.args(["--experimental-websocket", "--no-warnings"]);
    }
    node
}

/// The scripts of a page, in the forms in which it shows them, as modules that import the package.
fn examples(page: &str) -> Vec<String> {
    let text = text(page);
    let blocks = text
        .split("```js\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or(rest));
    let scripts = text
        .split("<script type=\"module\">\n")
        .skip(1)
        .map(|rest| rest.split("</script>").next().unwrap_or(rest));
    let module = |code: &str| {
        let code = code.replace("https://chat.example.com/roomcast.js", "roomcast");
        code.replace("./roomcast.mjs", "roomcast")
    };
    blocks.chain(scripts).map(module).collect()
}

/// A directory in which `import "roomcast"` finds the package.
fn project() -> TempDir {
    let project = tempfile::tempdir().expect("a directory");
    let package = project.path().join("node_modules/roomcast");
    fs::create_dir_all(&package).expect("a directory");
    for name in ["roomcast.js", "roomcast.d.ts", "package.json"] {
        fs::copy(file(&format!("static/{name}")), package.join(name)).expect("a copy");
    }
    fs::write(project.path().join("package.json"), r#"{"type":"module"}"#).expect("a file");
    project
}

/// The compiler's entry, which is installed once, beside what the build has made.
fn typescript() -> Option<PathBuf> {
    version_of("node")?;
    version_of("npm")?;
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(TYPESCRIPT);
    let tsc = place.join("node_modules/typescript/bin/tsc");
    if !tsc.exists() {
        fs::create_dir_all(&place).expect("a directory");
        let mut install = Command::new("npm");
        install.args(["install", "--prefix"]).arg(&place);
        install.args([
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
            "--fetch-retries=0",
        ]);
        let output = run(install.arg(TYPESCRIPT));
        if !output.status.success() {
            skipped(&format!("{TYPESCRIPT} cannot be installed: {}", said(&output)));
            return None;
        }
    }
    Some(tsc)
}

/// The major version of a program, if it is there.
fn version_of(program: &str) -> Option<u32> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let version = output
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| {
            let said = String::from_utf8(output.stdout).ok()?;
            said.trim()
                .trim_start_matches('v')
                .split('.')
                .next()?
                .parse()
                .ok()
        });
    if version.is_none() {
        skipped(&format!("there is no {program}"));
    }
    version
}

fn skipped(why: &str) {
    eprintln!("NOT tested: {why}");
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn package() -> Value {
    serde_json::from_str(&text("static/package.json")).expect("JSON")
}

/// The names after `export class` and `export function`.
fn exported(client: &str) -> Vec<String> {
    let names: Vec<String> = client
        .lines()
        .filter_map(|line| {
            let rest = line
                .strip_prefix("export class ")
                .or_else(|| line.strip_prefix("export function "))?;
            rest.split([' ', '(']).next().map(str::to_owned)
        })
        .collect();
    assert!(!names.is_empty(), "it exports nothing any more");
    names
}

/// What stands between a line with this name of a class or an interface and the next line that only closes a brace.
fn body(code: &str, name: &str) -> String {
    let begins = |line: &str| {
        let rest = line.split_once(name).map(|(_, rest)| rest);
        rest.is_some_and(|rest| rest.starts_with([' ', '<'])) && line.ends_with('{')
    };
    let found = code.lines().position(begins);
    let start = found.unwrap_or_else(|| panic!("there is no {name:?}"));
    let lines: Vec<&str> = code.lines().skip(start).take_while(|line| *line != "}").collect();
    lines.join("\n")
}

/// The methods and getters of a class that are not private.
fn public_members(class: &str) -> BTreeSet<String> {
    class
        .lines()
        .filter_map(|line| {
            let member = line.strip_prefix("  ")?;
            let member = member.strip_prefix("get ").unwrap_or(member);
            let end = member.find(['(', '<'])?;
            let name = &member[..end];
            let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
            (is_name && name != "constructor").then(|| name.to_owned())
        })
        .collect()
}

/// The `@property`s of a `@typedef {object}`.
fn documented_properties(client: &str, name: &str) -> Vec<String> {
    let typedef = format!(" * @typedef {{object}} {name}");
    let lines = client.lines().skip_while(|line| {
        line.strip_prefix(&typedef)
            .is_none_or(|rest| !(rest.is_empty() || rest.starts_with(' ')))
    });
    lines
        .skip(1)
        .take_while(|line| !line.contains("@typedef") && !line.contains("*/") && line.trim() != "*")
        .filter_map(|line| {
            let property = line.strip_prefix(" * @property {")?;
            // Types may have braces and spaces, and end with a brace before a space.
            let (_, rest) = property.split_once("} ")?;
            let name = rest.trim_start().split([' ', '\t']).next()?;
            Some(name.trim_matches(['[', ']']).to_owned())
        })
        .collect()
}
