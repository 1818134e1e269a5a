//! Log lines go to standard error: to systemd's journal, or to the file that the installer redirects them to.

use crate::cli::{LogArgs, LogFormat};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use tracing_subscriber::EnvFilter;

/// Installs the process's subscriber. `KEELSON_LOG` (a tracing filter) overrides `-v`.
pub(crate) fn init(args: &LogArgs) {
    let default = match args.verbose {
        0 => "info,hickory_server=warn,tower=warn,h2=warn,hyper=warn",
        1 => "debug,h2=info,hyper=info,tower=info,hickory_server=info,hickory_proto=info",
        _ => "trace,h2=debug,hyper=debug",
    };
    let chosen = std::env::var("KEELSON_LOG").ok().map(|text| text.parse::<EnvFilter>().map_err(|error| (text, error)));
    let (filter, wrong) = match chosen {
        Some(Ok(filter)) => (filter, None),
        Some(Err(wrong)) => (EnvFilter::new(default), Some(wrong)),
        None => (EnvFilter::new(default), None),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would report a line that cannot be written to standard error itself, and panic where that cannot be written either.
        .log_internal_errors(false);
    match args.log_format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
    std::panic::set_hook(Box::new(panicked));
    if let Some((text, error)) = wrong {
        tracing::warn!(%error, "KEELSON_LOG: {text:?} is no filter such as info,store=debug; it is ignored");
    }
}

/// Tells where a panic is; who catches it cannot.
fn panicked(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(place, message = panic.payload_as_str(), backtrace, "panic");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::Command;

    /// Set in the process whose log cannot be written.
    const CHILD: &str = "KEELSON_TEST_FULL_LOG";

    /// A log on a full disk, or into a pipe that nobody reads any more, costs its lines and nothing else.
    #[test]
    fn a_log_that_cannot_be_written_stops_nobody() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "logging::tests::process_without_a_log", "--nocapture"])
            .env(CHILD, "1")
            .stdout(std::process::Stdio::null())
            .stderr(full)
            .status();
        assert!(status.unwrap().success());
    }

    /// Not a test by itself.
    #[test]
    fn process_without_a_log() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        init(&LogArgs { log_format: LogFormat::Text, verbose: 0 });
        tracing::error!("a line that cannot be written");
        let panic = std::thread::spawn(|| panic!("told by the hook, in a line that cannot be written")).join();
        assert!(panic.is_err());
    }
}
