//! `keelson dns`: the cluster's DNS server, a process of its own so that it answers while `keelson server` restarts.

use crate::cli::DnsArgs;
use anyhow::Context;
use network::dns::DnsConfig;

/// Runs until SIGTERM.
pub(crate) fn run(args: &DnsArgs) -> anyhow::Result<()> {
    crate::logging::init(&args.log);
    let config = DnsConfig::load(&args.config).context("cannot take the DNS server's settings")?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = crate::server::shutdown_on_signal()?;
        network::dns::run(config, shutdown).await.context("cluster DNS ended")
    })
}
