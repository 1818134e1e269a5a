//! `types.txt`: a line a type, sorted by name; a type's number is its line's. Then an empty line, and a line a kind.
//!
//! A type's line is parts between tabs: the name; `!` where the whole object is atomic; then each field, union and inlined message:
//!
//! - field: `name;TYPE;option…`. TYPE is `s`tring, b`y`tes, `i`nt32, `l` int64, `d`ouble, `b`oolean, `q`uantity,
//!   i`n`t-or-string, `t`ime, micro-time `u`, `A7` any value, `O7` any object (named by type 7), `@7` type 7; before it `[` for a list
//!   or `{` for a map. Options: `r`equired; `#7` protobuf number; `=` protobuf type where it does not follow (`[` repeated, `{` map);
//!   list type `lA`tomic, `lS`et, `lM:key,key`; `a`tomic map or object; patch strategy `pm` merge, `pr` retainKeys; `pk:key`;
//!   `e:a|b` enumeration; `d:` default as JSON; `p` a scalar (or status) whose zero is a value; `w` written even when it is empty.
//! - union: `?discriminator field=Value …` (the discriminator may be empty).
//! - inlined message: `&name number @7`.
//!
//! A kind's line is `group version kind number`, sorted, the core group written `-`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// What the Go types of v1.36 say beside `types.json`: a line a type, `*field` for an optional scalar, or a status, that is a pointer
/// (nil and zero differ), `=field` for an optional field without `omitempty`.
const GO: &str = include_str!("../go.txt");

/// All types, numbered by name.
pub struct Types<'a> {
    all: BTreeMap<&'a str, (usize, &'a Value)>,
    /// The type and the marked field.
    go: BTreeSet<(&'static str, &'static str)>,
}

impl<'a> Types<'a> {
    /// Numbers the types.
    pub fn new(types: &'a Map<String, Value>) -> Self {
        let mut sorted: Vec<(&String, &Value)> = types.iter().collect();
        sorted.sort_by_key(|(name, _)| name.as_str());
        let numbered = sorted.into_iter().enumerate().map(|(number, (name, facts))| (name.as_str(), (number, facts)));
        let marks = GO.lines().filter_map(|line| line.split_once(' '));
        let go = marks.flat_map(|(name, fields)| fields.split(' ').map(move |field| (name, field)));
        Self { all: numbered.collect(), go: go.collect() }
    }

    /// Whether some type is served as this kind.
    pub fn has_kind(&self, group: &str, version: &str, kind: &str) -> bool {
        let wanted = [group, version, kind];
        self.all.values().flat_map(|(_, facts)| kinds(facts)).any(|served| served == wanted)
    }

    /// The whole file.
    pub fn text(&self) -> Result<String> {
        let mut text = String::new();
        for (name, (_, facts)) in &self.all {
            let line = self.line(name, facts).with_context(|| format!("type {name}"))?;
            writeln!(text, "{line}")?;
        }
        let mut lines = Vec::new();
        for (number, facts) in self.all.values() {
            for [group, version, kind] in kinds(facts) {
                lines.push(format!("{} {version} {kind} {number}", if group.is_empty() { "-" } else { group }));
            }
        }
        lines.sort();
        writeln!(text, "\n{}", lines.join("\n"))?;
        Ok(text)
    }

    fn line(&self, name: &str, facts: &Value) -> Result<String> {
        let mut line = name.to_owned();
        if facts["mapType"] == "atomic" {
            line.push_str("\t!");
        }
        let mut fields: Vec<(&String, &Value)> = facts["fields"].as_object().into_iter().flatten().collect();
        fields.sort_by_key(|(name, _)| name.as_str());
        for (field, facts) in fields {
            let text = self.field(field, facts).with_context(|| format!("field {field}"))?;
            write!(line, "\t{text}")?;
            for (mark, option) in [('*', ";p"), ('=', ";w")] {
                if self.go.contains(&(name, &*format!("{mark}{field}"))) {
                    line.push_str(option);
                }
            }
        }
        for union in facts["unions"].as_array().into_iter().flatten() {
            write!(line, "\t?{}", union["discriminator"].as_str().unwrap_or_default())?;
            for (field, value) in union["fields-to-discriminateBy"].as_object().into_iter().flatten() {
                write!(line, " {field}={}", text(value)?)?;
            }
        }
        for (field, message) in facts["inline"].as_object().into_iter().flatten() {
            write!(line, "\t&{field} {} @{}", message["proto"], self.number(text(&message["protoType"])?)?)?;
        }
        Ok(line)
    }

