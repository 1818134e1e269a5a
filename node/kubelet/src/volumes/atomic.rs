//! Atomic replacement of a directory of files: a payload goes to a fresh directory, the `..data` link is swapped to it.
//! Readers see either the old set or the new one, never a mixture, and open files stay valid.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// One file of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Its bytes.
    pub(crate) data: Vec<u8>,
    /// Its permission bits.
    pub(crate) mode: u32,
    /// Its owner, where not root.
    pub(crate) owner: Option<u32>,
}

/// Files by path relative to the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// Whether a path may be written inside a volume: relative, no `..`, no name that begins with two dots.
pub(crate) fn valid_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 4096
        && !path.starts_with("..")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(name) if name.len() <= 255))
}

/// Writes the payload where it differs from what is there; says whether it wrote. `group` gets read access to every file.
pub(crate) fn write(target: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    if let Some(bad) = payload.keys().find(|path| !valid_path(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {bad:?} in a volume")));
    }
    let old = fs::read_link(target.join(DATA)).ok();
    if let Some(old) = &old
        && is_same(&target.join(old), payload)?
    {
        link_names(target, payload)?;
        return Ok(false);
    }
    let fresh = fresh_dir(target)?;
    fill(&fresh, payload, group)?;
    let tmp = target.join(DATA_TMP);
    remove_if_there(&tmp)?;
    symlink(fresh.file_name().unwrap_or_default(), &tmp)?;
    fs::rename(&tmp, target.join(DATA))?;
    link_names(target, payload)?;
    remove_stale_names(target, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(target.join(old)).or_else(ignore_missing)?;
    }
    Ok(true)
}

fn fresh_dir(target: &Path) -> io::Result<PathBuf> {
    let stamp = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
    let dir = target.join(format!("..{stamp}.{:08x}", rand::random::<u32>()));
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

fn fill(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    for (path, file) in payload {
        let full = dir.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&full, &file.data)?;
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        std::os::unix::fs::chown(&full, file.owner, group)?;
        // After chown, which clears setuid bits.
        fs::set_permissions(&full, fs::Permissions::from_mode(mode))?;
    }
    if group.is_some() {
        super::ownership::set_group(dir, group.unwrap_or(0), true)?;
    }
    Ok(())
}

fn is_same(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut present = BTreeSet::new();
    collect(dir, Path::new(""), &mut present)?;
    if present.len() != payload.len() || !payload.keys().all(|path| present.contains(Path::new(path))) {
        return Ok(false);
    }
    for (path, file) in payload {
        if fs::read(dir.join(path))? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect(dir: &Path, prefix: &Path, into: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let relative = prefix.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &relative, into)?;
        } else {
            into.insert(relative);
        }
    }
    Ok(())
}

fn first_part(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn link_names(target: &Path, payload: &Payload) -> io::Result<()> {
    for name in payload.keys().map(|path| first_part(path)).collect::<BTreeSet<_>>() {
        let link = target.join(name);
        if fs::read_link(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    Ok(())
}

fn remove_stale_names(target: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().map(|path| first_part(path)).collect();
    for entry in fs::read_dir(target)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) {
            remove_if_there(&target.join(name))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(ignore_missing)
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.into(), mode: 0o644, owner: None };
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("..2"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn swaps_adds_and_removes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path();
        assert!(write(target, &payload(&[("a", "1"), ("d/x", "2"), ("d/y", "3")]), None).unwrap());
        let opened_by_a_reader = fs::read_link(target.join(DATA)).unwrap();
        assert_eq!(names(target), ["..data", "a", "d"]);
        assert_eq!(fs::read_to_string(target.join("d/y")).unwrap(), "3");
        assert!(!write(target, &payload(&[("a", "1"), ("d/x", "2"), ("d/y", "3")]), None).unwrap(), "unchanged");
        assert!(write(target, &payload(&[("a", "9"), ("b", "8")]), None).unwrap());
        assert_eq!(names(target), ["..data", "a", "b"]);
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "9");
        assert!(!target.join(opened_by_a_reader).exists(), "the old set is gone");
    }

    #[test]
    fn repairs_a_missing_link_and_a_half_done_swap() {
        let dir = tempfile::tempdir().unwrap();
        let files = payload(&[("a", "1")]);
        write(dir.path(), &files, None).unwrap();
        fs::remove_file(dir.path().join("a")).unwrap();
        symlink("nowhere", dir.path().join(DATA_TMP)).unwrap();
        write(dir.path(), &files, None).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "1");
        assert!(write(dir.path(), &payload(&[("a", "2")]), None).unwrap());
    }

    #[test]
    fn refuses_to_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/x", "a/../../x", "..data", "", "..x/y"] {
            assert!(write(dir.path(), &payload(&[(bad, "1")]), None).is_err(), "{bad}");
        }
        assert!(valid_path("a/b.c") && valid_path(".hidden"));
    }

    #[test]
    fn modes() {
        let dir = tempfile::tempdir().unwrap();
        let files = Payload::from([("s".into(), File { data: b"x".to_vec(), mode: 0o400, owner: None })]);
        write(dir.path(), &files, None).unwrap();
        let mode = fs::metadata(dir.path().join("s")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
    }
}
