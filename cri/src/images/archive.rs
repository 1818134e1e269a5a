//! Image archives: OCI layouts and `docker save`, plain or gzipped, as a plan of blobs and names.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::ImportError;

/// Manifests and indexes beyond this are no such thing.
const DOCUMENT_MAX: u64 = 4 << 20;
/// An index may point at an index; nobody nests deeper.
const NESTING_MAX: usize = 4;

/// This machine's, by OCI's names.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Where the bytes of an archive are.
#[derive(Debug)]
pub(super) enum Source {
    File(File),
    Static(&'static [u8]),
}

impl Source {
    /// Fills `buffer` from `offset`.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Source::File(file) => file.read_exact_at(buffer, offset),
            Source::Static(bytes) => {
                let start = usize::try_from(offset).map_err(io::Error::other)?;
                let part = bytes.get(start..start.saturating_add(buffer.len()));
                buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

/// What a blob's bytes are.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// A piece of the archive.
    Piece { offset: u64 },
    /// Made here.
    Made(Vec<u8>),
}

/// Content to be stored, children before those that refer to them.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) data: Data,
    pub(super) labels: BTreeMap<String, String>,
}

/// A name and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
}

/// A layer of an image that this machine can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    /// Its digest when unzipped.
    pub(super) diff_id: String,
}

/// What the root file system of an image that this machine can run is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RootFs {
    /// Digest of the image's configuration.
    pub(super) config: String,
    pub(super) layers: Vec<Layer>,
}

/// All that is in an archive.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) source: Source,
    pub(super) blobs: Vec<Blob>,
    pub(super) root_fs: Vec<RootFs>,
    pub(super) images: Vec<Named>,
}

#[derive(Deserialize, Serialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    architecture: String,
    os: String,
    rootfs: ConfigRootFs,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConfigRootFs {
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What is found while reading.
#[derive(Default)]
struct Found {
    blobs: Vec<Blob>,
    root_fs: Vec<RootFs>,
    images: Vec<Named>,
}

struct Reader {
    what: String,
    source: Source,
    /// Path in the archive to its place.
    files: HashMap<String, (u64, u64)>,
}

impl Archive {
    /// Reads a file's table of contents and its manifests.
    pub(super) fn open(path: &Path) -> Result<Archive, ImportError> {
        let what = path.display().to_string();
        let fail = |why: io::Error| ImportError::Archive { archive: what.clone(), why: why.to_string() };
        let mut file = File::open(path).map_err(fail)?;
        let mut magic = [0; 2];
        if file.read_at(&mut magic, 0).map_err(fail)? == 2 && magic == [0x1f, 0x8b] {
            let mut plain = tempfile::tempfile().map_err(fail)?;
            io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut plain).map_err(fail)?;
            file = plain;
        }
        file.rewind().map_err(fail)?;
        let files = table(&mut file).map_err(fail)?;
        Reader { what: what.clone(), source: Source::File(file), files }.read()
    }

    /// The same for an archive in memory.
    pub(super) fn embedded(what: &str, bytes: &'static [u8]) -> Result<Archive, ImportError> {
        let files = table(&mut io::Cursor::new(bytes))
            .map_err(|why| ImportError::Archive { archive: what.into(), why: why.to_string() })?;
        Reader { what: what.into(), source: Source::Static(bytes), files }.read()
    }
}

/// Places of all files; links (old `docker save` has them for equal layers) lead to what they mean.
fn table(input: &mut (impl Read + Seek)) -> io::Result<HashMap<String, (u64, u64)>> {
    let mut files = HashMap::new();
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = clean(&entry.path()?);
        if let Some(target) = entry.link_name()? {
            let symbolic = entry.header().entry_type().is_symlink();
            let base = if symbolic { Path::new(&path).parent().unwrap_or(Path::new("")) } else { Path::new("") };
            links.push((path.clone(), clean(&base.join(target))));
        } else if entry.header().entry_type().is_file() {
            files.insert(path, (entry.raw_file_position(), entry.size()));
        }
    }
    for (path, target) in links {
        if let Some(place) = files.get(&target).copied() {
            files.insert(path, place);
        }
    }
    Ok(files)
}

