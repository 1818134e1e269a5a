//! The OCI image layout as one archive.

use super::recipe::Recipe;
use super::sha256::hex_digest;
use super::ustar::Tar;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The archive of an image with one layer.
pub(super) fn archive(recipe: &Recipe, target: &str, layer: Vec<u8>) -> Vec<u8> {
    let mut tar = Tar::default();
    let layer_digest = hex_digest(&layer);
    let layer_size = layer.len();
    tar.file(&format!("blobs/sha256/{layer_digest}"), 0o644, layer);
    let config = config(recipe, architecture(target), &layer_digest);
    let config_digest = hex_digest(config.as_bytes());
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{},\"layers\":[{}]}}",
        descriptor(CONFIG, &config_digest, config.len(), ""),
        descriptor(LAYER, &layer_digest, layer_size, ""),
    );
    let manifest_digest = hex_digest(manifest.as_bytes());
    let annotations = format!(",\"annotations\":{{\"io.containerd.image.name\":{}}}", json(&recipe.name));
    let index = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[{}]}}",
        descriptor(MANIFEST, &manifest_digest, manifest.len(), &annotations),
    );
    tar.file(&format!("blobs/sha256/{config_digest}"), 0o644, config.into_bytes());
    tar.file(&format!("blobs/sha256/{manifest_digest}"), 0o644, manifest.into_bytes());
    tar.file("index.json", 0o644, index.into_bytes());
    tar.file("oci-layout", 0o644, b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec());
    tar.finish()
}

fn descriptor(media_type: &str, digest: &str, size: usize, more: &str) -> String {
    format!("{{\"mediaType\":\"{media_type}\",\"digest\":\"sha256:{digest}\",\"size\":{size}{more}}}")
}

fn config(recipe: &Recipe, architecture: &str, layer_digest: &str) -> String {
    let mut config = Vec::new();
    if !recipe.user.is_empty() {
        config.push(format!("\"User\":{}", json(&recipe.user)));
    }
    if !recipe.ports.is_empty() {
        let ports: Vec<String> = recipe.ports.iter().map(|port| format!("{}:{{}}", json(port))).collect();
        config.push(format!("\"ExposedPorts\":{{{}}}", ports.join(",")));
    }
    for (key, words) in [("Env", &recipe.env), ("Entrypoint", &recipe.entrypoint), ("Cmd", &recipe.cmd)] {
        if !words.is_empty() {
            let words: Vec<String> = words.iter().map(|word| json(word)).collect();
            config.push(format!("\"{key}\":[{}]", words.join(",")));
        }
    }
    if !recipe.workdir.is_empty() {
        config.push(format!("\"WorkingDir\":{}", json(&recipe.workdir)));
    }
    format!(
        "{{\"created\":\"1970-01-01T00:00:00Z\",\"architecture\":\"{architecture}\",\"os\":\"linux\",\"config\":{{{}}},\
         \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:{layer_digest}\"]}}}}",
        config.join(",")
    )
}

/// GOARCH of a target triple.
fn architecture(target: &str) -> &str {
    match target.split('-').next().unwrap_or(target) {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn json(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
