//! The program: logging, configuration, the listening socket, and the only place that exits.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use log::error;
use roomcast::config::{Config, ConfigError};
use roomcast::shutdown;

/// Exit code for a configuration that cannot be used.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let config = match Config::load(std::env::args_os(), &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(ConfigError::CommandLine(error)) => error.exit(),
        Err(error) => {
            eprintln!("roomcast: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if let Err(problem) = start_logging(&config.log) {
        eprintln!("roomcast: {problem}");
        return ExitCode::from(EXIT_USAGE);
    }
    match actix_web::rt::System::new().block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(filter: &str) -> Result<(), String> {
    // The logger itself only warns of a wrong filter and goes on without.
    env_filter::Builder::new().try_parse(filter).map_err(|error| {
        format!(
            "RUST_LOG: \"{filter}\" is no filter ({error}); allowed is for instance info or roomcast=debug"
        )
    })?;
    env_logger::Builder::new().parse_filters(filter).init();
    Ok(())
}

async fn serve(config: Config) -> Result<(), String> {
    let stops = shutdown::signals().map_err(|error| format!("signals cannot be received: {error}"))?;
    let (host, port) = (config.host.clone(), config.port);
    let listener = TcpListener::bind((host.as_str(), port))
        .map_err(|error| format!("cannot listen on HOST={host} PORT={port}: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let announce = |broker: &str| {
        println!(
            "roomcast {} serves the demo on {} with {broker}",
            env!("CARGO_PKG_VERSION"),
            demo_url(address)
        );
    };
    roomcast::run(config, listener, stops, announce)
        .await
        .map_err(|error| error.to_string())
}

/// Where a browser on this machine finds the demo.
fn demo_url(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        return format!("http://localhost:{}/", address.port());
    }
    format!("http://{address}/")
}
