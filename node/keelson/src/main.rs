//! `keelson`: a Kubernetes node and control plane in one program.
//!
//! This file parses, runs and exits; nothing else. The command line is in [`cli`], what each command does in the
//! module of its name.

mod check;
mod cli;
mod completion;
mod config;
mod dns;
mod footprint;
mod logging;
mod server;
mod uninstall;
mod version;
mod wait;

use std::process::ExitCode;

/// The name under which containerd's CNI machinery runs this same file.
const CNI_PLUGIN_NAME: &str = "keelson-cni";

fn main() -> ExitCode {
    if invoked_as(CNI_PLUGIN_NAME) {
        return network::cni::plugin_main();
    }
    match cli::parse(std::env::args_os()) {
        Ok(command) => run(command),
        Err(failure) => failure.report(),
    }
}

fn run(command: cli::Command) -> ExitCode {
    let outcome = match command {
        cli::Command::Server(args) => server::run(args),
        cli::Command::Check(args) => return check::run(&args),
        cli::Command::Dns(args) => dns::run(args),
        cli::Command::Version(args) => version::run(&args),
        cli::Command::Completion(args) => completion::run(&args),
        cli::Command::Uninstall(args) => uninstall::run(&args),
        cli::Command::Await(args) => wait::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keelson: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn invoked_as(name: &str) -> bool {
    std::env::args_os()
        .next()
        .as_deref()
        .map(std::path::Path::new)
        .and_then(std::path::Path::file_name)
        .is_some_and(|file| file == name)
}
