//! The program: logging, configuration, the listening socket, and the only place that exits.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use log::error;
use roomcast::config::{Config, ConfigError};
use roomcast::metrics::LOG_LINES_DROPPED;
use roomcast::{RunError, logging, shutdown};

/// Exit code for a configuration that cannot be used.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let config = match Config::load(std::env::args_os(), &|name| std::env::var_os(name)) {
        Ok(config) => config,
        Err(ConfigError::CommandLine(error)) => error.exit(),
        Err(error) => {
            eprintln!("roomcast: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    // Held to the end: dropped, it writes what is still to be written.
    let log = match logging::start(&config.log, LOG_LINES_DROPPED.clone()) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("roomcast: no thread for the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    match actix_web::rt::System::new().block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Settings(problem)) => {
            log.say(&format!("roomcast: {problem}"));
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Running(problem)) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Why the program ends otherwise than by being told to.
enum Failure {
    /// Something that was configured cannot be used.
    Settings(String),
    /// Something happened to the running node.
    Running(String),
}

async fn serve(config: Config) -> Result<(), Failure> {
    let running = |problem: std::io::Error| Failure::Running(problem.to_string());
    let stops = shutdown::signals().map_err(running)?;
    let (host, port) = (config.host.clone(), config.port);
    let listener = TcpListener::bind((host.as_str(), port))
        .map_err(|error| Failure::Settings(format!("cannot listen on HOST={host} PORT={port}: {error}")))?;
    let address = listener.local_addr().map_err(running)?;
    let announce = |broker: &str| {
        // Whoever has closed standard output does not want to know.
        let _ = writeln!(
            std::io::stdout(),
            "roomcast {} serves the demo on {} with {broker}",
            env!("CARGO_PKG_VERSION"),
            demo_url(address)
        );
    };
    roomcast::run(config, listener, stops, announce)
        .await
        .map_err(|error| match error {
            RunError::Broker(_) | RunError::Keys(_) => Failure::Settings(error.to_string()),
            RunError::Http(_) | RunError::PartDied(_) => Failure::Running(error.to_string()),
        })
}

/// Where a browser on this machine finds the demo.
fn demo_url(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        return format!("http://localhost:{}/", address.port());
    }
    format!("http://{address}/")
}
