//! Brings image archives into containerd, without a registry: blobs into the content store, names into the image store.
//!
//! Its layers are unpacked before it gets its name ([`unpack`] says why); CRI takes it up when containerd tells of it.
//! Garbage collection is held off by a lease while importing, by labels afterwards.

mod archive;
mod unpack;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::endpoint::{self, EndpointError};
use crate::generated::containerd::services::content::v1 as content;
use crate::generated::containerd::services::content::v1::content_client::ContentClient;
use crate::generated::containerd::services::images::v1::images_client::ImagesClient;
use crate::generated::containerd::services::images::v1::{
    CreateImageRequest, GetImageRequest, Image, UpdateImageRequest,
};
use crate::generated::containerd::services::leases::v1 as leases;
use crate::generated::containerd::services::leases::v1::leases_client::LeasesClient;
use crate::generated::containerd::services::namespaces::v1 as namespaces;
use crate::generated::containerd::services::namespaces::v1::namespaces_client::NamespacesClient;
use crate::generated::containerd::types::Descriptor;
use crate::namespace::{NAMESPACE, in_lease, in_namespace};
use crate::{CriError, Runtime, v1};
use archive::{Archive, Blob, Data, Named};

/// The image of sandboxes, which keelson carries inside itself.
pub const PAUSE_IMAGE: &str = "keelson.dev/pause:1";

/// Its archive.
static PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause.tar"));

