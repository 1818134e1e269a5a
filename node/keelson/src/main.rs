//! `keelson`: a Kubernetes node and control plane in one program.
//!
//! This file parses, runs and exits; nothing else. The command line is in [`cli`], what each command does in the
//! module of its name.

mod allocator;
mod check;
mod cli;
mod completion;
mod config;
mod datapath;
mod dns;
mod footprint;
mod logging;
mod server;
mod uninstall;
mod version;
mod wait;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The runtime runs this same file under a plugin's name.
    if std::env::args_os().next().is_some_and(|name| network::cni::is_plugin(&name)) {
        return network::cni::plugin_main();
    }
    match cli::parse(std::env::args_os()) {
        Ok(command) => run(command),
        Err(failure) => failure.report(),
    }
}

fn run(command: cli::Command) -> ExitCode {
    if matches!(command, cli::Command::Server(_) | cli::Command::Dns(_)) {
        take_descriptors();
    } else {
        end_with_the_reader();
    }
    let outcome = match command {
        cli::Command::Server(args) => match server::Settings::new(args) {
            Ok(settings) => server::run(settings),
            Err(error) => return cli::Failure::usage(format!("{error:#}")).report(),
        },
        cli::Command::Check(args) => return check::run(&args),
        cli::Command::Dns(args) => dns::run(&args),
        cli::Command::Datapath(args) => datapath::run(&args),
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

/// As many file descriptors as allowed, up to what our systemd unit gives: a shell's 1,024 are soon taken by watches or
/// queries. No more than that, since containers inherit it, and some programs go through all that there may be.
fn take_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const ENOUGH: u64 = 1 << 20;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(ENOUGH);
        if soft < wanted { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        eprintln!("keelson: the limit of open files stays as it is: {error}");
    }
}

/// What prints ends quietly when nobody reads on (`keelson datapath services | head`), as other programs do.
#[expect(unsafe_code, reason = "signal(2) is unsafe where a handler is set")]
fn end_with_the_reader() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action is no handler. Where it cannot be set, all stays as it was.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}
