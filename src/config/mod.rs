//! Every setting: flag, variable, unit, default and range, in one table that `--help`, the parser and the README's
//! test read.
//!
//! - A setting is read as text ([`Lookup`]), then checked into a type; what leaves this module is valid.
//! - A flag wins over its variable. Secrets have no flag: a command line is visible to every user of the machine.
//! - An error names the variable, the value and what is allowed; a secret's value is never shown.
//!
//! It reads neither the environment nor the command line itself: both come in as arguments, so that tests touch
//! nothing of the process.

mod settings;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use settings::{SETTINGS, Setting, command};

/// Where the value of a variable is looked up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A text that must not be shown: its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one who has to use it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// What identifies a token's issuer. Kept with its predecessor, so that keys can be rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKeys {
    /// The kind of key that is configured fixes the algorithm.
    pub kind: TokenKeyKind,
    /// The key that signs new tokens.
    pub current: Secret,
    /// The key that signed tokens before the last rotation.
    pub previous: Option<Secret>,
}

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKeyKind {
    /// HS256 with a shared secret.
    Shared,
    /// RS256, ES256 or EdDSA, verified with a public key in PEM form.
    Public,
}

/// How to reach Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// `redis://` or `rediss://` URL. It may contain a password.
    pub url: Secret,
    /// PEM text of the certificates to trust instead of the system's.
    pub ca_pem: Option<String>,
    /// Accept any certificate.
    pub insecure: bool,
}

/// The checked configuration of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// Address or host name to listen on.
    pub host: String,
    /// HTTP worker threads.
    pub workers: usize,
    /// Redis, or the embedded broker when absent.
    pub redis: Option<RedisConfig>,
    /// Put before a room's name to get its channel.
    pub redis_prefix: String,
    /// Messages that are kept per room; 0 keeps none.
    pub history_size: u64,
    /// How long a room's messages are kept after its last publish.
    pub history_ttl: Duration,
    /// How long the key of a publish is remembered.
    pub key_ttl: Duration,
    /// Bytes of text in a message.
    pub max_message: usize,
    /// Bytes that may wait to be sent to one session.
    pub max_backlog: usize,
    /// Rooms that one session may be in.
    pub max_rooms: usize,
    /// Sessions on this node; `None` derives it from the descriptor limit.
    pub max_connections: Option<usize>,
    /// Commands per second and session; `None` for no limit.
    pub rate: Option<u32>,
    /// Silence after which a peer is asked whether it is there.
    pub heartbeat: Duration,
    /// How long a stopping node takes to send its sessions away.
    pub drain: Duration,
    /// Origins that may connect; `None` lets any in.
    pub allowed_origins: Option<Vec<String>>,
    /// Keys that tokens are checked with; `None` lets anybody in.
    pub token_keys: Option<TokenKeys>,
    /// Bearer token of the server API; `None` hides the API.
    pub api_token: Option<Secret>,
    /// Bearer token of `/metrics`; `None` opens it.
    pub metrics_token: Option<Secret>,
    /// Serve `/echo` for conformance suites.
    pub conformance: bool,
    /// Log filter in the syntax of `env_logger`.
    pub log: String,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line is wrong, or asks for help or the version.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// A value is not allowed.
    #[error("{variable}: {problem}; allowed is {allowed}")]
    Value {
        /// The variable.
        variable: &'static str,
        /// What is wrong with its value, with the value unless that is a secret.
        problem: String,
        /// What would be right.
        allowed: String,
    },
    /// Two settings exclude each other.
    #[error("{0}")]
    Conflict(String),
}

impl Config {
    /// Reads and checks all settings. `arguments` begins with the program's name.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that cannot be used.
    pub fn load<I, T>(arguments: I, lookup: Lookup<'_>) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let flags = command().try_get_matches_from(arguments)?;
        let source = Source {
            flags: &flags,
            lookup,
        };
        Ok(Self {
            port: source.number("PORT", 0..=65_535)?,
            host: source.host()?,
            workers: match source.text("ROOMCAST_WORKERS") {
                Some(_) => source.number("ROOMCAST_WORKERS", 1..=1_024)?,
                None => std::thread::available_parallelism().map_or(1, usize::from),
            },
            redis: source.redis()?,
            redis_prefix: source.prefix()?,
            history_size: source.number("ROOMCAST_HISTORY_SIZE", 0..=1_000_000)?,
            history_ttl: source.seconds("ROOMCAST_HISTORY_TTL", 1..=604_800)?,
            key_ttl: source.seconds("ROOMCAST_KEY_TTL", 1..=604_800)?,
            max_message: source.number("ROOMCAST_MAX_MESSAGE", 1..=16_777_216)?,
            max_backlog: source.number("ROOMCAST_MAX_BACKLOG", 1_024..=1_073_741_824)?,
            max_rooms: source.number("ROOMCAST_MAX_ROOMS", 1..=1_000_000)?,
            max_connections: match source.text("ROOMCAST_MAX_CONNECTIONS") {
                Some(_) => Some(source.number("ROOMCAST_MAX_CONNECTIONS", 1..=10_000_000)?),
                None => None,
            },
            rate: Some(source.number("ROOMCAST_RATE", 0..=1_000_000)?).filter(|rate| *rate > 0),
            heartbeat: source.seconds("ROOMCAST_HEARTBEAT", 1..=3_600)?,
            drain: source.seconds("ROOMCAST_DRAIN", 0..=3_600)?,
            allowed_origins: source.origins()?,
            token_keys: source.token_keys()?,
            api_token: source.secret("ROOMCAST_API_TOKEN")?,
            metrics_token: source.secret("ROOMCAST_METRICS_TOKEN")?,
            conformance: source.switch("ROOMCAST_CONFORMANCE")?,
            log: source
                .text("RUST_LOG")
                .unwrap_or_else(|| setting("RUST_LOG").default.to_owned()),
        })
    }
}