    fn field(&self, name: &str, facts: &Value) -> Result<String> {
        let ty = match facts["type"].as_str() {
            Some(ty) => self.json_type(ty)?,
            None => self.wire_type(text(&facts["protoType"])?)?,
        };
        let mut line = format!("{name};{ty}");
        if facts["required"] == true {
            line.push_str(";r");
        }
        if let Some(number) = facts["proto"].as_u64() {
            write!(line, ";#{number}")?;
            let wire = text(&facts["protoType"])?;
            if facts["type"].as_str().is_some_and(|ty| wire_of(ty) != wire) {
                write!(line, ";={}", shape(wire))?;
            }
        }
        match facts["listType"].as_str() {
            None => {}
            Some("atomic") => line.push_str(";lA"),
            Some("set") => line.push_str(";lS"),
            Some("map") => write!(line, ";lM:{}", texts(&facts["listMapKeys"])?.join(","))?,
            Some(other) => bail!("unknown list type {other}"),
        }
        let of_type = facts["type"].as_str().is_some_and(|ty| self.is_atomic(ty));
        if facts["mapType"].as_str().map_or(of_type, |stated| stated == "atomic") {
            line.push_str(";a");
        }
        for strategy in facts["patchStrategy"].as_str().into_iter().flat_map(|strategies| strategies.split(',')) {
            line.push_str(match strategy {
                "merge" => ";pm",
                "retainKeys" => ";pr",
                "replace" => "",
                other => bail!("unknown patch strategy {other}"),
            });
        }
        if let Some(key) = facts["patchMergeKey"].as_str() {
            write!(line, ";pk:{key}")?;
        }
        if let Some(values) = facts["enum"].as_array() {
            let values = values.iter().map(text).collect::<Result<Vec<_>>>()?.join("|");
            ensure!(!values.contains([';', '\t']), "an enumerated value has a separator");
            write!(line, ";e:{values}")?;
        }
        if let Some(default) = facts.get("default") {
            let default = default.to_string();
            ensure!(!default.contains([';', '\t']), "a default has a separator");
            write!(line, ";d:{default}")?;
        }
        Ok(line)
    }

    fn is_atomic(&self, ty: &str) -> bool {
        self.all.get(ty).is_some_and(|(_, facts)| facts["mapType"] == "atomic")
    }

    fn json_type(&self, ty: &str) -> Result<String> {
        if let Some(item) = ty.strip_prefix("[]") {
            return Ok(format!("[{}", self.json_type(item)?));
        }
        if let Some(value) = ty.strip_prefix("map[string]") {
            return Ok(format!("{{{}", self.json_type(value)?));
        }
        Ok(match ty {
            "string" => "s".to_owned(),
            "string:byte" => "y".to_owned(),
            "integer:int32" => "i".to_owned(),
            "integer:int64" => "l".to_owned(),
            "number:double" => "d".to_owned(),
            "boolean" => "b".to_owned(),
            name => self.named_type(name)?,
        })
    }

    fn wire_type(&self, wire: &str) -> Result<String> {
        if let Some(item) = wire.strip_prefix("repeated ") {
            return Ok(format!("[{}", self.wire_type(item)?));
        }
        if let Some(value) = wire.strip_prefix("map<string,").and_then(|rest| rest.strip_suffix('>')) {
            return Ok(format!("{{{}", self.wire_type(value)?));
        }
        Ok(match wire {
            "string" => "s".to_owned(),
            "bytes" => "y".to_owned(),
            "int32" => "i".to_owned(),
            "int64" => "l".to_owned(),
            "double" => "d".to_owned(),
            "bool" => "b".to_owned(),
            name => self.named_type(name)?,
        })
    }

    fn named_type(&self, name: &str) -> Result<String> {
        let (number, facts) = self.all.get(name).with_context(|| format!("unknown type {name}"))?;
        let empty = facts["wire"].as_object().is_none_or(Map::is_empty);
        Ok(match (facts["scalar"].as_str(), name.rsplit('.').next()) {
            (Some("string"), Some("Quantity")) => "q".to_owned(),
            (Some("string:int-or-string"), _) => "n".to_owned(),
            (Some("string:date-time"), Some("Time")) => "t".to_owned(),
            (Some("string:date-time"), Some("MicroTime")) => "u".to_owned(),
            (Some("any"), _) => format!("A{number}"),
            (Some("object"), _) if !empty => format!("O{number}"),
            (None | Some("object"), _) => format!("@{number}"),
            (Some(other), _) => bail!("unknown scalar {other}"),
        })
    }

    fn number(&self, name: &str) -> Result<usize> {
        self.all.get(name).map(|(number, _)| *number).with_context(|| format!("unknown type {name}"))
    }
}

fn kinds(facts: &Value) -> impl Iterator<Item = [&str; 3]> {
    facts["gvk"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|kind| Some([kind[0].as_str()?, kind[1].as_str()?, kind[2].as_str()?]))
}

/// The protobuf type that a JSON type usually has.
fn wire_of(ty: &str) -> String {
    if let Some(item) = ty.strip_prefix("[]") {
        return format!("repeated {}", wire_of(item));
    }
    if let Some(value) = ty.strip_prefix("map[string]") {
        return format!("map<string,{}>", wire_of(value));
    }
    match ty {
        "string:byte" => "bytes",
        "integer:int32" => "int32",
        "integer:int64" => "int64",
        "number:double" => "double",
        "boolean" => "bool",
        other => other,
    }
    .to_owned()
}

/// A protobuf type without spaces: `[` for repeated, `{` for a map.
fn shape(wire: &str) -> String {
    if let Some(item) = wire.strip_prefix("repeated ") {
        return format!("[{}", shape(item));
    }
    match wire.strip_prefix("map<string,").and_then(|rest| rest.strip_suffix('>')) {
        Some(value) => format!("{{{}", shape(value)),
        None => wire.to_owned(),
    }
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

fn texts(value: &Value) -> Result<Vec<&str>> {
    value.as_array().context("no list")?.iter().map(text).collect()
}
