//! The command line: flags, environment and configuration file share their names.
//!
//! Precedence is flag, then environment (`KEELSON_NODE_NAME` for `--node-name`), then the YAML file, then the default. The
//! file is not a second parser: its entries become flags, put before those that the user gave, so that one set of
//! types, checks and messages serves all three.

use crate::config::ConfigFile;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where `--config` points when it is not given; used only if it exists.
const DEFAULT_CONFIG: &str = "/etc/keelson/config.yaml";

#[derive(Debug, Parser)]
#[command(name = "keelson", about = "Kubernetes for bare-metal Linux in one program", version = crate::version::LINE.as_str())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What `keelson` can be asked to do.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "parsed once")]
pub(crate) enum Command {
    /// Run the control plane and this machine's node
    Server(ServerArgs),
    /// Check this machine: a table with a remedy a line
    Check(CheckArgs),
    /// Answer cluster DNS (run by `server`)
    #[command(hide = true)]
    Dns(DnsArgs),
    /// Show what the kernel's maps say now
    Datapath(DatapathArgs),
    /// Print the version
    Version(VersionArgs),
    /// Print a shell's completion script
    Completion(CompletionArgs),
    /// Remove every trace of this node
    Uninstall(UninstallArgs),
    /// Wait until the node is Ready (used by the installer)
    #[command(hide = true)]
    Await(AwaitArgs),
}

/// A part of the server that `--disable` leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Component {
    Controllers,
    Dns,
    Network,
    Proxy,
    Scheduler,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Flags about logging, for the commands that run on.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// Form of the log lines on standard error
    #[arg(long, env = "KEELSON_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Log more; twice for everything
    #[arg(short, long = "verbose", action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Where settings come from that neither flag nor environment gives, for `server` and whatever looks after one.
#[derive(Debug, Clone, Args)]
pub(crate) struct FileArgs {
    /// YAML file with the same keys as the flags of `server` [default: /etc/keelson/config.yaml where it exists]
    #[arg(long, env = "KEELSON_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `keelson server`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// Everything that Keelson keeps
    #[arg(long, env = "KEELSON_DATA_DIR", default_value = "/var/lib/keelson", value_parser = path(), value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Name of this node [default: the host's name]
    #[arg(long, env = "KEELSON_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this node [default: the address of the default route, else the first global one]
    #[arg(long, env = "KEELSON_NODE_IP", value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Label of this node, key=value; may be repeated
    #[arg(long, env = "KEELSON_NODE_LABEL", value_delimiter = ',', value_parser = crate::config::parse_label, value_name = "KEY=VALUE")]
    pub node_label: Vec<(String, String)>,
    /// Taint of this node, key[=value]:effect; may be repeated
    #[arg(long, env = "KEELSON_NODE_TAINT", value_delimiter = ',', value_parser = crate::config::parse_taint, value_name = "KEY[=VALUE]:EFFECT")]
    pub node_taint: Vec<crate::config::Taint>,
    /// Most pods on this node
    #[arg(long, env = "KEELSON_MAX_PODS", default_value_t = 110, value_parser = clap::value_parser!(u32).range(1..=65535), value_name = "N")]
    pub max_pods: u32,
    /// Control group below which pods run
    #[arg(long, env = "KEELSON_CGROUP_ROOT", default_value = "/", value_name = "PATH")]
    pub cgroup_root: String,
    /// Socket of a container runtime to use instead of a containerd of our own
    #[arg(long, env = "KEELSON_CONTAINER_RUNTIME_ENDPOINT", value_name = "unix:///PATH")]
    pub container_runtime_endpoint: Option<String>,
    /// resolv.conf that pods and the cluster DNS forward to [default: the host's, or the one behind its local stub]
    #[arg(long, env = "KEELSON_RESOLV_CONF", value_parser = path(), value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// Leave a component out; may be repeated
    #[arg(long, env = "KEELSON_DISABLE", value_enum, value_delimiter = ',', value_name = "COMPONENT")]
    pub disable: Vec<Component>,
    /// Run the control plane alone, without a node
    #[arg(long, env = "KEELSON_NO_NODE")]
    pub no_node: bool,
    /// Address that the API server listens on
    #[arg(long, env = "KEELSON_BIND_ADDRESS", default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,
    /// Port of the API server
    #[arg(long, env = "KEELSON_PORT", default_value_t = 6443, value_parser = clap::value_parser!(u16).range(1..), value_name = "PORT")]
    pub port: u16,
    /// Further name or address for the API server's certificate; may be repeated
    #[arg(long, env = "KEELSON_TLS_SAN", value_delimiter = ',', value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// Addresses of pods
    #[arg(long, env = "KEELSON_CLUSTER_CIDR", default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub cluster_cidr: crate::config::Cidr,
    /// Length of the prefix that each node gets of --cluster-cidr
    #[arg(long, env = "KEELSON_NODE_CIDR_MASK", default_value_t = 24, value_parser = clap::value_parser!(u8).range(8..=30), value_name = "BITS")]
    pub node_cidr_mask: u8,
    /// Addresses of Services
    #[arg(long, env = "KEELSON_SERVICE_CIDR", default_value = "10.96.0.0/16", value_name = "CIDR")]
    pub service_cidr: crate::config::Cidr,
    /// Ports for Services of type NodePort
    #[arg(long, env = "KEELSON_SERVICE_NODE_PORT_RANGE", default_value = "30000-32767", value_name = "FROM-TO")]
    pub service_node_port_range: crate::config::PortRange,
    /// Domain of the cluster's DNS names
    #[arg(long, env = "KEELSON_CLUSTER_DOMAIN", default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// Address of the cluster's DNS Service [default: the tenth of --service-cidr]
    #[arg(long, env = "KEELSON_CLUSTER_DNS", value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    /// Where objects are kept: sqlite or memory
    #[arg(long, env = "KEELSON_DATASTORE", default_value = "sqlite", value_name = "sqlite|memory")]
    pub datastore: crate::config::Datastore,
    /// Copy of the administrator's kubeconfig to write, 0600
    #[arg(long, env = "KEELSON_WRITE_KUBECONFIG", value_parser = path(), value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogArgs,
}