/// The raw texts: flags first, then variables.
struct Source<'a> {
    flags: &'a clap::ArgMatches,
    lookup: Lookup<'a>,
}

impl Source<'_> {
    /// The text of a setting. An empty variable counts as unset, as platforms set it when a value is taken back.
    fn text(&self, variable: &'static str) -> Option<String> {
        let setting = setting(variable);
        let flag = setting
            .flag()
            .and_then(|flag| self.flags.get_one::<String>(&flag).cloned());
        flag.or_else(|| (self.lookup)(variable))
            .filter(|text| !text.is_empty())
    }

    fn number<N>(&self, variable: &'static str, range: RangeInclusive<u64>) -> Result<N, ConfigError>
    where
        N: TryFrom<u64>,
    {
        let setting = setting(variable);
        let text = self.text(variable).unwrap_or_else(|| setting.default.to_owned());
        let number = text
            .trim()
            .parse::<u64>()
            .ok()
            .filter(|number| range.contains(number));
        number
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| ConfigError::Value {
                variable,
                problem: format!("\"{text}\" is not in range"),
                allowed: format!(
                    "a whole number from {} to {} ({})",
                    range.start(),
                    range.end(),
                    setting.unit
                ),
            })
    }

    fn seconds(&self, variable: &'static str, range: RangeInclusive<u64>) -> Result<Duration, ConfigError> {
        self.number(variable, range).map(Duration::from_secs)
    }

    fn switch(&self, variable: &'static str) -> Result<bool, ConfigError> {
        match self.text(variable).as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(ConfigError::Value {
                variable,
                problem: format!("\"{other}\" is neither on nor off"),
                allowed: "1, true, 0 or false".to_owned(),
            }),
        }
    }

    /// A secret from its variable, or from the file that `…_FILE` names.
    fn secret(&self, variable: &'static str) -> Result<Option<Secret>, ConfigError> {
        let file_variable = format!("{variable}_FILE");
        let direct = self.text(variable);
        let file = (self.lookup)(&file_variable).filter(|path| !path.is_empty());
        match (direct, file) {
            (Some(_), Some(_)) => Err(ConfigError::Conflict(format!(
                "{variable} and {file_variable} are both set; allowed is one of them"
            ))),
            (Some(text), None) => Ok(Some(Secret(text))),
            (None, Some(path)) => {
                let text = read(variable, &format!("{file_variable}={path}"), Path::new(&path))?;
                let text = text.trim_end_matches(['\r', '\n']).to_owned();
                if text.is_empty() {
                    return Err(ConfigError::Value {
                        variable,
                        problem: format!("the file {path} is empty"),
                        allowed: "a file that contains the secret".to_owned(),
                    });
                }
                Ok(Some(Secret(text)))
            }
            (None, None) => Ok(None),
        }
    }

    fn host(&self) -> Result<String, ConfigError> {
        let host = self
            .text("HOST")
            .unwrap_or_else(|| setting("HOST").default.to_owned());
        if host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".:-_[]%".contains(c))
        {
            return Ok(host.trim_matches(['[', ']']).to_owned());
        }
        Err(ConfigError::Value {
            variable: "HOST",
            problem: format!("\"{host}\" is no address"),
            allowed: "an IP address or a host name, without port".to_owned(),
        })
    }

    fn redis(&self) -> Result<Option<RedisConfig>, ConfigError> {
        let insecure = self.switch("ROOMCAST_REDIS_INSECURE")?;
        let ca_path = self.text("ROOMCAST_REDIS_CA").map(PathBuf::from);
        let ca_pem = match &ca_path {
            Some(path) => Some(read("ROOMCAST_REDIS_CA", &path.display().to_string(), path)?),
            None => None,
        };
        let Some(url) = self.secret("REDIS_URL")? else {
            return Ok(None);
        };
        if let Some(problem) = redis_url_problem(url.reveal()) {
            return Err(ConfigError::Value {
                variable: "REDIS_URL",
                problem: format!("the URL {problem}"),
                allowed: "redis://[user:password@]host[:port][/db] or rediss://… for TLS".to_owned(),
            });
        }
        Ok(Some(RedisConfig {
            url,
            ca_pem,
            insecure,
        }))
    }

    fn prefix(&self) -> Result<String, ConfigError> {
        let prefix = self.text("ROOMCAST_REDIS_PREFIX").unwrap_or_default();
        if prefix.len() <= 255 && !prefix.chars().any(char::is_control) {
            return Ok(prefix);
        }
        Err(ConfigError::Value {
            variable: "ROOMCAST_REDIS_PREFIX",
            problem: format!("\"{}\" cannot begin a channel's name", prefix.escape_debug()),
            allowed: "at most 255 bytes of UTF-8 without control characters".to_owned(),
        })
    }

    fn origins(&self) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(text) = self.text("ROOMCAST_ALLOWED_ORIGINS") else {
            return Ok(None);
        };
        let origins: Vec<String> = text.split(',').map(|origin| origin.trim().to_owned()).collect();
        match origins.iter().find(|origin| !is_origin(origin)) {
            None => Ok(Some(origins)),
            Some(wrong) => Err(ConfigError::Value {
                variable: "ROOMCAST_ALLOWED_ORIGINS",
                problem: format!("\"{wrong}\" is no origin"),
                allowed: "a comma-separated list such as https://example.org,http://localhost:3000 (no path)"
                    .to_owned(),
            }),
        }
    }

    fn token_keys(&self) -> Result<Option<TokenKeys>, ConfigError> {
        let shared = self.key_pair(
            TokenKeyKind::Shared,
            "ROOMCAST_JWT_SECRET",
            "ROOMCAST_JWT_SECRET_PREVIOUS",
        )?;
        let public = self.key_pair(
            TokenKeyKind::Public,
            "ROOMCAST_JWT_PUBLIC_KEY",
            "ROOMCAST_JWT_PUBLIC_KEY_PREVIOUS",
        )?;
        if shared.is_some() && public.is_some() {
            return Err(ConfigError::Conflict(
                "ROOMCAST_JWT_SECRET and ROOMCAST_JWT_PUBLIC_KEY are both set; allowed is one of them, \
                 because the key fixes the algorithm"
                    .to_owned(),
            ));
        }
        Ok(shared.or(public))
    }

    fn key_pair(
        &self,
        kind: TokenKeyKind,
        variable: &'static str,
        previous_variable: &'static str,
    ) -> Result<Option<TokenKeys>, ConfigError> {
        let current = self.secret(variable)?;
        let previous = self.secret(previous_variable)?;
        for (variable, key) in [(variable, &current), (previous_variable, &previous)] {
            let unusable = kind == TokenKeyKind::Public
                && key
                    .as_ref()
                    .is_some_and(|key| !key.reveal().contains("-----BEGIN PUBLIC KEY-----"));
            if unusable {
                return Err(ConfigError::Value {
                    variable,
                    problem: "the key cannot be used".to_owned(),
                    allowed: "a public key in PEM form".to_owned(),
                });
            }
        }
        match (current, previous) {
            (Some(current), previous) => Ok(Some(TokenKeys {
                kind,
                current,
                previous,
            })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(ConfigError::Conflict(format!(
                "{previous_variable} is set without {variable}; the previous key is only accepted beside a current one"
            ))),
        }
    }
}

