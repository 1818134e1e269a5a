//! Unpacks the layers of imported images into snapshots that outlive a power cut.
//!
//! Left to itself containerd unpacks an image when a container first needs it, records at once and durably that the
//! snapshot is whole, and leaves its files to the page cache (releases before 1.7.26 cannot be told otherwise). After a
//! power cut they are empty, and nothing ever looks at them again. Here the files are synced before the record is made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};

use super::archive::{Layer, RootFs, sha256};
use super::{ImportError, Importer, failed};
use crate::generated::containerd::services::diff::v1::ApplyRequest;
use crate::generated::containerd::services::diff::v1::diff_client::DiffClient;
use crate::generated::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use crate::generated::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use crate::generated::containerd::types::Descriptor;
use crate::namespace::{in_lease, in_namespace};

type Lease = MetadataValue<Ascii>;

/// What CRI keeps snapshots with: `DIR/io.containerd.snapshotter.v1.NAME`.
struct Snapshotter {
    name: String,
    dir: PathBuf,
}

impl Snapshotter {
    fn at(dir: &str) -> Option<Snapshotter> {
        let name = Path::new(dir).file_name()?.to_str()?.strip_prefix("io.containerd.snapshotter.v1.")?;
        Some(Snapshotter { name: name.to_owned(), dir: dir.into() })
    }

    /// Everything written to its file system so far is on disk when this returns.
    async fn sync(&self) -> Result<(), ImportError> {
        let dir = self.dir.clone();
        let sync = move || Ok(nix::unistd::syncfs(std::fs::File::open(dir)?)?);
        let done = tokio::task::spawn_blocking(sync).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        done.map_err(|source| ImportError::Sync { dir: self.dir.clone(), source })
    }
}

impl Importer {
    /// Unpacks the layers that are not unpacked yet and ties the snapshots to the images' configurations.
    pub(super) async fn unpack(&self, images: &[RootFs], lease: &Lease) -> Result<(), ImportError> {
        if images.is_empty() {
            return Ok(());
        }
        let info = self.runtime.image_fs_info().await?;
        let dirs = info.image_filesystems.into_iter().filter_map(|usage| usage.fs_id).map(|id| id.mountpoint);
        // Another kind of runtime keeps layers in its own way and unpacks them itself.
        let Some(snapshotter) = dirs.into_iter().find_map(|dir| Snapshotter::at(&dir)) else { return Ok(()) };
        for image in images {
            let mut parent = String::new();
            for layer in &image.layers {
                let chain = chain_id(&parent, &layer.diff_id);
                if !self.has_snapshot(&snapshotter, &chain).await? {
                    self.layer(&snapshotter, layer, &parent, &chain, lease).await?;
                }
                parent = chain;
            }
            let label = format!("containerd.io/gc.ref.snapshot.{}", snapshotter.name);
            self.label(&image.config, BTreeMap::from([(label, parent)]), &BTreeMap::new()).await?;
        }
        Ok(())
    }

    async fn has_snapshot(&self, snapshotter: &Snapshotter, chain: &str) -> Result<bool, ImportError> {
        let request = StatSnapshotRequest { snapshotter: snapshotter.name.clone(), key: chain.to_owned() };
        match SnapshotsClient::new(self.channel.clone()).stat(in_namespace(request)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(failed("Snapshots.Stat", chain)(status)),
        }
    }

    async fn layer(
        &self,
        snapshotter: &Snapshotter,
        layer: &Layer,
        parent: &str,
        chain: &str,
        lease: &Lease,
    ) -> Result<(), ImportError> {
        // One of its own for each attempt: what an interrupted one leaves goes with its lease.
        let key = format!("extract-{} {chain}", jiff::Timestamp::now().as_nanosecond());
        let applied = self.apply(snapshotter, layer, parent, &key, lease).await;
        let made = match applied {
            Ok(()) => self.commit(snapshotter, chain, &key, lease).await,
            Err(error) => Err(error),
        };
        if !matches!(made, Ok(true)) {
            let request = RemoveSnapshotRequest { snapshotter: snapshotter.name.clone(), key };
            // The lease's end removes it too.
            let _ = SnapshotsClient::new(self.channel.clone()).remove(in_namespace(request)).await;
        }
        made.map(drop)
    }

    async fn apply(
        &self,
        snapshotter: &Snapshotter,
        layer: &Layer,
        parent: &str,
        key: &str,
        lease: &Lease,
    ) -> Result<(), ImportError> {
        let request = PrepareSnapshotRequest {
            snapshotter: snapshotter.name.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: BTreeMap::new(),
        };
        let prepared = SnapshotsClient::new(self.channel.clone()).prepare(in_lease(request, lease)).await;
        let mounts = prepared.map_err(failed("Snapshots.Prepare", key))?.into_inner().mounts;
        let diff = Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: i64::try_from(layer.size).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let request = ApplyRequest { diff: Some(diff), mounts, ..Default::default() };
        let applied = DiffClient::new(self.channel.clone()).apply(in_lease(request, lease)).await;
        let applied = applied.map_err(failed("Diff.Apply", &layer.digest))?.into_inner().applied;
        if applied.is_none_or(|applied| applied.digest != layer.diff_id) {
            let status = Status::data_loss(format!("it is not {}, as the image's configuration says", layer.diff_id));
            return Err(failed("Diff.Apply", &layer.digest)(status));
        }
        snapshotter.sync().await
    }

    /// Whether the snapshot is this one: somebody may have been faster.
    async fn commit(
        &self,
        snapshotter: &Snapshotter,
        chain: &str,
        key: &str,
        lease: &Lease,
    ) -> Result<bool, ImportError> {
        let request = CommitSnapshotRequest {
            snapshotter: snapshotter.name.clone(),
            name: chain.to_owned(),
            key: key.to_owned(),
            labels: BTreeMap::new(),
        };
        match SnapshotsClient::new(self.channel.clone()).commit(in_lease(request, lease)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::AlreadyExists => Ok(false),
            Err(status) => Err(failed("Snapshots.Commit", chain)(status)),
        }
    }
}

/// What OCI calls a layer on top of others.
fn chain_id(parent: &str, diff_id: &str) -> String {
    if parent.is_empty() {
        return diff_id.to_owned();
    }
    sha256(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{parent} {diff_id}").as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_and_snapshotters() {
        assert_eq!(chain_id("", "sha256:a"), "sha256:a");
        // printf 'sha256:a sha256:b' | sha256sum
        let two = chain_id("sha256:a", "sha256:b");
        assert_eq!(two, "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8");
        let overlay = Snapshotter::at("/d/root/io.containerd.snapshotter.v1.overlayfs").unwrap();
        assert_eq!(overlay.name, "overlayfs");
        assert!(Snapshotter::at("/var/lib/containers/storage/overlay-images").is_none());
    }
}
