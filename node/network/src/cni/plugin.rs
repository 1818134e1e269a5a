//! The plugin: environment and standard input in, one JSON object out.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::install::{LOOPBACK, PLUGIN};
use super::protocol::{Attachment, CniError, Command, PortMapping, Request, Response, code};
use crate::links;

/// Versions of the specification that the plugin speaks.
const VERSIONS: &[&str] = &["0.3.0", "0.3.1", "0.4.0", "1.0.0"];
/// A runtime gives up itself before this.
const PATIENCE: Duration = Duration::from_secs(120);
const MAX_INPUT: u64 = 1 << 20;

/// Whether a program called by this name (its `argv[0]`) is to be the plugin.
pub fn is_plugin(name: &OsStr) -> bool {
    let base = Path::new(name).file_name().unwrap_or_default();
    base == PLUGIN || base == LOOPBACK
}

/// What `keelson-cni` runs: one CNI command, told by environment and standard input.
pub fn plugin_main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(MAX_INPUT).read_to_end(&mut input);
    let environment = |name: &str| std::env::var(name).unwrap_or_default();
    let called = std::env::args_os().next().unwrap_or_default();
    let default_loopback = Path::new(&called).file_name() == Some(OsStr::new(LOOPBACK));
    let outcome = match read {
        Ok(_) => run(&environment, &input, default_loopback),
        Err(error) => Err((CniError::new(code::IO, "cannot read standard input", error), VERSIONS[0].to_owned())),
    };
    let (text, exit) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err((error, version)) => {
            let CniError { code, message, details } = error;
            let text = json!({"cniVersion": version, "code": code, "msg": message, "details": details}).to_string();
            (text, ExitCode::FAILURE)
        }
    };
    if writeln!(std::io::stdout(), "{text}").is_err() {
        return ExitCode::FAILURE;
    }
    exit
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    cni_version: String,
    #[serde(rename = "type")]
    kind: String,
    socket: Option<PathBuf>,
    /// A [`RuntimeConfig`], understood only where it is needed: nothing in it may keep a pod from being taken down.
    runtime_config: Value,
}

/// What the runtime adds for the capabilities that the list declares.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RuntimeConfig {
    port_mappings: Vec<PortMapping>,
}

/// Carries the command out; gives what to print, or an error and the version to tell it in.
fn run(environment: &dyn Fn(&str) -> String, input: &[u8], loopback: bool) -> Result<String, (CniError, String)> {
    let command = environment("CNI_COMMAND");
    if command == "VERSION" {
        let asked: Config = serde_json::from_slice(input).unwrap_or_default();
        let version = if asked.cni_version.is_empty() { "1.0.0".to_owned() } else { asked.cni_version };
        return Ok(json!({"cniVersion": version, "supportedVersions": VERSIONS}).to_string());
    }
    let config: Config = serde_json::from_slice(input).map_err(|error| {
        let error = CniError::new(code::DECODE, "the network configuration on standard input is not valid", error);
        (error, "1.0.0".to_owned())
    })?;
    let version = if config.cni_version.is_empty() { VERSIONS[0].to_owned() } else { config.cni_version.clone() };
    let result = checked(environment, &command, &config, &version, loopback || config.kind == LOOPBACK);
    result.map_err(|error| (error, version))
}

