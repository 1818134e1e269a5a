//! What the files of the directory say: pure, but for reading them.

use apimachinery::decode::{self, Media};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The largest file read; an API server takes no larger object either way.
const MAX_FILE: u64 = 16 << 20;

/// Each manifest by its file's name: its objects, or why it has none.
pub(super) type Files = BTreeMap<String, Result<Vec<Value>, String>>;

/// Reads every manifest of the directory. Others than `.yaml`, `.yml` and `.json`, hidden files and directories are none.
pub(super) fn read(directory: &Path) -> std::io::Result<Files> {
    let mut files = Files::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(media) = media(name) else { continue };
        match text(&path) {
            Ok(Some(text)) => drop(files.insert(name.to_owned(), objects(&text, media))),
            Ok(None) => {}
            Err(why) => drop(files.insert(name.to_owned(), Err(why))),
        }
    }
    Ok(files)
}

fn media(name: &str) -> Option<Media> {
    if name.starts_with('.') {
        return None;
    }
    match name.rsplit_once('.')?.1 {
        "yaml" | "yml" => Some(Media::Yaml),
        "json" => Some(Media::Json),
        _ => None,
    }
}

/// A file's text; `None` where it is none or has gone.
fn text(path: &Path) -> Result<Option<String>, String> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    if metadata.len() > MAX_FILE {
        return Err(format!("has {} bytes; {MAX_FILE} are the most", metadata.len()));
    }
    std::fs::read_to_string(path).map(Some).map_err(|error| format!("cannot be read: {error}"))
}

/// The objects of a file, Lists taken apart.
fn objects(text: &str, media: Media) -> Result<Vec<Value>, String> {
    let mut found = Vec::new();
    let documents = if matches!(media, Media::Yaml) { documents(text) } else { vec![text.to_owned()] };
    for (number, document) in documents.iter().enumerate() {
        let at = |why: &str| format!("document {}: {why}", number + 1);
        if document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        let value = decode::parse(document.as_bytes(), media).map_err(|error| at(&error.message))?;
        match value {
            Value::Null => {}
            Value::Object(mut list) if list.get("items").is_some_and(Value::is_array) && is_list(&list) => {
                let Some(Value::Array(items)) = list.remove("items") else { continue };
                for item in items {
                    found.push(checked(item).map_err(|why| at(&why))?);
                }
            }
            other => found.push(checked(other).map_err(|why| at(&why))?),
        }
    }
    Ok(found)
}

fn is_list(object: &serde_json::Map<String, Value>) -> bool {
    object.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"))
}

/// An object must say what it is and how it is called.
fn checked(object: Value) -> Result<Value, String> {
    for path in ["/apiVersion", "/kind", "/metadata/name"] {
        if object.pointer(path).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(format!("{} is missing", path[1..].replace('/', ".")));
        }
    }
    // They become parts of paths.
    for path in ["/metadata/name", "/metadata/namespace"] {
        let text = object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        if matches!(text, "." | "..") || text.contains(['/', '%', '?', '#', ' ']) {
            return Err(format!("{}: {text:?} can be no object's", path[1..].replace('/', ".")));
        }
    }
    Ok(object)
}

/// The documents of a YAML stream, as kubectl splits it: at lines that begin with `---`.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line.starts_with("---") {
            documents.push(String::new());
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";

    fn names(text: &str, media: Media) -> Result<Vec<String>, String> {
        let found = objects(text, media)?;
        Ok(found.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn documents_and_lists() {
        let two = format!("# first\n---\n{POD}--- # next\n\n---\n{}", POD.replace("name: a", "name: b"));
        assert_eq!(names(&two, Media::Yaml).unwrap(), ["a", "b"]);
        let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}]}"#;
        assert_eq!(names(list, Media::Json).unwrap(), ["c"]);
        assert_eq!(names("# nothing\n", Media::Yaml).unwrap(), [""; 0]);
        for (text, expected) in [
            ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: x}\n", "document 1: metadata.name is missing"),
            ("---\nkind: Pod\nmetadata: {name: x}\n", "document 2: apiVersion is missing"),
            ("- 1\n", "document 1: apiVersion is missing"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: ../x}\n",
                "document 1: metadata.name: \"../x\" can be no object's",
            ),
        ] {
            assert_eq!(names(text, Media::Yaml).unwrap_err(), expected, "{text}");
        }
        assert!(names("{", Media::Yaml).unwrap_err().starts_with("document 1: "));
    }

    #[test]
    fn files_that_are_manifests() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "b.yml", ".hidden.yaml", "notes.txt", "c.yaml~"] {
            std::fs::write(directory.path().join(name), POD).unwrap();
        }
        std::fs::write(directory.path().join("broken.json"), "{").unwrap();
        std::fs::create_dir(directory.path().join("d.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", directory.path().join("e.yaml")).unwrap();
        let files = read(directory.path()).unwrap();
        let found: Vec<_> = files.iter().map(|(name, objects)| (name.as_str(), objects.is_ok())).collect();
        assert_eq!(found, [("a.yaml", true), ("b.yml", true), ("broken.json", false)]);
    }
}
