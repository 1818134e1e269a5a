//! What happens in the runtime, as containerd tells it: exits, starts, deletions, OOM kills, images.
//!
//! `CRI` before 1.7 has no event call, so this reads containerd's own stream. It is at most once: what happened while
//! nobody listened is lost, which is why every (re)connection is announced as [`RuntimeEvent::Resync`].
//!
//! An `Exit` may overtake CRI's own bookkeeping; [`crate::Runtime::exited_container_status`] waits for that.

use std::time::Duration;

use prost::Message;
use supervise::Backoff;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::endpoint::{self, EndpointError};
use crate::generated::containerd::events as wire;
use crate::generated::containerd::services::events::v1::events_client::EventsClient;
use crate::generated::containerd::services::events::v1::{PublishRequest, SubscribeRequest};
use crate::generated::containerd::services::images::v1 as images;
use crate::generated::containerd::types::Envelope;
use crate::namespace::{NAMESPACE, in_namespace};

/// Events kept for a receiver that is busy; beyond it containerd queues them.
const QUEUE: usize = 1024;
/// Topic of our own marker, see [`open`].
const MARKER: &str = "/keelson/subscribed";
/// How often the marker is sent until the stream opens.
const MARKER_EVERY: Duration = Duration::from_millis(50);

/// Something that happened to a container, a sandbox or an image. For containerd a sandbox is a container, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// The subscription was (re)made: events before it may have been missed, list everything.
    Resync,
    /// A container was created.
    Created {
        /// Its id.
        container_id: String,
    },
    /// A container's first process started.
    Started {
        /// Its id.
        container_id: String,
        /// The process on the host.
        pid: u32,
    },
    /// A container's first process ended: the container is over.
    Exit {
        /// Its id.
        container_id: String,
        /// Exit code, or 128 + signal.
        exit_code: u32,
        /// Nanoseconds since 1970.
        exited_at: i64,
    },
    /// A process that was brought into a container by exec ended; the container goes on.
    ExecExit {
        /// The container.
        container_id: String,
        /// The exec's id.
        exec_id: String,
        /// Exit code, or 128 + signal.
        exit_code: u32,
    },
    /// The kernel killed a process of this container for want of memory.
    Oom {
        /// Its id.
        container_id: String,
    },
    /// A container was removed.
    Deleted {
        /// Its id.
        container_id: String,
    },
    /// An image appeared, changed or went.
    Image {
        /// Its name.
        name: String,
        /// Gone rather than there.
        deleted: bool,
    },
}

/// Listens to containerd at `endpoint` until `shutdown`. The first event is `Resync`, as is the first after every
/// reconnection.
pub fn subscribe(
    endpoint: &str,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> Result<mpsc::Receiver<RuntimeEvent>, EndpointError> {
    let channel = endpoint::channel(endpoint)?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    supervise::spawn("runtime events", tasks, &shutdown.clone(), (channel, sender, shutdown), |state| {
        let (channel, sender, shutdown) = state;
        Box::pin(follow(channel, sender, shutdown))
    });
    Ok(receiver)
}

async fn follow(channel: &Channel, sender: &mpsc::Sender<RuntimeEvent>, shutdown: &CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    while !sender.is_closed() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            end = listen(channel, sender, &mut backoff) => match end {
                Ok(()) => tracing::debug!("containerd closed its event stream"),
                Err(status) => tracing::debug!(%status, "containerd's event stream broke"),
            },
        }
        if !backoff.wait(shutdown).await {
            return;
        }
    }
}