/// Size of a message while a blob is written; containerd allows 16 MiB.
const CHUNK: u64 = 1 << 20;
/// How long CRI may take to see a new image.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// Why an image was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive is unusable.
    #[error("image archive {archive}: {why}")]
    Archive {
        /// The file.
        archive: String,
        /// What is wrong.
        why: String,
    },
    /// The socket's path is unusable.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// containerd refused.
    #[error("containerd: {call} {object}: {message}")]
    Containerd {
        /// What was asked.
        call: &'static str,
        /// Of what.
        object: String,
        /// The answer.
        message: String,
    },
    /// CRI refused.
    #[error(transparent)]
    Cri(#[from] CriError),
    /// What was unpacked cannot be made durable.
    #[error("syncfs {dir}")]
    Sync {
        /// The snapshotter's directory.
        dir: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// containerd has the image but CRI does not.
    #[error("CRI did not take up image {image} within {} s", SEEN_WITHIN.as_secs())]
    NotSeen {
        /// The image.
        image: String,
    },
}

/// Imports every image of an archive; answers their names. Quick where they are there already.
pub async fn import(endpoint: &str, archive: &Path) -> Result<Vec<String>, ImportError> {
    let path = archive.to_owned();
    let opened = tokio::task::spawn_blocking(move || Archive::open(&path)).await;
    let opened = opened
        .map_err(|error| ImportError::Archive { archive: archive.display().to_string(), why: error.to_string() })??;
    Importer::new(endpoint)?.import(opened).await
}

/// Imports the pause image that keelson carries.
pub async fn import_pause(endpoint: &str) -> Result<(), ImportError> {
    let archive = Archive::embedded(PAUSE_IMAGE, PAUSE)?;
    Importer::new(endpoint)?.import(archive).await.map(drop)
}

struct Importer {
    channel: Channel,
    runtime: Runtime,
}

impl Importer {
    fn new(endpoint: &str) -> Result<Importer, EndpointError> {
        Ok(Importer { channel: endpoint::channel(endpoint)?, runtime: Runtime::connect(endpoint)? })
    }

    async fn import(&self, archive: Archive) -> Result<Vec<String>, ImportError> {
        let names: Vec<String> = archive.images.iter().map(|image| image.name.clone()).collect();
        let mut wanted = Vec::new();
        for image in &archive.images {
            if !self.has(image).await? {
                wanted.push(image.clone());
            }
        }
        if wanted.is_empty() {
            return Ok(names);
        }
        self.namespace().await?;
        let lease = self.lease().await?;
        let stored = self.store(archive, &wanted, &lease).await;
        let request = in_namespace(leases::DeleteRequest { id: lease.1.clone(), sync: false });
        let released = LeasesClient::new(self.channel.clone()).delete(request).await;
        stored?;
        released.map_err(failed("Leases.Delete", &lease.1))?;
        for image in &wanted {
            self.seen(&image.name).await?;
        }
        Ok(names)
    }

    /// The name stands for just this content, and CRI knows it.
    async fn has(&self, image: &Named) -> Result<bool, ImportError> {
        let request = in_namespace(GetImageRequest { name: image.name.clone() });
        match ImagesClient::new(self.channel.clone()).get(request).await {
            Ok(answer) => {
                let target = answer.into_inner().image.and_then(|image| image.target);
                Ok(target.is_some_and(|target| target.digest == image.digest) && self.cri_has(&image.name).await)
            }
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(failed("Images.Get", &image.name)(status)),
        }
    }

    async fn cri_has(&self, name: &str) -> bool {
        let spec = v1::ImageSpec { image: name.to_owned(), ..Default::default() };
        matches!(self.runtime.image_status(&spec).await, Ok(Some(_)))
    }

    async fn namespace(&self) -> Result<(), ImportError> {
        let namespace = namespaces::Namespace { name: NAMESPACE.into(), labels: BTreeMap::new() };
        // containerd wants to know in which namespace to tell of the new one.
        let request = in_namespace(namespaces::CreateNamespaceRequest { namespace: Some(namespace) });
        match NamespacesClient::new(self.channel.clone()).create(request).await {
            Err(status) if status.code() != Code::AlreadyExists => Err(failed("Namespaces.Create", NAMESPACE)(status)),
            _ => Ok(()),
        }
    }

    /// What is written under a lease is not collected before a name holds it. It expires if we die.
    async fn lease(&self) -> Result<(MetadataValue<Ascii>, String), ImportError> {
        let now = jiff::Timestamp::now();
        let id = format!("keelson-import-{}-{}", std::process::id(), now.as_nanosecond());
        let expire = now + jiff::SignedDuration::from_hours(1);
        let labels = BTreeMap::from([("containerd.io/gc.expire".to_owned(), expire.to_string())]);
        let request = in_namespace(leases::CreateRequest { id: id.clone(), labels });
        LeasesClient::new(self.channel.clone()).create(request).await.map_err(failed("Leases.Create", &id))?;
        let value = MetadataValue::try_from(id.as_str()).map_err(|error| ImportError::Containerd {
            call: "Leases.Create",
            object: id.clone(),
            message: error.to_string(),
        })?;
        Ok((value, id))
    }

    async fn store(
        &self,
        archive: Archive,
        wanted: &[Named],
        lease: &(MetadataValue<Ascii>, String),
    ) -> Result<(), ImportError> {
        let source = Arc::new(archive.source);
        for blob in archive.blobs {
            self.blob(&source, blob, &lease.0).await?;
        }
        self.unpack(&archive.root_fs, &lease.0).await?;
        for image in wanted {
            self.name(image).await?;
        }
        Ok(())
    }

    async fn blob(
        &self,
        source: &Arc<archive::Source>,
        blob: Blob,
        lease: &MetadataValue<Ascii>,
    ) -> Result<(), ImportError> {
        let mut client = ContentClient::new(self.channel.clone());
        let digest = blob.digest.clone();
        let info = client.info(in_namespace(content::InfoRequest { digest: digest.clone() })).await;
        if let Ok(answer) = info {
            let had = answer.into_inner().info.map(|info| info.labels).unwrap_or_default();
            return self.label(&digest, blob.labels, &had).await;
        }
        let reference = format!("keelson-import-{digest}");
        // Left by an import that was interrupted; mostly there is none.
        let _ = client.abort(in_namespace(content::AbortRequest { r#ref: reference.clone() })).await;
        let (sender, receiver) = mpsc::channel(4);
        let source = source.clone();
        let reading = tokio::task::spawn_blocking(move || send_blob(&source, &blob, &reference, &sender));
        let messages =
            stream::unfold(
                receiver,
                |mut receiver| async move { receiver.recv().await.map(|message| (message, receiver)) },
            );
        let written = async {
            let mut answers = client.write(in_lease(messages, lease)).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<(), Status>(())
        };
        let written = written.await;
        let read = reading.await;
        match written {
            Err(status) if status.code() != Code::AlreadyExists => Err(failed("Content.Write", &digest)(status)),
            _ => match read {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(ImportError::Archive { archive: digest, why: error.to_string() }),
                Err(error) => Err(ImportError::Archive { archive: digest, why: error.to_string() }),
            },
        }
    }

    /// Content that is there may be somebody else's and lack the labels that hold its children.
    async fn label(
        &self,
        digest: &str,
        labels: BTreeMap<String, String>,
        had: &BTreeMap<String, String>,
    ) -> Result<(), ImportError> {
        if labels.iter().all(|(key, value)| had.get(key) == Some(value)) {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = content::Info { digest: digest.to_owned(), labels, ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = in_namespace(content::UpdateRequest { info: Some(info), update_mask });
        let updated = ContentClient::new(self.channel.clone()).update(request).await;
        updated.map(drop).map_err(failed("Content.Update", digest))
    }

    async fn name(&self, image: &Named) -> Result<(), ImportError> {
        let mut client = ImagesClient::new(self.channel.clone());
        let target = Descriptor {
            media_type: image.media_type.clone(),
            digest: image.digest.clone(),
            size: i64::try_from(image.size).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let labels = BTreeMap::from([("io.cri-containerd.image".to_owned(), "managed".to_owned())]);
        let wire = Image { name: image.name.clone(), labels, target: Some(target), ..Default::default() };
        let request = CreateImageRequest { image: Some(wire.clone()), source_date_epoch: None };
        match client.create(in_namespace(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                let paths = vec!["target".into(), "labels".into()];
                let update_mask = Some(prost_types::FieldMask { paths });
                let request = UpdateImageRequest { image: Some(wire), update_mask, source_date_epoch: None };
                let updated = client.update(in_namespace(request)).await;
                updated.map(drop).map_err(failed("Images.Update", &image.name))
            }
            Err(status) => Err(failed("Images.Create", &image.name)(status)),
        }
    }

    /// CRI reads containerd's image events in its own time and tells nobody when it has.
    async fn seen(&self, name: &str) -> Result<(), ImportError> {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let seen = async {
            loop {
                ticks.tick().await;
                if self.cri_has(name).await {
                    return;
                }
            }
        };
        tokio::time::timeout(SEEN_WITHIN, seen).await.map_err(|_| ImportError::NotSeen { image: name.to_owned() })
    }
}

/// Feeds a blob in chunks, the last of which commits it.
fn send_blob(
    source: &archive::Source,
    blob: &Blob,
    reference: &str,
    sender: &mpsc::Sender<content::WriteContentRequest>,
) -> std::io::Result<()> {
    let total = i64::try_from(blob.size).map_err(std::io::Error::other)?;
    let mut offset = 0;
    loop {
        let part = CHUNK.min(blob.size - offset);
        let length = usize::try_from(part).map_err(std::io::Error::other)?;
        let data = match &blob.data {
            Data::Made(bytes) => {
                let start = usize::try_from(offset).map_err(std::io::Error::other)?;
                bytes[start..start + length].to_vec()
            }
            Data::Piece { offset: base } => {
                let mut data = vec![0; length];
                source.read_at(&mut data, base + offset)?;
                data
            }
        };
        let last = offset + part == blob.size;
        let action = if last { content::WriteAction::Commit } else { content::WriteAction::Write };
        let message = content::WriteContentRequest {
            action: action as i32,
            r#ref: reference.to_owned(),
            total,
            expected: blob.digest.clone(),
            offset: i64::try_from(offset).map_err(std::io::Error::other)?,
            data,
            labels: if last { blob.labels.clone() } else { BTreeMap::new() },
        };
        // The other side left: it says why itself.
        if sender.blocking_send(message).is_err() || last {
            return Ok(());
        }
        offset += part;
    }
}

fn failed(call: &'static str, object: &str) -> impl FnOnce(Status) -> ImportError {
    let object = object.to_owned();
    move |status| ImportError::Containerd { call, object, message: status.message().to_owned() }
}
