//! Settings as text: where each comes from, and how it becomes a checked value.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::time::Duration;

use redis::IntoConnectionInfo;

use super::{ConfigError, Lookup, RedisConfig, SETTINGS, Secret, Setting, TokenKeyKind, TokenKeys};

/// The raw texts: flags first, then variables.
pub(super) struct Source<'a> {
    pub(super) flags: &'a clap::ArgMatches,
    pub(super) lookup: Lookup<'a>,
}

impl Source<'_> {
    /// The text of a setting. An empty variable counts as unset, as platforms set it when a value is taken back.
    pub(super) fn text(&self, variable: &'static str) -> Result<Option<String>, ConfigError> {
        let setting = setting(variable);
        let flag = setting
            .flag()
            .and_then(|flag| self.flags.get_one::<String>(&flag).cloned());
        let text = match (flag, (self.lookup)(variable)) {
            (Some(text), _) => Some(text),
            (None, Some(value)) => Some(value.into_string().map_err(|value| ConfigError::Value {
                variable,
                problem: match setting.secret {
                    true => "the value is not UTF-8".to_owned(),
                    false => format!("{} is not UTF-8", shown(value.to_string_lossy())),
                },
                allowed: format!("UTF-8 text ({})", setting.unit),
            })?),
            (None, None) => None,
        };
        Ok(text.filter(|text| !text.is_empty()))
    }

    fn text_or_default(&self, variable: &'static str) -> Result<String, ConfigError> {
        Ok(self
            .text(variable)?
            .unwrap_or_else(|| setting(variable).default.to_owned()))
    }

    pub(super) fn number<N>(
        &self,
        variable: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<N, ConfigError>
    where
        N: TryFrom<u64>,
    {
        let setting = setting(variable);
        let text = self.text_or_default(variable)?;
        let number = text
            .trim()
            .parse::<u64>()
            .ok()
            .filter(|number| range.contains(number));
        number
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| ConfigError::Value {
                variable,
                problem: format!("{} is not in range", shown(&text)),
                allowed: format!(
                    "a whole number from {} to {} ({})",
                    range.start(),
                    range.end(),
                    setting.unit
                ),
            })
    }

    pub(super) fn seconds(
        &self,
        variable: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, ConfigError> {
        self.number(variable, range).map(Duration::from_secs)
    }

    pub(super) fn switch(&self, variable: &'static str) -> Result<bool, ConfigError> {
        match self.text(variable)?.as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(ConfigError::Value {
                variable,
                problem: format!("{} is neither on nor off", shown(other)),
                allowed: "1, true, 0 or false".to_owned(),
            }),
        }
    }

    /// A secret from its variable, or from the file that `…_FILE` names.
    pub(super) fn secret(&self, variable: &'static str) -> Result<Option<Secret>, ConfigError> {
        let file_variable = format!("{variable}_FILE");
        let direct = self.text(variable)?;
        let file = (self.lookup)(&file_variable).filter(|path| !path.is_empty());
        match (direct, file) {
            (Some(_), Some(_)) => Err(ConfigError::Conflict(format!(
                "{variable} and {file_variable} are both set; allowed is one of them"
            ))),
            (Some(text), None) => Ok(Some(Secret(text))),
            (None, Some(path)) => {
                let text = read(variable, &format!("{file_variable}="), &path)?;
                let text = text.trim_end_matches(['\r', '\n']).to_owned();
                if text.is_empty() {
                    return Err(ConfigError::Value {
                        variable,
                        problem: format!("the file {} is empty", shown(path.to_string_lossy())),
                        allowed: "a file that contains the secret".to_owned(),
                    });
                }
                Ok(Some(Secret(text)))
            }
            (None, None) => Ok(None),
        }
    }

    pub(super) fn host(&self) -> Result<String, ConfigError> {
        let host = self.text_or_default("HOST")?;
        if host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".:-_[]%".contains(c))
        {
            return Ok(host.trim_matches(['[', ']']).to_owned());
        }
        Err(ConfigError::Value {
            variable: "HOST",
            problem: format!("{} is no address", shown(&host)),
            allowed: "an IP address or a host name, without port".to_owned(),
        })
    }

    pub(super) fn redis(&self) -> Result<Option<RedisConfig>, ConfigError> {
        let insecure = self.switch("ROOMCAST_REDIS_INSECURE")?;
        let ca_pem = match self.text("ROOMCAST_REDIS_CA")? {
            Some(path) => Some(read("ROOMCAST_REDIS_CA", "", OsStr::new(&path))?),
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

    pub(super) fn prefix(&self) -> Result<String, ConfigError> {
        let prefix = self.text("ROOMCAST_REDIS_PREFIX")?.unwrap_or_default();
        if prefix.len() <= 255 && !prefix.chars().any(char::is_control) {
            return Ok(prefix);
        }
        Err(ConfigError::Value {
            variable: "ROOMCAST_REDIS_PREFIX",
            problem: format!("{} cannot begin a channel's name", shown(&prefix)),
            allowed: "at most 255 bytes of UTF-8 without control characters".to_owned(),
        })
    }

    pub(super) fn origins(&self) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(text) = self.text("ROOMCAST_ALLOWED_ORIGINS")? else {
            return Ok(None);
        };
        let origins: Vec<String> = text.split(',').map(|origin| origin.trim().to_owned()).collect();
        match origins.iter().find(|origin| !is_origin(origin)) {
            None => Ok(Some(origins)),
            Some(wrong) => Err(ConfigError::Value {
                variable: "ROOMCAST_ALLOWED_ORIGINS",
                problem: format!("{} is no origin", shown(wrong)),
                allowed: "a comma-separated list such as https://example.org,http://localhost:3000 (no path)"
                    .to_owned(),
            }),
        }
    }

    pub(super) fn log(&self) -> Result<String, ConfigError> {
        let filter = self.text_or_default("RUST_LOG")?;
        // The logger itself only warns of a wrong filter and goes on without.
        match env_filter::Builder::new().try_parse(&filter) {
            Ok(_) => Ok(filter),
            Err(_) => Err(ConfigError::Value {
                variable: "RUST_LOG",
                problem: format!("{} is no filter", shown(&filter)),
                allowed: "a filter such as info or warn,roomcast=debug".to_owned(),
            }),
        }
    }

    pub(super) fn token_keys(&self) -> Result<Option<TokenKeys>, ConfigError> {
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
        let issuer = self.claim("ROOMCAST_JWT_ISSUER")?;
        let audience = self.claim("ROOMCAST_JWT_AUDIENCE")?;
        let Some(keys) = shared.or(public) else {
            // Whoever sets one of these believes that tokens are checked.
            return match (issuer, audience) {
                (None, None) => Ok(None),
                (issuer, _) => Err(ConfigError::Conflict(format!(
                    "{} is set without a key; allowed is to set ROOMCAST_JWT_SECRET or ROOMCAST_JWT_PUBLIC_KEY \
                     beside it",
                    issuer.map_or("ROOMCAST_JWT_AUDIENCE", |_| "ROOMCAST_JWT_ISSUER")
                ))),
            };
        };
        Ok(Some(TokenKeys {
            issuer,
            audience,
            ..keys
        }))
    }

    /// What a claim of a token has to be.
    fn claim(&self, variable: &'static str) -> Result<Option<String>, ConfigError> {
        let text = self.text(variable)?;
        match text
            .as_ref()
            .filter(|text| text.len() > 255 || text.chars().any(char::is_control))
        {
            None => Ok(text),
            Some(wrong) => Err(ConfigError::Value {
                variable,
                problem: format!("{} is in no token", shown(wrong)),
                allowed: "at most 255 bytes of UTF-8 without control characters".to_owned(),
            }),
        }
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
            let Some(key) = key else { continue };
            let (problem, allowed) = match kind {
                TokenKeyKind::Public if !key.reveal().contains("-----BEGIN PUBLIC KEY-----") => {
                    ("the key cannot be used", "a public key in PEM form")
                }
                // Everybody knows a public key, and could sign with it.
                TokenKeyKind::Shared if key.reveal().contains("-----BEGIN ") => (
                    "this is a key in PEM form, and no secret",
                    "a random text, or a public key as ROOMCAST_JWT_PUBLIC_KEY",
                ),
                _ => continue,
            };
            return Err(ConfigError::Value {
                variable,
                problem: problem.to_owned(),
                allowed: allowed.to_owned(),
            });
        }
        match (current, previous) {
            (Some(current), previous) => Ok(Some(TokenKeys {
                kind,
                current,
                previous,
                issuer: None,
                audience: None,
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

fn read(variable: &'static str, how: &str, path: &OsStr) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::Value {
        variable,
        problem: format!("{how}{} cannot be read: {error}", shown(path.to_string_lossy())),
        allowed: "the path of a readable text file".to_owned(),
    })
}

/// A value as an error shows it: in quotes, on one line, with nothing that a terminal would obey.
fn shown(value: impl AsRef<str>) -> String {
    format!("\"{}\"", value.as_ref().escape_debug())
}

/// What is wrong with a Redis URL, in words that contain nothing of it.
pub(super) fn redis_url_problem(url: &str) -> Option<&'static str> {
    let rest = url
        .strip_prefix("redis://")
        .or_else(|| url.strip_prefix("rediss://"));
    let Some(rest) = rest else {
        return Some("does not begin with redis:// or rediss://");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.is_empty() || host.starts_with(':') {
        return Some("names no host");
    }
    url.into_connection_info()
        .is_err()
        .then_some("has a port, a database number or an option that cannot be used")
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