fn setting(variable: &str) -> &'static Setting {
    SETTINGS
        .iter()
        .find(|setting| setting.variable == variable)
        .expect("every setting stands in the table")
}

fn read(variable: &'static str, shown: &str, path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::Value {
        variable,
        problem: format!("{shown} cannot be read: {error}"),
        allowed: "the path of a readable text file".to_owned(),
    })
}

/// What is wrong with a Redis URL, in words that contain nothing of it.
fn redis_url_problem(url: &str) -> Option<&'static str> {
    let rest = url
        .strip_prefix("redis://")
        .or_else(|| url.strip_prefix("rediss://"));
    let Some(rest) = rest else {
        return Some("does not begin with redis:// or rediss://");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    (host.is_empty() || host.starts_with(':')).then_some("names no host")
}

/// `scheme://host[:port]`, as browsers send it.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else {
        return false;
    };
    !scheme.is_empty()
        && !host.is_empty()
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        && !host
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "/?#*,".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let lookup = |name: &str| {
            variables
                .iter()
                .find(|(variable, _)| *variable == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Config::load(
            std::iter::once("roomcast").chain(arguments.iter().copied()),
            &lookup,
        )
    }

    fn refusal(variables: &[(&str, &str)]) -> String {
        load(&[], variables).expect_err("a bad value").to_string()
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let config = load(&[], &[]).expect("defaults");
        assert_eq!(config.port, 8080);
        assert_eq!(config.host, "0.0.0.0");
        assert_eq!(config.redis, None);
        assert_eq!(config.max_message, 65_536);
        assert_eq!(config.max_backlog, 1_048_576);
        assert_eq!(config.rate, None);
        assert_eq!(config.heartbeat, Duration::from_secs(25));
        assert_eq!(config.history_size, 1_000);
    }

    #[test]
    fn a_flag_wins_over_its_variable() {
        let config = load(&["--max-rooms", "5"], &[("ROOMCAST_MAX_ROOMS", "6")]).expect("good values");
        assert_eq!(config.max_rooms, 5);
    }

    #[test]
    fn a_bad_value_names_the_variable_the_value_and_what_is_allowed() {
        for (variable, value) in [
            ("PORT", "http"),
            ("PORT", "65536"),
            ("ROOMCAST_HEARTBEAT", "0"),
            ("ROOMCAST_HISTORY_SIZE", "-1"),
            ("ROOMCAST_MAX_BACKLOG", "1e6"),
            ("ROOMCAST_CONFORMANCE", "maybe"),
            ("ROOMCAST_ALLOWED_ORIGINS", "https://a.example/path"),
            ("ROOMCAST_REDIS_CA", "/nonexistent/ca.pem"),
            ("HOST", "a b"),
        ] {
            let message = refusal(&[(variable, value)]);
            assert!(message.contains(variable), "{message}");
            assert!(message.contains(value), "{message}");
            assert!(message.contains("allowed is"), "{message}");
        }
    }

    #[test]
    fn secrets_never_show() {
        let url = "http://user:hunter2@host";
        assert!(!refusal(&[("REDIS_URL", url)]).contains("hunter2"));
        assert!(!refusal(&[("ROOMCAST_JWT_PUBLIC_KEY", "hunter2")]).contains("hunter2"));
        let config = load(&[], &[("REDIS_URL", "redis://:hunter2@host")]).expect("a good URL");
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_may_be_in_a_file_but_not_in_two_places() {
        let path = std::env::temp_dir().join(format!("roomcast-secret-{}", std::process::id()));
        std::fs::write(&path, "hunter2\n").expect("a writable temporary folder");
        let path_text = path.to_str().expect("a UTF-8 path");
        let config = load(&[], &[("ROOMCAST_API_TOKEN_FILE", path_text)]).expect("a readable file");
        assert_eq!(config.api_token, Some(Secret("hunter2".to_owned())));
        let both = refusal(&[
            ("ROOMCAST_API_TOKEN_FILE", path_text),
            ("ROOMCAST_API_TOKEN", "x"),
        ]);
        assert!(both.contains("both set"), "{both}");
        std::fs::remove_file(&path).expect("the file is there");
    }

    #[test]
    fn one_kind_of_token_key_at_a_time() {
        let secret = "0123456789abcdef0123456789abcdef";
        let pem = "-----BEGIN PUBLIC KEY-----\nMFk=\n-----END PUBLIC KEY-----";
        let message = refusal(&[("ROOMCAST_JWT_SECRET", secret), ("ROOMCAST_JWT_PUBLIC_KEY", pem)]);
        assert!(message.contains("both set"), "{message}");
        let message = refusal(&[("ROOMCAST_JWT_SECRET_PREVIOUS", secret)]);
        assert!(message.contains("without ROOMCAST_JWT_SECRET"), "{message}");
    }

    #[test]
    fn a_redis_url_needs_scheme_and_host() {
        for url in ["localhost:6379", "redis://", "redis://:6379", "rediss://u:p@/0"] {
            assert!(redis_url_problem(url).is_some(), "{url}");
        }
        for url in ["redis://localhost", "rediss://u:p@h:6380/1", "redis://[::1]:6379"] {
            assert_eq!(redis_url_problem(url), None, "{url}");
        }
    }

    #[test]
    fn every_flag_is_its_variable_in_lower_case() {
        command().debug_assert();
        for setting in SETTINGS.iter().filter(|setting| !setting.secret) {
            let flag = setting.flag().expect("not a secret");
            let expected = setting
                .variable
                .trim_start_matches("ROOMCAST_")
                .to_lowercase()
                .replace('_', "-");
            assert_eq!(flag, expected);
        }
    }
}
