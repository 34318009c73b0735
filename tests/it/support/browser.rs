//! A headless Chromium, driven through chromedriver.
//!
//! - Each [`Window`] is a browser of its own with a fresh profile: two of them share nothing but the server.
//! - chromedriver and all Chromiums are one process group, which ends with [`Browser`], also when the test fails.
//! - Without Chromium a test fails and says what to install.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::within;

/// How long a browser may take for anything: it competes with everything else that is being tested.
pub(crate) const BROWSER_PATIENCE: Duration = Duration::from_secs(30);

/// How long the browsers' processes may go on writing to their profiles after they were killed.
const LAST_WRITES: Duration = Duration::from_secs(2);

const INSTALL: &str = "the browser tests need Chromium and its chromedriver in PATH; \
    on Debian and Ubuntu: apt-get install chromium chromium-driver";

const CHROMIUM_NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

const CHROMIUM_FLAGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--lang=en-US",
    "--window-size=1280,900",
];

/// A chromedriver process and the Chromiums that it started.
pub(crate) struct Browser {
    driver: Child,
    url: String,
    chromium: PathBuf,
    /// Profiles, and what else the processes write to.
    directories: Vec<TempDir>,
}

/// One Chromium with one page.
pub(crate) struct Window {
    client: Client,
    /// Of the session, for what fantoccini has no call for.
    session_url: String,
}

impl Browser {
    /// Starts chromedriver on a free port.
    pub(crate) fn start() -> Self {
        let driver = found(&["chromedriver"]);
        let chromium = found(&CHROMIUM_NAMES);
        let scratch = tempfile::tempdir().expect("a directory for what the processes leave");
        let mut driver = Command::new(driver)
            .arg("--port=0")
            // Killed processes do not clean up after themselves.
            .env("TMPDIR", scratch.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let mut stdout = BufReader::new(driver.stdout.take().expect("piped"));
        let port = announced_port(&mut stdout);
        // It goes on writing, and must not block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Self {
            driver,
            url: format!("http://127.0.0.1:{port}"),
            chromium,
            directories: vec![scratch],
        }
    }

    /// Starts a Chromium and opens a page in it.
    pub(crate) async fn open(&mut self, url: &str) -> Window {
        let profile = tempfile::tempdir().expect("a directory for the profile");
        let mut flags = CHROMIUM_FLAGS.map(str::to_owned).to_vec();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        self.directories.push(profile);
        let capabilities = json!({
            "goog:chromeOptions": {"binary": self.chromium, "args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let Value::Object(capabilities) = capabilities else {
            unreachable!("an object is written there")
        };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&self.url)
            .await
            .unwrap_or_else(|error| panic!("Chromium does not start: {error}"));
        let session = client.session_id().await.expect("a session").expect("its id");
        client
            .goto(url)
            .await
            .unwrap_or_else(|error| panic!("{url} does not load: {error}"));
        Window {
            client,
            session_url: format!("{}/session/{session}", self.url),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.driver), Signal::KILL);
        let _ = self.driver.wait();
        let deadline = Instant::now() + LAST_WRITES;
        for directory in &self.directories {
            while std::fs::remove_dir_all(directory.path()).is_err() && directory.path().exists() {
                if Instant::now() > deadline {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Window {
    /// Runs a script in the page, with `arguments[0]` and so on. What it returns.
    pub(crate) async fn run(&self, script: &str, arguments: Vec<Value>) -> Value {
        self.client
            .execute(script, arguments)
            .await
            .unwrap_or_else(|error| panic!("{script:?} failed in the page: {error}"))
    }

    /// Waits until an expression is true in the page.
    pub(crate) async fn sees(&self, expression: &str) {
        self.sees_with(expression, Vec::new()).await;
    }

    /// [`Window::sees`], with `arguments[0]` and so on.
    pub(crate) async fn sees_with(&self, expression: &str, arguments: Vec<Value>) {
        let script = format!("return Boolean({expression})");
        let arguments = &arguments;
        within(
            BROWSER_PATIENCE,
            &format!("{expression} with {arguments:?}"),
            async || (self.run(&script, arguments.clone()).await == true).then_some(()),
        )
        .await;
    }

    /// The visible element with this `data-testid`.
    pub(crate) async fn find(&self, testid: &str) -> Element {
        let selector = by_testid(testid);
        within(BROWSER_PATIENCE, &format!("{selector}, shown"), async || {
            let element = self.client.find(Locator::Css(&selector)).await.ok()?;
            element.is_displayed().await.ok()?.then_some(element)
        })
        .await
    }

    /// Clicks as a user does: the element must be visible and not covered.
    pub(crate) async fn click(&self, testid: &str) {
        let clicked = self.find(testid).await.click().await;
        clicked.unwrap_or_else(|error| panic!("{testid} cannot be clicked: {error}"));
    }

    /// Types into a field what is to stand there. `\u{e007}` is Enter.
    pub(crate) async fn fill(&self, testid: &str, text: &str) {
        let field = self.find(testid).await;
        field.clear().await.expect("an editable field");
        let typed = field.send_keys(text).await;
        typed.unwrap_or_else(|error| panic!("{testid} cannot be typed into: {error}"));
    }

    /// The text of each element with this `data-testid`, whether shown or not.
    pub(crate) async fn texts(&self, testid: &str) -> Vec<String> {
        let script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)";
        let texts = self.run(script, vec![by_testid(testid).into()]).await;
        serde_json::from_value(texts).expect("strings")
    }

    /// What has come to the browser's console since the last call: level, source and text of each entry.
    pub(crate) async fn console(&self) -> Vec<String> {
        let entries = self.driver("se/log", json!({"type": "browser"})).await;
        let entries = entries.as_array().expect("a list of entries");
        entries.iter().map(Value::to_string).collect()
    }

    /// Gives the page another size, in CSS pixels. Narrower than a desktop's window can be, too.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        let command = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics});
        self.driver("goog/cdp/execute", command).await;
        self.sees(&format!("innerWidth === {width}")).await;
    }

    /// Loads the page anew.
    pub(crate) async fn reload(&self) {
        self.client.refresh().await.expect("a page that loads");
    }

    /// A command of chromedriver's own.
    async fn driver(&self, command: &str, body: Value) -> Value {
        let url = format!("{}/{command}", self.session_url);
        let mut response = awc::Client::default()
            .post(&url)
            .timeout(BROWSER_PATIENCE)
            .send_json(&body)
            .await
            .unwrap_or_else(|error| panic!("{url} does not answer: {error}"));
        let mut answer: Value = response.json().await.expect("JSON");
        assert!(response.status().is_success(), "{url}: {answer}");
        answer["value"].take()
    }
}

/// The selector of a `data-testid`.
pub(crate) fn by_testid(testid: &str) -> String {
    format!("[data-testid=\"{testid}\"]")
}

fn found(names: &[&str]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{} is missing: {INSTALL}", names[0]))
}

/// Reads "ChromeDriver was started successfully on port 12345."
fn announced_port(stdout: &mut impl BufRead) -> u16 {
    let mut said = String::new();
    loop {
        let start = said.len();
        let count = stdout.read_line(&mut said).expect("readable output");
        assert!(count > 0, "chromedriver did not start; it said: {said}");
        let line = said[start..].trim_end().trim_end_matches('.');
        if line.contains("started successfully")
            && let Some((_, port)) = line.rsplit_once(' ')
        {
            return port
                .parse()
                .unwrap_or_else(|_| panic!("{line:?} ends in no port"));
        }
    }
}