/// How `check` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// Flags of `keelson check`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// Data directory whose file system is checked
    #[arg(long, env = "KEELSON_DATA_DIR", default_value = "/var/lib/keelson", value_parser = path(), value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Port that the API server will listen on
    #[arg(long, env = "KEELSON_PORT", default_value_t = 6443, value_parser = clap::value_parser!(u16).range(1..), value_name = "PORT")]
    pub port: u16,
    /// Form of the report
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Flags of `keelson dns`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DnsArgs {
    /// JSON file that `keelson server` writes
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    #[command(flatten)]
    pub log: LogArgs,
}

/// What `keelson datapath` can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DatapathTable {
    /// Addresses and ports that are translated
    Services,
    /// What they are translated to, a line a backend
    Backends,
}

/// Flags of `keelson datapath`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DatapathArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// Which part
    #[arg(value_enum)]
    pub table: DatapathTable,
    /// Data directory of the node
    #[arg(long, env = "KEELSON_DATA_DIR", default_value = "/var/lib/keelson", value_parser = path(), value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Flags of `keelson version`.
#[derive(Debug, Clone, Args)]
pub(crate) struct VersionArgs {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Flags of `keelson completion`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Flags of `keelson uninstall`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// Data directory of the node to remove
    #[arg(long, env = "KEELSON_DATA_DIR", default_value = "/var/lib/keelson", value_parser = path(), value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Flags of `keelson await`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AwaitArgs {
    /// The administrator's kubeconfig; waited for if it is not there yet
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Also wait until all endpoints of this Service are ready, then print its address
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service: Option<String>,
    /// Seconds to wait
    #[arg(long, default_value_t = 180, value_name = "SECONDS")]
    pub timeout: u64,
}

/// A path that means the same to every process that it is handed on to, wherever that one runs.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(std::path::absolute)
}

/// A command line that could not be used, or one that asked for help.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// A mistake on the command line.
    pub(crate) fn usage(message: impl std::fmt::Display) -> Self {
        Self { message: format!("keelson: {message}"), code: 2 }
    }

    /// The same, with where the mistake is.
    fn within(self, place: &str) -> Self {
        match self.message.strip_prefix("keelson: ") {
            Some(message) => Self { message: format!("keelson: {place}: {message}"), ..self },
            None => self,
        }
    }

    /// Prints the message where it belongs and gives the exit code: 0 for help, 2 for a mistake.
    pub(crate) fn report(self) -> ExitCode {
        if self.code == 0 {
            print!("{}", self.message);
        } else {
            eprintln!("{}", self.message);
        }
        ExitCode::from(self.code)
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
        match error.kind() {
            DisplayHelp | DisplayVersion => Self { message: error.to_string(), code: 0 },
            DisplayHelpOnMissingArgumentOrSubcommand => Self::usage("a command is missing; see `keelson --help`"),
            _ => Self::usage(one_line(&error.to_string())),
        }
    }
}