/// One subscription from its opening to its end.
async fn listen(
    channel: &Channel,
    sender: &mpsc::Sender<RuntimeEvent>,
    backoff: &mut Backoff,
) -> Result<(), tonic::Status> {
    let mut stream = open(channel).await?;
    backoff.reset();
    if sender.send(RuntimeEvent::Resync).await.is_err() {
        return Ok(());
    }
    while let Some(envelope) = stream.message().await? {
        if let Some(event) = decode(&envelope)
            && sender.send(event).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Subscribes and waits until the subscription stands.
///
/// containerd answers (with headers) only together with the first event, so one is published until that happens:
/// only then is it certain that nothing after `Resync` can be missed.
async fn open(channel: &Channel) -> Result<Streaming<Envelope>, tonic::Status> {
    let filters = vec![
        format!("namespace=={NAMESPACE},topic~=\"^/tasks/(start|exit|oom)$\""),
        format!("namespace=={NAMESPACE},topic~=\"^/containers/(create|delete)$\""),
        format!("namespace=={NAMESPACE},topic~=\"^/images/\""),
        format!("namespace=={NAMESPACE},topic==\"{MARKER}\""),
    ];
    let mut subscriber = EventsClient::new(channel.clone());
    let mut publisher = subscriber.clone();
    let subscribed = subscriber.subscribe(SubscribeRequest { filters });
    tokio::pin!(subscribed);
    let mut marker = tokio::time::interval(MARKER_EVERY);
    loop {
        tokio::select! {
            answer = &mut subscribed => return answer.map(tonic::Response::into_inner),
            _ = marker.tick() => {
                let event = Some(prost_types::Any { type_url: "keelson.Subscribed".into(), value: Vec::new() });
                publisher.publish(in_namespace(PublishRequest { topic: MARKER.into(), event })).await?;
            }
        }
    }
}

/// The event in an envelope, if it is one of ours. An undecodable one is told and skipped.
fn decode(envelope: &Envelope) -> Option<RuntimeEvent> {
    let event = envelope.event.as_ref()?;
    match decode_topic(&envelope.topic, &event.value) {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(topic = envelope.topic, %error, "containerd sent an event that cannot be decoded");
            None
        }
    }
}

fn decode_topic(topic: &str, bytes: &[u8]) -> Result<Option<RuntimeEvent>, prost::DecodeError> {
    Ok(Some(match topic {
        "/tasks/start" => {
            let start = wire::TaskStart::decode(bytes)?;
            RuntimeEvent::Started { container_id: start.container_id, pid: start.pid }
        }
        "/tasks/exit" => {
            let exit = wire::TaskExit::decode(bytes)?;
            if exit.id != exit.container_id && !exit.id.is_empty() {
                let wire::TaskExit { container_id, id: exec_id, exit_status: exit_code, .. } = exit;
                return Ok(Some(RuntimeEvent::ExecExit { container_id, exec_id, exit_code }));
            }
            // A task that never ran has Go's zero time, centuries before what 64 bits of nanoseconds reach.
            let since_epoch = |t: prost_types::Timestamp| {
                t.seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(t.nanos)).filter(|nanos| *nanos > 0)
            };
            let exited_at = exit.exited_at.and_then(since_epoch).unwrap_or(0);
            RuntimeEvent::Exit { container_id: exit.container_id, exit_code: exit.exit_status, exited_at }
        }
        "/tasks/oom" => RuntimeEvent::Oom { container_id: wire::TaskOom::decode(bytes)?.container_id },
        "/containers/create" => RuntimeEvent::Created { container_id: wire::ContainerCreate::decode(bytes)?.id },
        "/containers/delete" => RuntimeEvent::Deleted { container_id: wire::ContainerDelete::decode(bytes)?.id },
        "/images/create" => RuntimeEvent::Image { name: images::ImageCreate::decode(bytes)?.name, deleted: false },
        "/images/update" => RuntimeEvent::Image { name: images::ImageUpdate::decode(bytes)?.name, deleted: false },
        "/images/delete" => RuntimeEvent::Image { name: images::ImageDelete::decode(bytes)?.name, deleted: true },
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, message: &impl Message) -> Envelope {
        let event = Some(prost_types::Any { type_url: "t".into(), value: message.encode_to_vec() });
        Envelope { topic: topic.into(), namespace: NAMESPACE.into(), event, timestamp: None }
    }

    #[test]
    fn events_are_decoded() {
        let exit = |id: &str| wire::TaskExit {
            container_id: "c1".into(),
            id: id.into(),
            pid: 7,
            exit_status: 137,
            exited_at: Some(prost_types::Timestamp { seconds: 2, nanos: 5 }),
        };
        let id = || "c1".to_owned();
        let zero_time = prost_types::Timestamp { seconds: -62_135_596_800, nanos: 0 };
        let unborn = wire::TaskExit { exited_at: Some(zero_time), ..exit("c1") };
        let at_zero = RuntimeEvent::Exit { container_id: id(), exit_code: 137, exited_at: 0 };
        let init = RuntimeEvent::Exit { container_id: id(), exit_code: 137, exited_at: 2_000_000_005 };
        let exec = RuntimeEvent::ExecExit { container_id: id(), exec_id: "e9".into(), exit_code: 137 };
        let start = wire::TaskStart { container_id: id(), pid: 7 };
        let delete = wire::ContainerDelete { id: id() };
        let image = images::ImageDelete { name: "i".into() };
        for (envelope, want) in [
            (envelope("/tasks/exit", &exit("c1")), Some(init.clone())),
            (envelope("/tasks/exit", &exit("")), Some(init)),
            (envelope("/tasks/exit", &unborn), Some(at_zero)),
            (envelope("/tasks/exit", &exit("e9")), Some(exec)),
            (envelope("/tasks/start", &start), Some(RuntimeEvent::Started { container_id: id(), pid: 7 })),
            (
                envelope("/tasks/oom", &wire::TaskOom { container_id: id() }),
                Some(RuntimeEvent::Oom { container_id: id() }),
            ),
            (envelope("/containers/delete", &delete), Some(RuntimeEvent::Deleted { container_id: id() })),
            (envelope("/images/delete", &image), Some(RuntimeEvent::Image { name: "i".into(), deleted: true })),
            (envelope(MARKER, &start), None),
            (Envelope { topic: "/tasks/exit".into(), ..Default::default() }, None),
        ] {
            assert_eq!(decode(&envelope), want, "{}", envelope.topic);
        }
    }

    #[test]
    fn garbage_is_skipped() {
        let event = Some(prost_types::Any { type_url: "t".into(), value: vec![0xff; 9] });
        assert_eq!(decode(&Envelope { topic: "/tasks/exit".into(), event, ..Default::default() }), None);
    }
}
