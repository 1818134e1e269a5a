//! The gRPC clients of the container runtime: CRI v1 from the facts beside the checkout, and the few containerd services
//! that CRI does not cover, from the `.proto` files that the `containerd-client` crate carries.
//!
//! The output is committed (`cri/src/generated`), so building Keelson needs no `protoc`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The containerd services used: image import (content, images, leases, namespaces, and to unpack: snapshots, diff), the event
/// stream and what its events hold.
const CONTAINERD_PROTOS: &[&str] = &[
    "services/content/v1/content.proto",
    "services/diff/v1/diff.proto",
    "services/events/v1/events.proto",
    "services/images/v1/images.proto",
    "services/leases/v1/leases.proto",
    "services/namespaces/v1/namespace.proto",
    "services/snapshots/v1/snapshots.proto",
    "events/container.proto",
    "events/image.proto",
    "events/task.proto",
];

/// Where `containerd-client` keeps containerd's API.
const CONTAINERD_API: &str = "github.com/containerd/containerd/api";

/// Writes `cri/src/generated/{v1,containerd}` below `root`, the checkout.
pub fn run(root: &Path) -> Result<()> {
    let generated = root.join("cri/src/generated");
    std::fs::create_dir_all(&generated).with_context(|| format!("create {}", generated.display()))?;
    cri(root, &generated)?;
    containerd(root, &generated)
}

fn cri(root: &Path, generated: &Path) -> Result<()> {
    let proto_dir = root.join("../shared/kubernetes-api/proto");
    let out = tempdir("cri")?;
    tonic_prost_build::configure()
        .build_server(false)
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(&out)
        .compile_protos(&[proto_dir.join("cri-v1.proto")], &[proto_dir])
        .context("compile cri-v1.proto (is protoc installed?)")?;
    install(&out.join("runtime.v1.rs"), &generated.join("v1.rs"))?;
    std::fs::remove_dir_all(&out).context("remove scratch directory")
}

fn containerd(root: &Path, generated: &Path) -> Result<()> {
    let vendor = containerd_client_dir(root)?.join("vendor");
    let protos: Vec<PathBuf> = CONTAINERD_PROTOS.iter().map(|p| vendor.join(CONTAINERD_API).join(p)).collect();
    let out = tempdir("containerd")?;
    tonic_prost_build::configure()
        .build_server(false)
        .btree_map(".")
        .disable_comments(["."])
        .emit_rerun_if_changed(false)
        .include_file("mod.rs")
        .out_dir(&out)
        .compile_protos(&protos, &[vendor])
        .context("compile containerd's protos (is protoc installed?)")?;
    let target = generated.join("containerd");
    std::fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
    for entry in std::fs::read_dir(&out).context("list generated files")? {
        let path = entry.context("list generated files")?.path();
        let name = path.file_name().context("a generated file has a name")?.to_owned();
        install(&path, &target.join(name))?;
    }
    std::fs::remove_dir_all(&out).context("remove scratch directory")
}

/// Where cargo unpacked `containerd-client`, which the code generator depends on for its files alone.
fn containerd_client_dir(root: &Path) -> Result<PathBuf> {
    let manifest = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(dir) => PathBuf::from(dir).join("Cargo.toml"),
        None => root.join("xtask/codegen/Cargo.toml"),
    };
    let output = std::process::Command::new("cargo")
        .args(["tree", "--package", "containerd-client", "--depth", "0", "--prefix", "none", "--format", "{p}"])
        .arg("--manifest-path")
        .arg(&manifest)
        .output()
        .context("run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let line = String::from_utf8(output.stdout).context("cargo tree's output")?;
    let version = line.split_whitespace().nth(1).context("cargo tree names no version")?.trim_start_matches('v');
    let registries = home()?.join(".cargo/registry/src");
    for registry in std::fs::read_dir(&registries).with_context(|| format!("list {}", registries.display()))? {
        let dir = registry?.path().join(format!("containerd-client-{version}"));
        if dir.is_dir() {
            return Ok(dir);
        }
    }
    bail!("containerd-client {version} is not below {}", registries.display())
}

fn home() -> Result<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set")
}

fn tempdir(name: &str) -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("keelson-codegen-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

fn install(from: &Path, to: &Path) -> Result<()> {
    let text = std::fs::read_to_string(from).with_context(|| format!("read {}", from.display()))?;
    std::fs::write(to, text).with_context(|| format!("write {}", to.display()))
}
