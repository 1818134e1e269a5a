//! Values of flags, and the configuration file.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An IPv4 network in CIDR notation, with no bits set beyond the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    base: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    /// Length of the prefix in bits.
    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    /// Its first address and the length of its prefix.
    pub(crate) fn parts(self) -> (IpAddr, u8) {
        (IpAddr::V4(self.base), self.prefix)
    }

    /// The n-th address of the network, if it has that many.
    pub(crate) fn nth(self, n: u32) -> Option<Ipv4Addr> {
        let size = 1u64 << (32 - u32::from(self.prefix));
        (u64::from(n) < size).then(|| Ipv4Addr::from(u32::from(self.base) + n))
    }

    /// The network's own address.
    pub(crate) fn first(self) -> Ipv4Addr {
        self.base
    }

    /// The network's broadcast address.
    pub(crate) fn last(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) | (u32::MAX >> self.prefix))
    }

    /// Whether the address lies in the network.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        u32::from(address) & mask == u32::from(self.base)
    }

    /// Whether the two networks share an address.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').ok_or("must look like 10.244.0.0/16")?;
        let address: Ipv4Addr = address.parse().map_err(|_| format!("{address} is not an IPv4 address"))?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|p| (8..=30).contains(p))
            .ok_or_else(|| format!("the prefix length must be from 8 to 30, not {prefix}"))?;
        let base = Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - u32::from(prefix))));
        if base != address {
            return Err(format!("{address} has bits set beyond its /{prefix} prefix; did you mean {base}/{prefix}?"));
        }
        Ok(Self { base, prefix })
    }
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRange {
    pub from: u16,
    pub to: u16,
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must look like 30000-32767, both from 1 to 65535".to_owned();
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from, to): (u16, u16) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
        if from == 0 || from > to {
            return Err(wrong());
        }
        Ok(Self { from, to })
    }
}

/// Where the objects are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Datastore {
    Sqlite,
    Memory,
}

impl FromStr for Datastore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sqlite" => Ok(Self::Sqlite),
            "memory" => Ok(Self::Memory),
            _ => Err("must be sqlite or memory".to_owned()),
        }
    }
}

/// A taint to register the node with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

/// Parses `key[=value]:effect`.
///
/// # Errors
/// Says which part is wrong and what is allowed.
pub(crate) fn parse_taint(text: &str) -> Result<Taint, String> {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let (head, effect) = text.rsplit_once(':').ok_or("must look like key=value:NoSchedule")?;
    let (key, value) = head.split_once('=').unwrap_or((head, ""));
    if !EFFECTS.contains(&effect) {
        return Err(format!("the effect must be one of {}, not '{effect}'", EFFECTS.join(", ")));
    }
    first_problem("key", &apimachinery::names::is_qualified_name(key))?;
    first_problem("value", &apimachinery::names::is_label_value(value))?;
    Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
}

/// Parses `key=value` of a node label.
///
/// # Errors
/// Says which part is wrong.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must look like key=value")?;
    first_problem("key", &apimachinery::names::is_qualified_name(key))?;
    first_problem("value", &apimachinery::names::is_label_value(value))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn first_problem(what: &str, problems: &[String]) -> Result<(), String> {
    problems.first().map_or(Ok(()), |problem| Err(format!("the {what} is wrong: {problem}")))
}

/// What the configuration file holds: for each key one value or several.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    entries: Vec<(String, Vec<String>)>,
}

impl ConfigFile {
    /// Reads a YAML map of values and lists of values.
    ///
    /// # Errors
    /// One line naming the file, and the key where there is one.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let at = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{at}: cannot be read: {error}"))?;
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self { path: path.to_owned(), entries: Vec::new() });
        }
        let value: serde_json::Value = serde_saphyr::from_str(&text).map_err(|error| {
            let error = error.to_string();
            let line = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
            // What follows is advice to programmers.
            format!("{at}: not valid YAML: {}", line.split(", set ").next().unwrap_or_default())
        })?;
        let map = value.as_object().ok_or_else(|| format!("{at}: must be a map of settings, key: value"))?;
        let entries = map
            .iter()
            .map(|(key, value)| match scalars(value) {
                Some(values) => Ok((key.clone(), values)),
                None => Err(format!("{at}: '{key}' must be a value or a list of values")),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its keys with their values.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.entries.iter().map(|(key, values)| (key.as_str(), values.as_slice()))
    }

    /// One entry as command line flags.
    ///
    /// # Errors
    /// A switch that is given something else than true or false; several values where one is wanted.
    pub(crate) fn flags(
        &self,
        key: &str,
        values: &[String],
        action: &clap::ArgAction,
    ) -> Result<Vec<OsString>, String> {
        if matches!(action, clap::ArgAction::Set) && values.len() != 1 {
            return Err(format!("{}: '{key}' takes one value, not {}", self.path.display(), values.len()));
        }
        if action.takes_values() {
            return Ok(values.iter().map(|value| format!("--{key}={value}").into()).collect());
        }
        match values {
            [value] if value == "true" => Ok(vec![format!("--{key}").into()]),
            [value] if value == "false" => Ok(Vec::new()),
            _ => Err(format!("{}: '{key}' must be true or false, not '{}'", self.path.display(), values.join(","))),
        }
    }
}

fn scalars(value: &serde_json::Value) -> Option<Vec<String>> {
    use serde_json::Value;
    match value {
        Value::Array(items) => items.iter().map(scalar).collect(),
        other => scalar(other).map(|one| vec![one]),
    }
}

fn scalar(value: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Whether the address can be a node's: not unspecified, loopback or multicast.
pub(crate) fn usable_node_address(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_arithmetic() {
        let cidr: Cidr = "10.96.0.0/16".parse().unwrap();
        assert_eq!(cidr.nth(10), Some(Ipv4Addr::new(10, 96, 0, 10)));
        assert_eq!(cidr.nth(65536), None);
        assert!(cidr.overlaps("10.96.128.0/24".parse().unwrap()));
        assert!(!cidr.overlaps("10.97.0.0/16".parse().unwrap()));
        for wrong in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.1/24", "::1/64"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn taints_and_labels() {
        let taint = parse_taint("dedicated=db:NoSchedule").unwrap();
        assert_eq!(
            (taint.key.as_str(), taint.value.as_str(), taint.effect.as_str()),
            ("dedicated", "db", "NoSchedule")
        );
        assert!(parse_taint("a:NoSchedule").unwrap().value.is_empty());
        for wrong in ["a", "a:Never", "-a=b:NoSchedule", "a=b c:NoSchedule"] {
            assert!(parse_taint(wrong).is_err(), "{wrong}");
        }
        assert!(parse_label("disk=ssd").is_ok());
        assert!(parse_label("disk").is_err());
    }

    #[test]
    fn port_ranges() {
        assert_eq!("30000-32767".parse(), Ok(PortRange { from: 30000, to: 32767 }));
        for wrong in ["30000", "5-4", "0-1", "a-b", "1-70000"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
    }
}