fn clean(path: &Path) -> String {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(part) => out.push(part),
            std::path::Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out.to_string_lossy().into_owned()
}

impl Reader {
    fn error(&self, why: impl Into<String>) -> ImportError {
        ImportError::Archive { archive: self.what.clone(), why: why.into() }
    }

    fn read(self) -> Result<Archive, ImportError> {
        let mut found = Found::default();
        if self.files.contains_key("index.json") {
            let index: Document = self.json("index.json")?;
            for manifest in &index.manifests {
                if !self.has(manifest) {
                    continue;
                }
                self.collect(manifest, 0, &mut found)?;
                found.images.push(Named {
                    name: self.name(manifest)?,
                    media_type: manifest.media_type.clone(),
                    digest: manifest.digest.clone(),
                    size: manifest.size,
                });
            }
        } else if self.files.contains_key("manifest.json") {
            let list: Vec<DockerImage> = self.json("manifest.json")?;
            for image in &list {
                self.docker(image, &mut found)?;
            }
        } else {
            return Err(self.error("neither index.json (OCI) nor manifest.json (docker save) in it"));
        }
        if found.images.is_empty() {
            return Err(self.error("no image in it"));
        }
        Ok(Archive { source: self.source, blobs: found.blobs, root_fs: found.root_fs, images: found.images })
    }

    fn place(&self, path: &str) -> Result<(u64, u64), ImportError> {
        self.files.get(path).copied().ok_or_else(|| self.error(format!("{path} is missing")))
    }

