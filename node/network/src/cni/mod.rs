//! The Container Network Interface: the plugin that the runtime executes, and the node's side that does the work.

/// What `keelson-cni` runs: one CNI command, told by environment and standard input.
pub fn plugin_main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
