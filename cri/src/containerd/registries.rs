//! /etc/keelson/registries.yaml: mirrors, credentials and certificates of registries, and what containerd needs of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::quoted;
use crate::v1::AuthConfig;

/// The registry of names that say none, and the host that serves it.
const DOCKER: &str = "docker.io";
const DOCKER_HOST: &str = "registry-1.docker.io";

/// The file's content.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    /// By registry host (`docker.io`, `registry.example:5000`, `*`): where to pull from instead.
    #[serde(default)]
    pub mirrors: BTreeMap<String, Mirror>,
    /// By host that is spoken to: how.
    #[serde(default)]
    pub configs: BTreeMap<String, RegistryConfig>,
}

/// Mirrors of one registry, tried in order before the registry itself.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// URLs.
    #[serde(default)]
    pub endpoint: Vec<String>,
}

/// How to speak to one host.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Credentials.
    pub auth: Option<RegistryAuth>,
    /// Certificates.
    pub tls: Option<RegistryTls>,
}

/// Credentials: user and password, their base64 form, or an identity token.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    /// A token to exchange for access.
    pub identity_token: String,
}

/// Certificates by file.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryTls {
    /// CA bundle.
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Believe any certificate.
    pub insecure_skip_verify: bool,
}

/// Why registries.yaml cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// It exists but cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {why}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        why: String,
    },
}

impl Registries {
    /// Reads the file; one that does not exist is an empty one.
    pub fn load(path: &Path) -> Result<Registries, RegistriesError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Registries::default()),
            Err(source) => return Err(RegistriesError::Read { path: path.to_owned(), source }),
        };
        if text.trim().is_empty() {
            return Ok(Registries::default());
        }
        serde_saphyr::from_str(&text)
            .map_err(|error| RegistriesError::Parse { path: path.to_owned(), why: error.to_string() })
    }

    /// The credentials to pull an image with, where no pull secret has any: its registry's, or else those of the first mirror
    /// that has some. They are for that host alone, which may ask for them itself or send to a token server.
    pub fn auth_for(&self, image: &str) -> Option<AuthConfig> {
        let registry = registry_of(image);
        let own = [registry].into_iter().chain((registry == DOCKER).then_some(DOCKER_HOST));
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let mirrors = mirror.iter().flat_map(|mirror| &mirror.endpoint).map(|endpoint| host_of(endpoint));
        own.chain(mirrors).find_map(|host| {
            let auth = self.configs.get(host)?.auth.as_ref()?;
            Some(AuthConfig {
                username: auth.username.clone(),
                password: auth.password.clone(),
                auth: auth.auth.clone(),
                identity_token: auth.identity_token.clone(),
                server_address: server(host),
                ..Default::default()
            })
        })
    }

    /// Every hosts.toml below certs.d: directory name and text.
    pub(super) fn hosts(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for (registry, mirror) in &self.mirrors {
            out.insert(directory(registry), self.hosts_toml(registry, &mirror.endpoint));
        }
        for registry in self.configs.keys() {
            out.entry(directory(registry)).or_insert_with(|| self.hosts_toml(registry, &[]));
        }
        out
    }

    fn hosts_toml(&self, registry: &str, endpoints: &[String]) -> String {
        let mut out = String::new();
        let own = (registry != "*").then(|| server(registry));
        if let Some(server) = &own {
            let _ = writeln!(out, "server = {}", quoted(server));
        }
        for endpoint in endpoints.iter().chain(own.as_ref().filter(|_| self.configs.contains_key(registry))) {
            let url = if endpoint.contains("://") { endpoint.clone() } else { format!("https://{endpoint}") };
            let url = url.trim_end_matches('/');
            let _ = writeln!(out, "\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]", quoted(url));
            let key = if own.as_deref() == Some(url) { registry } else { host_of(url) };
            if let Some(config) = self.configs.get(key) {
                host_settings(&mut out, url, config);
            }
        }
        out
    }
}