    fn bytes(&self, path: &str) -> Result<Vec<u8>, ImportError> {
        let (offset, size) = self.place(path)?;
        if size > DOCUMENT_MAX {
            return Err(self.error(format!("{path} has {size} bytes, too many for a manifest")));
        }
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(0)];
        self.source.read_at(&mut buffer, offset).map_err(|error| self.error(format!("{path}: {error}")))?;
        Ok(buffer)
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, path: &str) -> Result<T, ImportError> {
        serde_json::from_slice(&self.bytes(path)?).map_err(|error| self.error(format!("{path}: {error}")))
    }

    fn has(&self, descriptor: &Descriptor) -> bool {
        self.files.contains_key(&blob_path(&descriptor.digest))
    }

    fn name(&self, descriptor: &Descriptor) -> Result<String, ImportError> {
        let annotation = |key: &str| descriptor.annotations.get(key).cloned();
        let name = annotation("io.containerd.image.name")
            .or_else(|| annotation("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/'])));
        name.map(|name| normalized(&name)).ok_or_else(|| {
            self.error(format!("manifest {} has no name: annotate it with io.containerd.image.name", descriptor.digest))
        })
    }

    /// Adds what a manifest or index refers to, then itself. Manifests of other platforms may be absent.
    fn collect(&self, descriptor: &Descriptor, depth: usize, found: &mut Found) -> Result<(), ImportError> {
        if depth > NESTING_MAX {
            return Err(self.error("indexes are nested too deeply"));
        }
        let path = blob_path(&descriptor.digest);
        let document: Document = self.json(&path)?;
        let mut labels = BTreeMap::new();
        for (number, child) in document.manifests.iter().enumerate().filter(|(_, child)| self.has(child)) {
            self.collect(child, depth + 1, found)?;
            labels.insert(format!("containerd.io/gc.ref.content.m.{number}"), child.digest.clone());
        }
        if let Some(config) = &document.config {
            labels.insert("containerd.io/gc.ref.content.config".into(), config.digest.clone());
            found.root_fs.extend(self.root_fs(&blob_path(&config.digest), &config.digest, &document.layers));
        }
        for (number, layer) in document.layers.iter().enumerate() {
            labels.insert(format!("containerd.io/gc.ref.content.l.{number}"), layer.digest.clone());
        }
        for child in document.config.iter().chain(&document.layers) {
            let (offset, size) = self.place(&blob_path(&child.digest))?;
            if size != child.size {
                return Err(self.error(format!("{} has {size} bytes, its manifest says {}", child.digest, child.size)));
            }
            let blob =
                Blob { digest: child.digest.clone(), size, data: Data::Piece { offset }, labels: BTreeMap::new() };
            push(&mut found.blobs, blob);
        }
        let (offset, size) = self.place(&path)?;
        push(&mut found.blobs, Blob { digest: descriptor.digest.clone(), size, data: Data::Piece { offset }, labels });
        Ok(())
    }

    /// `docker save` has no manifests in the registry's sense: this makes one.
    fn docker(&self, image: &DockerImage, found: &mut Found) -> Result<(), ImportError> {
        let mut labels = BTreeMap::new();
        let mut piece = |path: &str, label: String| -> Result<(String, u64), ImportError> {
            let (offset, size) = self.place(path)?;
            let digest = self.hash(path, offset, size)?;
            labels.insert(format!("containerd.io/gc.ref.content.{label}"), digest.clone());
            let data = Data::Piece { offset };
            push(&mut found.blobs, Blob { digest: digest.clone(), size, data, labels: BTreeMap::new() });
            Ok((digest, size))
        };
        let (config_digest, config_size) = piece(&image.config, "config".into())?;
        let mut layers = Vec::new();
        for (number, path) in image.layers.iter().enumerate() {
            let (digest, size) = piece(path, format!("l.{number}"))?;
            let (offset, _) = self.place(path)?;
            let mut magic = [0; 2];
            let gzip = size > 2 && self.source.read_at(&mut magic, offset).is_ok() && magic == [0x1f, 0x8b];
            let media_type = format!("{DOCKER_LAYER}{}", if gzip { ".gzip" } else { "" });
            layers.push(Descriptor { media_type, digest, size, annotations: HashMap::new() });
        }
        found.root_fs.extend(self.root_fs(&image.config, &config_digest, &layers));
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "layers": layers,
            "config": {"mediaType": DOCKER_CONFIG, "digest": config_digest, "size": config_size},
        })
        .to_string()
        .into_bytes();
        let digest = sha256(digest::digest(&digest::SHA256, &manifest).as_ref());
        let size = manifest.len() as u64;
        push(&mut found.blobs, Blob { digest: digest.clone(), size, data: Data::Made(manifest), labels });
        for tag in image.repo_tags.iter().flatten() {
            let media_type = DOCKER_MANIFEST.to_owned();
            found.images.push(Named { name: normalized(tag), media_type, digest: digest.clone(), size });
        }
        Ok(())
    }

    /// What an image's configuration says of its layers; nothing for another platform's, and for what is no image.
    fn root_fs(&self, path: &str, config: &str, layers: &[Descriptor]) -> Option<RootFs> {
        let document: Config = self.json(path).ok()?;
        let ours = document.os == "linux" && document.architecture == ARCHITECTURE;
        let diff_ids = document.rootfs.diff_ids;
        if !ours || layers.is_empty() || diff_ids.len() != layers.len() {
            return None;
        }
        let layer = |(layer, diff_id): (&Descriptor, String)| Layer {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
            diff_id,
        };
        Some(RootFs { config: config.to_owned(), layers: layers.iter().zip(diff_ids).map(layer).collect() })
    }

    fn hash(&self, path: &str, offset: u64, size: u64) -> Result<String, ImportError> {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        while done < size {
            let part = usize::try_from((size - done).min(1 << 20)).unwrap_or(0);
            let buffer = &mut buffer[..part];
            self.source.read_at(buffer, offset + done).map_err(|error| self.error(format!("{path}: {error}")))?;
            context.update(buffer);
            done += part as u64;
        }
        Ok(sha256(context.finish().as_ref()))
    }
}

