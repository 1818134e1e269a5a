//! Which names are valid (with upstream's messages), generated names, and names derived from hashes.

use serde_json::Value;

/// The alphabet of generated names: no vowels, so no words; no digits that look like letters.
pub const SAFE_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

const MAX_GENERATED_BASE: usize = 58;

const LABEL_1123: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// The messages that are wrong with a name; empty when the name is valid.
pub type Messages = Vec<String>;

fn regex_message(message: &str, format: &str, examples: &[&str]) -> String {
    let mut text = format!("{message} (");
    if !examples.is_empty() {
        text.push_str("e.g. ");
        for (index, example) in examples.iter().enumerate() {
            if index > 0 {
                text.push_str(" or ");
            }
            text.push_str(&format!("'{example}', "));
        }
    }
    text.push_str(&format!("regex used for validation is '{format}')"));
    text
}

fn max_length(name: &str, max: usize) -> Option<String> {
    (name.len() > max).then(|| max_length_message(max))
}

/// `must be no more than N bytes`.
pub fn max_length_message(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn label_1123(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.iter().all(|byte| is_lower(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| is_lower(*byte))
        && bytes.last().is_some_and(|byte| is_lower(*byte))
}

fn qualified_part(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// A DNS label (RFC 1123): at most 63 of `a-z0-9-`.
pub fn is_dns1123_label(name: &str) -> Messages {
    let mut messages: Messages = max_length(name, 63).into_iter().collect();
    if !label_1123(name) {
        let subdomain = !name.is_empty() && name.split('.').all(label_1123);
        messages.push(if subdomain {
            "must not contain dots".to_owned()
        } else {
            regex_message(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_1123,
                &["my-name", "123-abc"],
            )
        });
    }
    messages
}

/// A DNS subdomain (RFC 1123): labels joined by dots, at most 253 characters.
pub fn is_dns1123_subdomain(name: &str) -> Messages {
    let mut messages: Messages = max_length(name, 253).into_iter().collect();
    if !name.split('.').all(label_1123) {
        messages.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    messages
}

/// A DNS subdomain whose labels may hold underscores, as names of services in DNS do: `_sip._tcp.example.com`.
pub fn is_dns1123_subdomain_with_underscore(name: &str) -> Messages {
    let mut messages: Messages = max_length(name, 253).into_iter().collect();
    let label = |label: &str| {
        let inner = label.strip_prefix('_').unwrap_or(label).as_bytes();
        inner.iter().all(|byte| is_lower(*byte) || matches!(byte, b'-' | b'_'))
            && inner.first().is_some_and(|byte| is_lower(*byte))
            && inner.last().is_some_and(|byte| is_lower(*byte))
    };
    if !name.split('.').all(label) {
        messages.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    messages
}

/// A DNS label (RFC 1035): as [`is_dns1123_label`], but it starts with a letter.
pub fn is_dns1035_label(name: &str) -> Messages {
    let mut messages: Messages = max_length(name, 63).into_iter().collect();
    if !label_1123(name) || !name.as_bytes()[0].is_ascii_lowercase() {
        messages.push(regex_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    messages
}

/// A DNS subdomain whose first label may be `*`.
pub fn is_wildcard_dns1123_subdomain(name: &str) -> Messages {
    let mut messages: Messages = max_length(name, 253).into_iter().collect();
    let valid = name.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(label_1123));
    if !valid {
        messages.push(regex_message(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["*.example.com"],
        ));
    }
    messages
}

/// A qualified name, such as a label's key: `name` or `prefix.example/name`.
pub fn is_qualified_name(name: &str) -> Messages {
    let mut messages = Messages::new();
    let parts: Vec<&str> = name.split('/').collect();
    let local = match parts.as_slice() {
        [local] => local,
        [prefix, local] => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".to_owned());
            } else {
                messages
                    .extend(is_dns1123_subdomain(prefix).into_iter().map(|message| format!("prefix part {message}")));
            }
            local
        }
        _ => {
            messages.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_message(
                    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
                    QUALIFIED,
                    &["MyName", "my.name", "123-abc"]
                )
            ));
            return messages;
        }
    };
    if local.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if let Some(message) = max_length(local, 63) {
        messages.push(format!("name part {message}"));
    }
    if !qualified_part(local) {
        messages.push(format!(
            "name part {}",
            regex_message(
                "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
                QUALIFIED,
                &["MyName", "my.name", "123-abc"]
            )
        ));
    }
    messages
}

/// A label's value: empty, or at most 63 of `A-Za-z0-9-_.`.
pub fn is_label_value(value: &str) -> Messages {
    let mut messages: Messages = max_length(value, 63).into_iter().collect();
    if !value.is_empty() && !qualified_part(value) {
        messages.push(regex_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    messages
}

/// A key of a ConfigMap or Secret.
pub fn is_config_map_key(key: &str) -> Messages {
    let mut messages: Messages = max_length(key, 253).into_iter().collect();
    let characters = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if key.is_empty() || !characters {
        messages.push(regex_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match key {
        "." => messages.push("must not be '.'".to_owned()),
        ".." => messages.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => messages.push("must not start with '..'".to_owned()),
        _ => {}
    }
    messages
}

/// The name of an environment variable: any printable ASCII but `=`.
pub fn is_env_var_name(name: &str) -> Messages {
    let mut messages = Messages::new();
    if name.is_empty() || !name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        messages.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    messages
}

/// The name of a port: at most 15 of `a-z0-9-` with a letter.
pub fn is_port_name(name: &str) -> Messages {
    let mut messages: Messages =
        (name.len() > 15).then(|| "must be no more than 15 characters".to_owned()).into_iter().collect();
    let bytes = name.as_bytes();
    if bytes.is_empty() || !bytes.iter().all(|byte| is_lower(*byte) || *byte == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !bytes.iter().any(u8::is_ascii_lowercase) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// A port's number.
pub fn is_port_number(port: i64) -> Messages {
    let valid = (1..=65535).contains(&port);
    (!valid).then(|| "must be between 1 and 65535, inclusive".to_owned()).into_iter().collect()
}

/// A name that is one segment of a URL's path.
pub fn is_path_segment_name(name: &str) -> Messages {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|part| name.contains(**part)).map(|part| format!("may not contain '{part}'")).collect()
}

/// A name from a `generateName`: the base, cut to 58 bytes, and five random characters of [`SAFE_ALPHABET`].
pub fn generate_name(base: &str) -> String {
    let mut cut = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = base[..cut].to_owned();
    name.extend((0..5).map(|_| char::from(SAFE_ALPHABET[rand::random_range(0..SAFE_ALPHABET.len())])));
    name
}

/// Each byte replaced by one of [`SAFE_ALPHABET`], so that the text spells no word and is a valid name.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(SAFE_ALPHABET[usize::from(byte) % SAFE_ALPHABET.len()])).collect()
}

/// FNV-1, 32 bits (Go's `fnv.New32a` is FNV-1a: see [`fnv32a`]).
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The hash that names what is made from a template (`pod-template-hash`, `controller-revision-hash`): the same for equal templates,
/// different for another collision count.
pub fn template_hash(template: &Value, collision_count: Option<u32>) -> String {
    let mut bytes = Vec::with_capacity(1024);
    canonical(template, &mut bytes, 0);
    if let Some(count) = collision_count {
        bytes.extend_from_slice(&u64::from(count).to_le_bytes());
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

/// JSON with sorted keys; what nests deeper than an object may is left out.
fn canonical(value: &Value, bytes: &mut Vec<u8>, depth: usize) {
    if depth > crate::MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            bytes.push(b'{');
            for key in keys {
                bytes.extend_from_slice(crate::quote::quote(key).as_bytes());
                bytes.push(b':');
                canonical(&map[key], bytes, depth + 1);
                bytes.push(b',');
            }
            bytes.push(b'}');
        }
        Value::Array(items) => {
            bytes.push(b'[');
            for item in items {
                canonical(item, bytes, depth + 1);
                bytes.push(b',');
            }
            bytes.push(b']');
        }
        scalar => bytes.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Validator = fn(&str) -> Messages;

    #[test]
    fn valid_and_invalid_names() {
        let long = "a".repeat(64);
        let cases: [(Validator, &[&str], &[&str]); 9] = [
            (is_dns1123_label, &["a", "0-9", "my-name"], &["", "-a", "a-", "A", "a.b", "a_b", &long]),
            (is_dns1123_subdomain, &["a", "a.b-c.0", &long], &["", ".", "a..b", "-a.b", "A"]),
            (
                is_dns1123_subdomain_with_underscore,
                &["a", "_sip._tcp.a", "a_b.c"],
                &["", "_", "a_", "__a", "A", "a..b"],
            ),
            (is_dns1035_label, &["a", "a-0"], &["", "0a", "a.b", "a-"]),
            (is_qualified_name, &["a", "A.b_c-d", "a.b/C"], &["", "/a", "a/", "a/b/c", "A/b", "a b", "-a", &long]),
            (is_label_value, &["", "a", "A_b.c"], &["-", "a b", "a/b", &long]),
            (is_config_map_key, &["a", ".b", "_", "-"], &["", ".", "..", "..a", "a/b"]),
            (is_port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "a-", "A", "aaaaaaaaaaaaaaaa"]),
            (is_wildcard_dns1123_subdomain, &["*.a.b"], &["*", "a.b", "*.", "*.A"]),
        ];
        for (validator, valid, invalid) in cases {
            for name in valid {
                assert_eq!(validator(name), Messages::new(), "{name}");
            }
            for name in invalid {
                assert!(!validator(name).is_empty(), "{name} should be invalid");
            }
        }
    }

    #[test]
    fn messages() {
        assert_eq!(
            is_dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(is_label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn generated_names_and_hashes() {
        let name = generate_name(&"é".repeat(40));
        assert_eq!(name.len(), 58 + 5);
        assert!(name.bytes().rev().take(5).all(|byte| SAFE_ALPHABET.contains(&byte)));
        assert_eq!(fnv32a(b"a"), 0xe40c_292c);
        assert_eq!(safe_encode("0123"), "4567");
        let template = json!({"spec": {"a": [1, "x"]}, "b": null});
        assert_eq!(template_hash(&template, None), template_hash(&template.clone(), None));
        assert_ne!(template_hash(&template, None), template_hash(&template, Some(1)));
    }
}