fn host_settings(out: &mut String, url: &str, config: &RegistryConfig) {
    let text = |path: &PathBuf| quoted(&path.to_string_lossy());
    if let Some(tls) = &config.tls {
        if let Some(ca) = &tls.ca_file {
            let _ = writeln!(out, "ca = {}", text(ca));
        }
        match (&tls.cert_file, &tls.key_file) {
            (Some(cert), Some(key)) => {
                let _ = writeln!(out, "client = [[{}, {}]]", text(cert), text(key));
            }
            (Some(cert), None) => {
                let _ = writeln!(out, "client = {}", text(cert));
            }
            _ => {}
        }
        if tls.insecure_skip_verify {
            out.push_str("skip_verify = true\n");
        }
    }
    // Those of a pull request are for one host, and another may have its own.
    if let Some(auth) = &config.auth
        && let Some(basic) = auth.basic()
    {
        let _ = writeln!(out, "[host.{}.header]\nauthorization = {}", quoted(url), quoted(&format!("Basic {basic}")));
    }
}

impl RegistryAuth {
    fn basic(&self) -> Option<String> {
        use base64::Engine as _;
        if !self.auth.is_empty() {
            return Some(self.auth.clone());
        }
        let user = format!("{}:{}", self.username, self.password);
        (!self.username.is_empty()).then(|| base64::engine::general_purpose::STANDARD.encode(user))
    }
}

/// The registry that an image's name means, by Docker's rules.
pub fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DOCKER,
    }
}

fn server(registry: &str) -> String {
    format!("https://{}", if registry == DOCKER { DOCKER_HOST } else { registry })
}

/// The host of a URL, or of what lacks only the scheme.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// The directory in which containerd looks: a colon does not survive every file system.
fn directory(registry: &str) -> String {
    match registry.rsplit_once(':') {
        _ if registry == "*" => "_default".into(),
        Some((host, port)) => format!("{host}_{port}_"),
        None => registry.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "
mirrors:
  docker.io:
    endpoint: [\"https://mirror.example:5000\"]
  \"*\":
    endpoint: [cache.example]
configs:
  mirror.example:5000:
    auth: {username: u, password: p}
    tls: {ca_file: /etc/ca.pem, cert_file: /c, key_file: /k}
  own.example:
    tls: {insecure_skip_verify: true}
";

    #[test]
    fn hosts_files() {
        let registries: Registries = serde_saphyr::from_str(YAML).unwrap();
        let hosts = registries.hosts();
        let names: Vec<&str> = hosts.keys().map(String::as_str).collect();
        assert_eq!(names, ["_default", "docker.io", "mirror.example_5000_", "own.example"]);
        assert_eq!(
            hosts["docker.io"],
            "server = \"https://registry-1.docker.io\"\n\n[host.\"https://mirror.example:5000\"]\n\
             capabilities = [\"pull\", \"resolve\"]\nca = \"/etc/ca.pem\"\nclient = [[\"/c\", \"/k\"]]\n\
             [host.\"https://mirror.example:5000\".header]\nauthorization = \"Basic dTpw\"\n"
        );
        assert_eq!(hosts["_default"], "\n[host.\"https://cache.example\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        assert!(hosts["own.example"].contains("skip_verify = true"));
    }

    #[test]
    fn credentials_go_by_host() {
        let registries: Registries = serde_saphyr::from_str(YAML).unwrap();
        let more = "configs: {registry-1.docker.io: {auth: {username: hub}}, own.example: {auth: {identity_token: t}}}";
        let hub: Registries = serde_saphyr::from_str(more).unwrap();
        let got = |registries: &Registries, image: &str| {
            let auth = registries.auth_for(image)?;
            Some(format!("{}{} at {}", auth.username, auth.identity_token, auth.server_address))
        };
        let mirror = Some("u at https://mirror.example:5000");
        let cases = [
            (&registries, "mirror.example:5000/a/b:1", mirror),
            // Its mirror has some.
            (&registries, "library/busybox", mirror),
            (&registries, "own.example/x", None),
            (&registries, "mirror.example/x", None),
            (&hub, "busybox", Some("hub at https://registry-1.docker.io")),
            (&hub, "docker.io/library/busybox:1", Some("hub at https://registry-1.docker.io")),
            (&hub, "own.example/x", Some("t at https://own.example")),
            (&hub, "other.example/x", None),
        ];
        for (registries, image, want) in cases {
            assert_eq!(got(registries, image).as_deref(), want, "{image}");
        }
    }

    #[test]
    fn a_wrong_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.yaml");
        assert_eq!(Registries::load(&path).unwrap(), Registries::default());
        for bad in ["mirror: {}", "mirrors: [a]", "configs: {a: {auth: {user: x}}}"] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Registries::load(&path), Err(RegistriesError::Parse { .. })), "{bad}");
        }
    }
}