fn push(blobs: &mut Vec<Blob>, blob: Blob) {
    if !blobs.iter().any(|known| known.digest == blob.digest) {
        blobs.push(blob);
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::from("sha256:"), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The full form of a name: `busybox` is `docker.io/library/busybox:latest`.
pub(super) fn normalized(name: &str) -> String {
    let full = match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    let last = full.rsplit('/').next().unwrap_or(&full);
    if last.contains([':', '@']) { full } else { format!("{full}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalized() {
        for (name, want) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/b:2", "localhost/b:2"),
            ("r.example:5000/x", "r.example:5000/x:latest"),
            ("keelson.dev/pause:1", "keelson.dev/pause:1"),
        ] {
            assert_eq!(normalized(name), want);
        }
    }

    fn tar(files: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
        let mut builder = tar::Builder::new(tempfile::NamedTempFile::new().unwrap());
        for (path, data) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn the_embedded_image_is_whole() {
        let archive = Archive::embedded("pause", super::super::PAUSE).unwrap();
        assert_eq!(archive.images.len(), 1);
        assert_eq!(archive.images[0].name, super::super::PAUSE_IMAGE);
        assert_eq!(archive.blobs.len(), 3);
        assert_eq!(archive.blobs[2].digest, archive.images[0].digest);
        let [root_fs] = &archive.root_fs[..] else { panic!("{:?}", archive.root_fs) };
        assert_eq!((&root_fs.config, &root_fs.layers[0].digest), (&archive.blobs[0].digest, &archive.blobs[1].digest));
        for blob in &archive.blobs {
            let Data::Piece { offset } = blob.data else { panic!("made") };
            let mut bytes = vec![0; usize::try_from(blob.size).unwrap()];
            archive.source.read_at(&mut bytes, offset).unwrap();
            assert_eq!(sha256(digest::digest(&digest::SHA256, &bytes).as_ref()), blob.digest);
        }
    }

    #[test]
    fn docker_archives_get_a_manifest() {
        let manifest = br#"[{"Config":"c.json","RepoTags":["web:1","web:2"],"Layers":["a/layer.tar","a/layer.tar"]}]"#;
        let file = tar(&[("manifest.json", manifest), ("c.json", b"{}"), ("a/layer.tar", b"xyz")]);
        let archive = Archive::open(file.path()).unwrap();
        let names: Vec<&str> = archive.images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["docker.io/library/web:1", "docker.io/library/web:2"]);
        assert_eq!(archive.blobs.len(), 3);
        assert_eq!(archive.blobs[2].labels.len(), 3);
    }

    #[test]
    fn only_what_runs_here_is_unpacked() {
        let ours = format!(r#"{{"os":"linux","architecture":"{ARCHITECTURE}","rootfs":{{"diff_ids":["sha256:d"]}}}}"#);
        let manifest = br#"[{"Config":"c.json","RepoTags":["web"],"Layers":["l.tar"]}]"#;
        for (config, count) in [
            (ours.as_str(), 1),
            (&ours.replace(ARCHITECTURE, "s390x"), 0),
            (&ours.replace("linux", "windows"), 0),
            (&ours.replace("\"sha256:d\"", ""), 0),
            ("[]", 0),
        ] {
            let file = tar(&[("manifest.json", manifest), ("c.json", config.as_bytes()), ("l.tar", b"xyz")]);
            let archive = Archive::open(file.path()).unwrap();
            assert_eq!(archive.root_fs.len(), count, "{config}");
            for root_fs in archive.root_fs {
                assert_eq!(root_fs.config, archive.blobs[0].digest);
                assert_eq!((&*root_fs.layers[0].media_type, &*root_fs.layers[0].diff_id), (DOCKER_LAYER, "sha256:d"));
            }
        }
    }

    #[test]
    fn broken_archives_are_refused() {
        for (files, want) in [
            (&[("x", b"" as &[u8])] as &[(&str, &[u8])], "neither index.json"),
            (&[("index.json", b"{")], "index.json: "),
            (&[("index.json", b"{\"manifests\":[]}")], "no image"),
            (&[("manifest.json", br#"[{"Config":"c","RepoTags":["a"],"Layers":[]}]"#)], "c is missing"),
            (
                &[
                    ("index.json", br#"{"manifests":[{"digest":"sha256:a","size":1}]}"#),
                    ("blobs/sha256/a", br#"{"layers":[{"digest":"sha256:b","size":1}]}"#),
                ],
                "blobs/sha256/b is missing",
            ),
        ] {
            let error = Archive::open(tar(files).path()).unwrap_err().to_string();
            assert!(error.contains(want), "{error} / {want}");
        }
    }
}
