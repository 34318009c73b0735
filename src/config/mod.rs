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
mod source;

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use self::source::Source;

pub use settings::{SETTINGS, Setting, command};

/// Where the value of a variable is looked up. It may be no text at all, which must not make it count as unset.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

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
    /// Who has to have issued a token (`iss`); `None` does not ask.
    pub issuer: Option<String>,
    /// Whom a token has to be meant for (`aud`); `None` does not ask.
    pub audience: Option<String>,
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

/// What the broker keeps of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Messages per room; 0 switches history off.
    pub size: u64,
    /// How long a room's messages are kept after its last publish.
    pub ttl: Duration,
    /// How long the key of a publish is remembered.
    pub key_ttl: Duration,
}

impl Retention {
    /// Whether there is history at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.size > 0
    }
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
    /// What the broker keeps of the past.
    pub retention: Retention,
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
        T: Into<OsString> + Clone,
    {
        let flags = command().try_get_matches_from(arguments)?;
        let source = Source {
            flags: &flags,
            lookup,
        };
        Ok(Self {
            port: source.number("PORT", 0..=65_535)?,
            host: source.host()?,
            workers: match source.text("ROOMCAST_WORKERS")? {
                Some(_) => source.number("ROOMCAST_WORKERS", 1..=1_024)?,
                None => std::thread::available_parallelism().map_or(1, usize::from),
            },
            redis: source.redis()?,
            redis_prefix: source.prefix()?,
            retention: Retention {
                size: source.number("ROOMCAST_HISTORY_SIZE", 0..=1_000_000)?,
                ttl: source.seconds("ROOMCAST_HISTORY_TTL", 1..=604_800)?,
                key_ttl: source.seconds("ROOMCAST_KEY_TTL", 1..=604_800)?,
            },
            max_message: source.number("ROOMCAST_MAX_MESSAGE", 1..=16_777_216)?,
            max_backlog: source.number("ROOMCAST_MAX_BACKLOG", 1_024..=1_073_741_824)?,
            max_rooms: source.number("ROOMCAST_MAX_ROOMS", 1..=1_000_000)?,
            max_connections: match source.text("ROOMCAST_MAX_CONNECTIONS")? {
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
            log: source.log()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::source::redis_url_problem;
    use super::*;

    fn load(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let lookup = |name: &str| {
            variables
                .iter()
                .find(|(variable, _)| *variable == name)
                .map(|(_, value)| OsString::from(value))
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
        assert_eq!(config.retention.size, 1_000);
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
        for url in [
            "localhost:6379",
            "redis://",
            "redis://:6379",
            "rediss://u:p@/0",
            "redis://h:99999",
            "redis://h/first",
        ] {
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
