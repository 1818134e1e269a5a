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
    let filter = EnvFilter::try_from_env("KEELSON_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match args.log_format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
    std::panic::set_hook(Box::new(panicked));
}

/// Tells where a panic is; who catches it cannot.
fn panicked(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(place, message = panic.payload_as_str(), backtrace, "panic");
}
