//! Variables from a file that an init container has written into a volume of the pod's own.

use k8s_openapi::api::core::v1::FileKeySelector;

use crate::volumes::{VolumePaths, subpath};

/// What such a file may be long.
const MOST: u64 = 64 << 10;

/// The value that a file gives a key; `None` when it may be missing and is.
pub(super) fn value(volumes: &VolumePaths, reference: &FileKeySelector) -> Result<Option<String>, String> {
    let FileKeySelector { key, path, volume_name, optional } = reference;
    let optional = optional.unwrap_or(false);
    let volume = volumes.get(volume_name).ok_or_else(|| format!("volume {volume_name:?} is not mounted"))?;
    match subpath::read(volume, path, MOST) {
        Ok(text) => match find(&text, key) {
            None if !optional => {
                Err(format!("environment variable key {key:?} not found in file {path:?} of volume {volume_name:?}"))
            }
            found => Ok(found.map(str::to_owned)),
        },
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read environment file {path:?} of volume {volume_name:?}: {error}")),
    }
}

/// `KEY=value` up to a comment or the line's end, or `KEY='value'`, which may hold anything but a single quote.
fn find<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut rest = text;
    while !rest.is_empty() {
        let line = rest.split_inclusive('\n').next().unwrap_or(rest);
        let (name, value) = rest.split_once('=').filter(|(name, _)| !name.contains(['\n', '#'])).unwrap_or(("", ""));
        let quoted = value.strip_prefix('\'').and_then(|value| value.split_once('\''));
        if name.trim() == key && !key.is_empty() {
            let plain = || value.lines().next().unwrap_or_default().split('#').next().unwrap_or_default();
            return Some(quoted.map_or_else(plain, |(value, _)| value));
        }
        rest = quoted.map_or(&rest[line.len()..], |(_, after)| after.split_once('\n').map_or("", |(_, rest)| rest));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_comments_and_quotes() {
        let text = "A=1\n# C=no\nB=two words # said\nQ='it # is\nX=inside'\n\nnonsense\nE=\nA=later\n";
        for (key, expected) in [
            ("A", Some("1")),
            ("B", Some("two words ")),
            ("C", None),
            ("Q", Some("it # is\nX=inside")),
            ("X", None),
            ("E", Some("")),
            ("nonsense", None),
        ] {
            assert_eq!(find(text, key), expected, "{key}");
        }
    }

    #[test]
    fn a_file_of_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "K=v\n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).unwrap();
        let volumes = VolumePaths::from([("v".to_owned(), dir.path().to_owned())]);
        for (path, key, optional, expected) in [
            ("f", "K", false, Some(Some("v"))),
            ("f", "L", true, Some(None)),
            ("f", "L", false, None),
            ("none", "K", true, Some(None)),
            ("none", "K", false, None),
            ("out", "root", true, None),
        ] {
            let reference = FileKeySelector {
                key: key.into(),
                path: path.into(),
                volume_name: "v".into(),
                optional: Some(optional),
            };
            let got = value(&volumes, &reference).ok();
            assert_eq!(got.as_ref().map(Option::as_deref), expected, "{path} {key} {optional}");
        }
    }
}