/// Clap's report in one line: what is wrong and what is allowed, without the usage text.
fn one_line(report: &str) -> String {
    report
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .map(|line| line.strip_prefix("error: ").unwrap_or(line))
        .collect::<Vec<_>>()
        .join("; ")
        .replace(":; ", ": ")
}

/// The clap command, for completion scripts too.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Parses a command line together with the environment and the configuration file.
///
/// # Errors
/// A [`Failure`] to report: wrong flag, key or value (exit 2), or a request for help (exit 0).
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Failure> {
    let args: Vec<OsString> = args.into_iter().collect();
    let first = from_matches(&args)?;
    let Some(file) = config_file(&first)? else { return Ok(first) };
    // What was right without the file is wrong because of it.
    from_matches(&with_file(&args, &file)?).map_err(|failure| failure.within(&file.path().display().to_string()))
}

fn from_matches(args: &[OsString]) -> Result<Command, Failure> {
    let matches =
        Cli::command().args_override_self(true).try_get_matches_from(args).map_err(|error| {
            match variable(&error, args) {
                Some(variable) => Failure::from(error).within(&variable),
                None => error.into(),
            }
        })?;
    Ok(Cli::from_arg_matches(&matches)?.command)
}

/// The environment variable that a wrong value came from, where no flag gave it.
fn variable(error: &clap::Error, args: &[OsString]) -> Option<String> {
    use clap::error::{ContextKind, ContextValue};
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = arg.split_whitespace().next()?;
    let gives = |word: &str| word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    let variable = format!("KEELSON_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
    let given = args.iter().filter_map(|arg| arg.to_str()).any(gives);
    (!given && std::env::var_os(&variable).is_some()).then_some(variable)
}

fn config_file(command: &Command) -> Result<Option<ConfigFile>, Failure> {
    let given = match command {
        Command::Server(args) => &args.file,
        Command::Check(args) => &args.file,
        Command::Datapath(args) => &args.file,
        Command::Uninstall(args) => &args.file,
        Command::Dns(_) | Command::Version(_) | Command::Completion(_) | Command::Await(_) => return Ok(None),
    };
    let path = match &given.config {
        Some(path) => path.clone(),
        None if std::path::Path::new(DEFAULT_CONFIG).exists() => DEFAULT_CONFIG.into(),
        None => return Ok(None),
    };
    ConfigFile::read(&path).map(Some).map_err(Failure::usage)
}

/// The command line with the file's entries put in as flags, except those that flag or environment already set, and those
/// that concern `server` alone.
fn with_file(args: &[OsString], file: &ConfigFile) -> Result<Vec<OsString>, Failure> {
    let matches = Cli::command().args_override_self(true).try_get_matches_from(args)?;
    let (name, given) = matches.subcommand().ok_or_else(|| Failure::usage("a command is missing"))?;
    let root = Cli::command();
    let known = flags_of(&root, "server");
    let taken = flags_of(&root, name);
    let mut merged = args.to_vec();
    let at = merged.iter().position(|arg| arg.to_str() == Some(name)).map_or(merged.len(), |i| i + 1);
    let mut extra = Vec::new();
    for (key, values) in file.entries() {
        if !known.iter().any(|(long, _)| *long == key) {
            let known: Vec<&str> = known.iter().map(|(long, _)| *long).collect();
            let path = file.path().display();
            return Err(Failure::usage(format!("{path}: unknown key '{key}'; known keys: {}", known.join(", "))));
        }
        let Some((_, flag)) = taken.iter().find(|(long, _)| *long == key) else { continue };
        let source = given.value_source(flag.get_id().as_str());
        if matches!(source, Some(clap::parser::ValueSource::CommandLine | clap::parser::ValueSource::EnvVariable)) {
            continue;
        }
        extra.extend(file.flags(key, values, flag.get_action()).map_err(Failure::usage)?);
    }
    merged.splice(at..at, extra);
    Ok(merged)
}

/// The flags of a command that a file may give, by name.
fn flags_of<'a>(root: &'a clap::Command, name: &str) -> Vec<(&'a str, &'a clap::Arg)> {
    let arguments = root.find_subcommand(name).into_iter().flat_map(clap::Command::get_arguments);
    arguments.filter_map(|arg| Some((arg.get_long().filter(|long| *long != "config")?, arg))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Command, String> {
        parse(words.split_whitespace().map(OsString::from))
            .map_err(|failure| format!("{}|{}", failure.code, failure.message))
    }

    #[test]
    fn mistakes_are_one_line_with_exit_code_2() {
        let version = format!("0|keelson {}\n", *crate::version::LINE);
        let cases = [
            ("keelson", "2|keelson: a command is missing; see `keelson --help`"),
            (
                "keelson server --prot 1",
                "2|keelson: unexpected argument '--prot' found; tip: a similar argument exists: '--port'",
            ),
            ("keelson dns", "2|keelson: the following required arguments were not provided: --config <FILE>"),
            ("keelson --version", &version),
            ("keelson server --port 0", "2|keelson: invalid value '0' for '--port <PORT>': 0 is not in 1..=65535"),
            (
                "keelson server --disable dnss",
                "2|keelson: invalid value 'dnss' for '--disable <COMPONENT>'; [possible values: controllers, dns, network, proxy, scheduler]; tip: a similar value exists: 'dns'",
            ),
            (
                "keelson server --cluster-cidr 10.0.0.1/16",
                "2|keelson: invalid value '10.0.0.1/16' for '--cluster-cidr <CIDR>': 10.0.0.1 has bits set beyond its /16 prefix; did you mean 10.0.0.0/16?",
            ),
            (
                "keelson server --config /nonexistent/x.yaml",
                "2|keelson: /nonexistent/x.yaml: cannot be read: No such file or directory (os error 2)",
            ),
        ];
        for (words, expected) in cases {
            assert_eq!(parse_words(words).map(|_| ()), Err(expected.to_owned()), "{words}");
        }
    }

    fn with_file(command: &str, content: &str, flags: &str) -> Result<Command, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, content).unwrap();
        parse_words(&format!("keelson {command} --config {} {flags}", path.display()))
            .map_err(|message| message.replace(&path.display().to_string(), "FILE"))
    }

    fn server_with_file(content: &str, flags: &str) -> Result<ServerArgs, String> {
        match with_file("server", content, flags)? {
            Command::Server(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_looks_after_a_server_reads_its_file() {
        let content = "port: 7000\nno-node: true\ndata-dir: /srv/k\nservice-cidr: 10.0.0.0/12\n";
        for (command, flags, dir, port) in [
            ("check", "", "/srv/k", Some(7000)),
            ("check", "--data-dir /x --port 7001", "/x", Some(7001)),
            ("datapath", "services", "/srv/k", None),
            ("datapath", "backends --data-dir /x", "/x", None),
            ("uninstall", "--yes", "/srv/k", None),
        ] {
            let found = match with_file(command, content, flags).unwrap() {
                Command::Check(args) => (args.data_dir, Some(args.port)),
                Command::Datapath(args) => (args.data_dir, None),
                Command::Uninstall(args) => (args.data_dir, None),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, (dir.into(), port), "{command} {flags}");
            let mistaken = with_file(command, "prot: 1\n", flags).unwrap_err();
            assert!(mistaken.starts_with("2|keelson: FILE: unknown key 'prot'; known keys: data-dir,"), "{mistaken}");
        }
    }

    #[test]
    fn file_entries_are_flags_and_flags_win() {
        let args = server_with_file(
            "port: 7000\nno-node: true\ntls-san: [a.example, b.example]\nmax-pods: 50\n",
            "--port 7001",
        )
        .unwrap();
        assert_eq!((args.port, args.no_node, args.max_pods), (7001, true, 50));
        assert_eq!(args.tls_san, ["a.example", "b.example"]);
    }

    #[test]
    fn file_mistakes_name_the_file_and_the_key() {
        let cases = [
            ("prot: 1\n", "2|keelson: FILE: unknown key 'prot'; known keys: data-dir,"),
            ("port: seven\n", "2|keelson: FILE: invalid value 'seven' for '--port <PORT>'"),
            ("disable: [dns, dnss]\n", "2|keelson: FILE: invalid value 'dnss' for '--disable <COMPONENT>'"),
            ("no-node: 3\n", "2|keelson: FILE: 'no-node' must be true or false, not '3'"),
            ("port: [1, 2]\n", "2|keelson: FILE: 'port' takes one value, not 2"),
            ("[1, 2]\n", "2|keelson: FILE: must be a map of settings"),
            ("port: {a: 1}\n", "2|keelson: FILE: 'port' must be a value or a list of values"),
        ];
        for (content, expected) in cases {
            let message = server_with_file(content, "").unwrap_err();
            assert!(message.starts_with(expected), "{content}: {message}");
        }
    }
}
