//! The table of settings, and the command line that is made of it.

use clap::{Arg, Command};

/// One setting as users see it.
#[derive(Debug)]
pub struct Setting {
    /// Heading under which `--help` lists it.
    pub group: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// What the value counts or looks like.
    pub unit: &'static str,
    /// The value that is used when nothing is set; empty where [`Setting::help`] says what happens then.
    pub default: &'static str,
    /// It has no flag, and a file may carry it (`…_FILE`).
    pub secret: bool,
    /// What it does.
    pub help: &'static str,
}

impl Setting {
    /// The name of the flag without its dashes: the variable without `ROOMCAST_`, in lower case.
    #[must_use]
    pub fn flag(&self) -> Option<String> {
        let name = self.variable.trim_start_matches("ROOMCAST_");
        (!self.secret).then(|| name.to_lowercase().replace('_', "-"))
    }
}

const fn open(
    group: &'static str,
    variable: &'static str,
    unit: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        group,
        variable,
        unit,
        default,
        secret: false,
        help,
    }
}

const fn secret(
    group: &'static str,
    variable: &'static str,
    unit: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        group,
        variable,
        unit,
        default: "",
        secret: true,
        help,
    }
}

const LISTEN: &str = "Listening";
const REDIS: &str = "Redis";
const HISTORY: &str = "History";
const LIMITS: &str = "Limits";
const LIFE: &str = "Life of a session";
const ACCESS: &str = "Access";
const OPERATION: &str = "Operation";

/// Every setting, in the order in which `--help` shows them.
pub const SETTINGS: &[Setting] = &[
    open(
        LISTEN,
        "PORT",
        "TCP port",
        "8080",
        "Port to listen on; 0 takes a free one",
    ),
    open(
        LISTEN,
        "HOST",
        "address",
        "0.0.0.0",
        "Address or host name to listen on",
    ),
    open(
        LISTEN,
        "ROOMCAST_WORKERS",
        "threads",
        "",
        "HTTP worker threads [default: the number of cores]",
    ),
    secret(
        REDIS,
        "REDIS_URL",
        "URL",
        "redis:// or rediss:// URL; unset: the embedded broker, one node",
    ),
    open(
        REDIS,
        "ROOMCAST_REDIS_PREFIX",
        "text",
        "",
        "Put before a room's name to get its channel [default: none]",
    ),
    open(
        REDIS,
        "ROOMCAST_REDIS_CA",
        "path",
        "",
        "PEM file of the certificates to trust [default: the system's]",
    ),
    open(
        REDIS,
        "ROOMCAST_REDIS_INSECURE",
        "0 or 1",
        "0",
        "Accept any certificate, as Heroku's Redis needs",
    ),
    open(
        HISTORY,
        "ROOMCAST_HISTORY_SIZE",
        "messages",
        "1000",
        "Messages kept per room; 0 keeps none",
    ),
    open(
        HISTORY,
        "ROOMCAST_HISTORY_TTL",
        "seconds",
        "300",
        "How long they are kept after the last one",
    ),
    open(
        HISTORY,
        "ROOMCAST_KEY_TTL",
        "seconds",
        "300",
        "How long the key of a publish is remembered",
    ),
    open(
        LIMITS,
        "ROOMCAST_MAX_MESSAGE",
        "bytes",
        "65536",
        "Longest text of a message",
    ),
    open(
        LIMITS,
        "ROOMCAST_MAX_BACKLOG",
        "bytes",
        "1048576",
        "What may wait to be sent to one session",
    ),
    open(
        LIMITS,
        "ROOMCAST_MAX_ROOMS",
        "rooms",
        "1000",
        "Rooms one session may be in",
    ),
    open(
        LIMITS,
        "ROOMCAST_MAX_CONNECTIONS",
        "sessions",
        "",
        "Sessions on this node [default: the descriptor limit less 200]",
    ),
    open(
        LIMITS,
        "ROOMCAST_RATE",
        "commands/s",
        "0",
        "Commands a session may send, in bursts of twice that; 0: any",
    ),
    open(
        LIFE,
        "ROOMCAST_HEARTBEAT",
        "seconds",
        "25",
        "Silence after which a peer is pinged; it is gone after 2.5 times that",
    ),
    open(
        LIFE,
        "ROOMCAST_DRAIN",
        "seconds",
        "25",
        "Time in which SIGTERM spreads the closing of the sessions",
    ),
    open(
        ACCESS,
        "ROOMCAST_ALLOWED_ORIGINS",
        "origins",
        "",
        "Comma-separated origins that pages may connect from, compared exactly [default: any]",
    ),
    secret(
        ACCESS,
        "ROOMCAST_JWT_SECRET",
        "text",
        "Secret of HS256 tokens, better 32 bytes or more; unset: anybody may connect",
    ),
    secret(
        ACCESS,
        "ROOMCAST_JWT_SECRET_PREVIOUS",
        "text",
        "The secret before, while it is being rotated",
    ),
    secret(
        ACCESS,
        "ROOMCAST_JWT_PUBLIC_KEY",
        "PEM",
        "Public key of RS256, ES256 or EdDSA tokens",
    ),
    secret(
        ACCESS,
        "ROOMCAST_JWT_PUBLIC_KEY_PREVIOUS",
        "PEM",
        "The public key before, while it is being rotated",
    ),
    open(
        ACCESS,
        "ROOMCAST_JWT_ISSUER",
        "text",
        "",
        "What a token's iss has to be [default: not checked]",
    ),
    open(
        ACCESS,
        "ROOMCAST_JWT_AUDIENCE",
        "text",
        "",
        "What has to be among a token's aud [default: not checked]",
    ),
    secret(
        ACCESS,
        "ROOMCAST_API_TOKEN",
        "text",
        "Bearer token of the server API; unset: there is none",
    ),
    secret(
        ACCESS,
        "ROOMCAST_METRICS_TOKEN",
        "text",
        "Bearer token of /metrics; unset: open",
    ),
    open(
        OPERATION,
        "ROOMCAST_CONFORMANCE",
        "0 or 1",
        "0",
        "Serve /echo for WebSocket conformance suites",
    ),
    open(
        OPERATION,
        "RUST_LOG",
        "filter",
        "warn,roomcast=info,actix_http=off",
        "What is logged: error, warn, info, debug, trace, or module=level,…",
    ),
];

/// The command line: one flag for each setting that is no secret.
#[must_use]
pub fn command() -> Command {
    let mut variables =
        String::from("Secrets, as variables or in a file that the variable with _FILE names:\n");
    for setting in SETTINGS.iter().filter(|setting| setting.secret) {
        variables.push_str(&format!(
            "  {:<34}{} ({})\n",
            setting.variable, setting.help, setting.unit
        ));
    }
    let flags = SETTINGS.iter().filter_map(|setting| {
        let flag = setting.flag()?;
        let default = match setting.default {
            "" => String::new(),
            value => format!(" [default: {value}]"),
        };
        let help = format!("{}{default} [env: {}]", setting.help, setting.variable);
        let arg = Arg::new(flag.clone())
            .long(flag)
            .value_name(setting.unit.to_uppercase().replace(' ', "_"));
        Some(
            arg.help(help)
                .help_heading(setting.group)
                .allow_hyphen_values(true),
        )
    });
    Command::new("roomcast")
        .version(env!("CARGO_PKG_VERSION"))
        .about("WebSocket server for rooms, scaled out over Redis Pub/Sub")
        .after_help(variables)
        .args(flags)
}