fn checked(
    environment: &dyn Fn(&str) -> String,
    command: &str,
    config: &Config,
    version: &str,
    loopback: bool,
) -> Result<String, CniError> {
    if !VERSIONS.contains(&version) {
        let details = format!("{version} is not among {}", VERSIONS.join(", "));
        return Err(CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI version", details));
    }
    let command = match command {
        "ADD" => Command::Add,
        "DEL" => Command::Del,
        "CHECK" => Command::Check,
        other => {
            let details = format!("CNI_COMMAND is {other:?}; ADD, DEL, CHECK and VERSION are known");
            return Err(CniError::new(code::INVALID_ENVIRONMENT, "unknown command", details));
        }
    };
    let required = |name: &str, needed: bool| {
        let value = environment(name);
        if value.is_empty() && needed {
            let details = format!("{name} is not set");
            return Err(CniError::new(code::INVALID_ENVIRONMENT, "required environment variable missing", details));
        }
        Ok(value)
    };
    let ports = match command {
        Command::Add => port_mappings(&config.runtime_config)?,
        Command::Del | Command::Check => Vec::new(),
    };
    let request = Request {
        command,
        container: required("CNI_CONTAINERID", true)?,
        netns: required("CNI_NETNS", command != Command::Del)?,
        interface: required("CNI_IFNAME", true)?,
        pod: pod_name(&environment("CNI_ARGS")),
        ports,
    };
    if loopback {
        return run_loopback(&request, version);
    }
    let socket = config.socket.as_deref().ok_or_else(|| {
        CniError::new(
            code::INVALID_CONFIG,
            "invalid network configuration",
            "\"socket\", the node's socket, is missing",
        )
    })?;
    match ask(socket, &request)? {
        Response::Attached(attachment) => Ok(result(&attachment, &request, version).to_string()),
        Response::Done => Ok(String::new()),
        Response::Failed(error) => Err(error),
    }
}

fn port_mappings(runtime_config: &Value) -> Result<Vec<PortMapping>, CniError> {
    let config = Option::<RuntimeConfig>::deserialize(runtime_config);
    let config = config.map_err(|error| CniError::new(code::INVALID_CONFIG, "invalid runtimeConfig", error))?;
    Ok(config.unwrap_or_default().port_mappings)
}

/// `namespace/name` out of `K8S_POD_NAMESPACE=…;K8S_POD_NAME=…`.
fn pod_name(arguments: &str) -> String {
    let value =
        |name: &str| arguments.split(';').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or("");
    format!("{}/{}", value("K8S_POD_NAMESPACE"), value("K8S_POD_NAME"))
}

fn ask(socket: &Path, request: &Request) -> Result<Response, CniError> {
    let away = |error: std::io::Error| {
        let details = format!("{}: {error}; is keelson running on this node?", socket.display());
        CniError::new(code::TRY_AGAIN, "the node's network is not available", details)
    };
    let mut stream = UnixStream::connect(socket).map_err(away)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(away)?;
    let mut line =
        serde_json::to_vec(request).map_err(|error| CniError::new(code::DECODE, "cannot encode the request", error))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(away)?;
    let mut answer = String::new();
    BufReader::new(stream).take(MAX_INPUT).read_line(&mut answer).map_err(away)?;
    if answer.is_empty() {
        return Err(away(std::io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_str(&answer).map_err(|error| CniError::new(code::DECODE, "the node's answer is not valid", error))
}

/// The result that the runtime reads. Before 1.0.0 an address names its family, and links have no MTU.
fn result(attachment: &Attachment, request: &Request, version: &str) -> Value {
    let old = version.starts_with("0.");
    let mut address = json!({
        "address": format!("{}/32", attachment.address),
        "gateway": attachment.gateway,
        "interface": 1,
    });
    if old {
        address["version"] = "4".into();
    }
    json!({
        "cniVersion": version,
        "interfaces": [
            {"name": attachment.host_interface, "mac": attachment.host_mac},
            {"name": request.interface, "mac": attachment.mac, "sandbox": request.netns},
        ],
        "ips": [address],
        "routes": [{"dst": "0.0.0.0/0", "gw": attachment.gateway}],
        "dns": {},
    })
}

/// The `loopback` plugin that containerd before 2.0 asks for beside the real one: needs no node.
fn run_loopback(request: &Request, version: &str) -> Result<String, CniError> {
    if request.command != Command::Add {
        return Ok(String::new());
    }
    let failed = |error: &dyn std::fmt::Display| CniError::new(code::NETWORK, "cannot bring lo up", error);
    let namespace = File::open(&request.netns).map_err(|error| failed(&format!("{}: {error}", request.netns)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|error| failed(&error))?;
    runtime.block_on(links::loopback_up(namespace)).map_err(|error| failed(&error))?;
    let mut address = json!({"address": "127.0.0.1/8", "interface": 0});
    if version.starts_with("0.") {
        address["version"] = "4".into();
    }
    let interface = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": request.netns});
    Ok(json!({"cniVersion": version, "interfaces": [interface], "ips": [address], "dns": {}}).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(variables: &[(&str, &str)], input: &str) -> Result<Value, u32> {
        let environment = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()).unwrap_or_default()
        };
        match run(&environment, input.as_bytes(), false) {
            Ok(text) => Ok(serde_json::from_str(&text).unwrap_or(Value::Null)),
            Err((error, _)) => Err(error.code),
        }
    }

    #[test]
    fn refuses_what_is_wrong() {
        let good = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")];
        let config = r#"{"cniVersion":"1.0.0","type":"keelson-cni","socket":"/nowhere/cni.sock"}"#;
        let with = |name: &'static str, value: &'static str| {
            let mut variables = good.to_vec();
            variables.retain(|(known, _)| *known != name);
            variables.push((name, value));
            variables
        };
        let cases = [
            ("no node", good.to_vec(), config, code::TRY_AGAIN),
            ("no JSON", good.to_vec(), "{", code::DECODE),
            ("no socket", good.to_vec(), r#"{"cniVersion":"1.0.0"}"#, code::INVALID_CONFIG),
            ("no port", good.to_vec(), r#"{"runtimeConfig":{"portMappings":[{}]}}"#, code::INVALID_CONFIG),
            (
                "no node to take down",
                with("CNI_COMMAND", "DEL"),
                r#"{"socket":"/nowhere","runtimeConfig":{"portMappings":[{}]}}"#,
                code::TRY_AGAIN,
            ),
            ("newer version", good.to_vec(), r#"{"cniVersion":"9.0.0"}"#, code::INCOMPATIBLE_VERSION),
            ("unknown command", with("CNI_COMMAND", "FROB"), config, code::INVALID_ENVIRONMENT),
            ("no container", with("CNI_CONTAINERID", ""), config, code::INVALID_ENVIRONMENT),
            ("no namespace", with("CNI_NETNS", ""), config, code::INVALID_ENVIRONMENT),
        ];
        for (name, variables, input, expected) in cases {
            assert_eq!(run_with(&variables, input), Err(expected), "{name}");
        }
        let version = run_with(&[("CNI_COMMAND", "VERSION")], r#"{"cniVersion":"0.4.0"}"#).unwrap();
        assert_eq!(version["supportedVersions"], json!(VERSIONS));
    }

    #[test]
    fn results_by_version() {
        let attachment = Attachment {
            host_interface: "keel1".into(),
            host_mac: "0a:00".into(),
            mac: "0e:00".into(),
            address: "10.244.1.2".parse().unwrap(),
            gateway: links::GATEWAY,
            mtu: None,
        };
        let request = Request {
            command: Command::Add,
            container: "c".into(),
            netns: "/run/netns/x".into(),
            interface: "eth0".into(),
            pod: pod_name("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1"),
            ports: Vec::new(),
        };
        assert_eq!(request.pod, "shop/web-1");
        let new = result(&attachment, &request, "1.0.0");
        assert_eq!(new["ips"], json!([{"address": "10.244.1.2/32", "gateway": "169.254.1.1", "interface": 1}]));
        assert_eq!(new["interfaces"][1]["sandbox"], "/run/netns/x");
        assert_eq!(result(&attachment, &request, "0.4.0")["ips"][0]["version"], "4");
    }

    #[test]
    fn names_that_mean_the_plugin() {
        for (name, expected) in [("/x/keelson-cni", true), ("loopback", true), ("/usr/bin/keelson", false), ("", false)]
        {
            assert_eq!(is_plugin(OsStr::new(name)), expected, "{name}");
        }
    }
}
