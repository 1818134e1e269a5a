//! The node's side: takes requests from the socket and makes links.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use informer::source::error_chain;
use rtnetlink::Handle;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::protocol::{Attachment, CniError, Command, Request, Response, code};
use super::turns::Turns;
use crate::cidr::Cidr;
use crate::ipam::{Ipam, IpamError};
use crate::links::{self, LinkError, PodLink};
use crate::nat::HostPorts;
use crate::{NetworkError, files};

const MAX_REQUEST: u64 = 1 << 20;
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// Requests carried out at once; more wait.
const PARALLEL: usize = 16;
/// How long a pod waits for its host ports before its runtime is told to try again.
const PORTS_PATIENCE: Duration = Duration::from_secs(10);

/// What requests need; cheap to share.
pub(crate) struct Server {
    handle: Handle,
    ipam: Mutex<Ipam>,
    node_ip: IpAddr,
    mtu: Option<u32>,
    turns: Turns,
    slots: Semaphore,
    /// Host ports of the pods that are there.
    ports: watch::Sender<HostPorts>,
    /// Those that lead to their pods by now.
    led: watch::Sender<HostPorts>,
}

impl Server {
    /// Takes over the addresses and links that an earlier process left.
    pub(crate) async fn new(
        handle: Handle,
        mut ipam: Ipam,
        node_ip: IpAddr,
        mtu: Option<u32>,
    ) -> Result<Arc<Self>, NetworkError> {
        let mut links = links::ours(&handle).await.map_err(|error| NetworkError::link(&error))?;
        for link in ipam.links() {
            // The list may lack it; a pod's address must not be given to another by mistake.
            if !links.contains(&link)
                && links::is_there(&handle, &link).await.map_err(|error| NetworkError::link(&error))?
            {
                links.insert(link);
            }
        }
        for stray in ipam.reconcile(&links)? {
            tracing::info!(link = stray, "deleting a pod's link that no container has");
            links::delete(&handle, &stray).await.map_err(|error| NetworkError::link(&error))?;
        }
        let (ports, _) = watch::channel(ipam.host_ports());
        let (led, _) = watch::channel(HostPorts::new());
        let slots = Semaphore::new(PARALLEL);
        Ok(Arc::new(Self { handle, ipam: Mutex::new(ipam), node_ip, mtu, turns: Turns::default(), slots, ports, led }))
    }

    /// The host ports that pods have, now and whenever they change.
    pub(crate) fn host_ports(&self) -> watch::Receiver<HostPorts> {
        self.ports.subscribe()
    }

    /// Takes notice that these host ports lead to their pods.
    pub(crate) fn host_ports_lead(&self, ports: HostPorts) {
        self.led.send_replace(ports);
    }

    /// Sets the range of the node's pods.
    pub(crate) fn set_range(&self, range: Cidr) {
        self.ipam().set_range(range);
    }

    /// Puts back the routes of all pods, whoever took them away.
    pub(crate) async fn restore_routes(&self) -> Result<(), NetworkError> {
        let pods = self.ipam().addresses();
        for (link, address) in pods {
            match links::route(&self.handle, &link, address, self.node_ip).await {
                // It is just coming or going.
                Err(LinkError::Missing(_)) | Ok(()) => {}
                Err(error) => return Err(NetworkError::link(&error)),
            }
        }
        Ok(())
    }

    /// Listens at the socket, replacing one that an earlier process left.
    pub(crate) fn serve(
        self: &Arc<Self>,
        path: &Path,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<(), NetworkError> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(files::failed("remove", path)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(files::failed("listen at", path))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, private).map_err(files::failed("restrict", path))?;
        let stop = shutdown.clone();
        let accepting = (self.clone(), listener, tasks.clone(), shutdown);
        supervise::spawn("cni", tasks, &stop, accepting, |(server, listener, tasks, shutdown)| {
            Box::pin(server.accept(listener, tasks, shutdown))
        });
        Ok(())
    }

    async fn accept(self: &Arc<Self>, listener: &UnixListener, tasks: &TaskTracker, shutdown: &CancellationToken) {
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => drop(tasks.spawn(self.clone().connection(stream))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a CNI request");
                    tokio::time::sleep(supervise::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        let mut reader = BufReader::new(read.take(MAX_REQUEST));
        let response = match tokio::time::timeout(REQUEST_PATIENCE, reader.read_line(&mut line)).await {
            Ok(Ok(_)) => match serde_json::from_str(&line) {
                Ok(request) => self.handle(request).await,
                Err(error) => Response::Failed(CniError::new(code::DECODE, "the request is not valid", error)),
            },
            Ok(Err(_)) | Err(_) => return,
        };
        let mut answer = serde_json::to_vec(&response).unwrap_or_default();
        answer.push(b'\n');
        // A plugin that has gone away cannot be told; the runtime will clean up with DEL.
        let _ = write.write_all(&answer).await;
    }

    pub(crate) async fn handle(&self, request: Request) -> Response {
        let _turn = self.turns.take(&request.container, &request.interface).await;
        let Ok(_slot) = self.slots.acquire().await else { return Response::Done };
        let result = match request.command {
            Command::Add => self.add(&request).await,
            Command::Del => self.del(&request).await,
            Command::Check => self.check(&request).await,
        };
        match result {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(command = ?request.command, pod = request.pod, container = request.container, %error, "CNI request failed");
                Response::Failed(error)
            }
        }
    }

    async fn add(&self, request: &Request) -> Result<Response, CniError> {
        let namespace = open(&request.netns)?;
        let link = PodLink::of(&request.container, &request.interface);
        let (name, pod, ports) = (link.host_interface.clone(), request.pod.clone(), request.ports.clone());
        let allocated = self.ipam().allocate(&request.container, &request.interface, name, pod, ports);
        let allocation = allocated.map_err(|error| no_address(&error))?;
        let address = allocation.address;
        let made = links::attach(&self.handle, namespace, &link, address, self.node_ip, self.mtu).await;
        let made = match made {
            Ok(()) => self.lead(allocation.host_ports()).await,
            Err(error) => Err(CniError::new(code::NETWORK, "cannot make the pod's link", error)),
        };
        if let Err(error) = made {
            self.undo(&link, request).await;
            return Err(error);
        }
        Ok(Response::Attached(Attachment {
            host_interface: link.host_interface,
            host_mac: links::mac_text(&link.host_mac),
            mac: links::mac_text(&link.mac),
            address,
            gateway: links::GATEWAY,
            mtu: self.mtu,
        }))
    }

    /// Waits until the host ports of a new pod lead to it.
    async fn lead(&self, own: HostPorts) -> Result<(), CniError> {
        if own.is_empty() {
            return Ok(());
        }
        self.publish_ports();
        let mut led = self.led.subscribe();
        let all = |led: &HostPorts| own.iter().all(|(port, to)| led.get(port) == Some(to));
        match tokio::time::timeout(PORTS_PATIENCE, led.wait_for(all)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let why = format!("after {PORTS_PATIENCE:?} they do not lead to the pod; keelson's log says why");
                Err(CniError::new(code::TRY_AGAIN, "the pod's host ports are not ready", why))
            }
        }
    }

    fn publish_ports(&self) {
        self.ports.send_if_modified(|ports| {
            // Read in here, so that of two who publish at once the later one does not tell what the earlier one read.
            let now = self.ipam().host_ports();
            let changed = *ports != now;
            *ports = now;
            changed
        });
    }

    async fn undo(&self, link: &PodLink, request: &Request) {
        if let Err(error) = links::delete(&self.handle, &link.host_interface).await {
            tracing::warn!(%error, link = link.host_interface, "a half-made link is left");
            return;
        }
        if let Err(error) = self.ipam().release(&request.container, &request.interface) {
            tracing::warn!(error = &error as &dyn std::error::Error, "an address is left allocated");
        }
        self.publish_ports();
    }

    async fn del(&self, request: &Request) -> Result<Response, CniError> {
        let allocated = self.ipam().get(&request.container, &request.interface).cloned();
        // The name in the file wins: it was made by whatever version added it.
        let name = allocated.map_or_else(
            || PodLink::of(&request.container, &request.interface).host_interface,
            |allocation| allocation.host_interface,
        );
        let deleted = links::delete(&self.handle, &name).await;
        deleted.map_err(|error| CniError::new(code::NETWORK, "cannot delete the pod's link", error))?;
        let released = self.ipam().release(&request.container, &request.interface);
        self.publish_ports();
        released.map_err(|error| CniError::new(code::IO, "cannot release the pod's address", error_chain(&error)))?;
        Ok(Response::Done)
    }

    async fn check(&self, request: &Request) -> Result<Response, CniError> {
        let wrong = |error: &dyn std::fmt::Display| {
            CniError::new(code::NETWORK, "the pod's link is not as it should be", error)
        };
        let allocated = self.ipam().get(&request.container, &request.interface).cloned();
        let allocated = allocated.ok_or_else(|| wrong(&"no address is allocated to the container"))?;
        let link = PodLink::of(&request.container, &request.interface);
        let namespace = open(&request.netns)?;
        let checked: Result<(), LinkError> = links::check(&self.handle, namespace, &link, allocated.address).await;
        checked.map_err(|error| wrong(&error))?;
        Ok(Response::Done)
    }

    fn ipam(&self) -> MutexGuard<'_, Ipam> {
        self.ipam.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(netns: &str) -> Result<File, CniError> {
    File::open(netns).map_err(|error| {
        CniError::new(code::IO, "cannot open the pod's network namespace", format!("{netns}: {error}"))
    })
}

fn no_address(error: &IpamError) -> CniError {
    let number = match error {
        IpamError::NoRange => code::TRY_AGAIN,
        IpamError::Exhausted(_) => code::NETWORK,
        IpamError::File(_) => code::IO,
    };
    CniError::new(number, "cannot allocate an address", error_chain(error))
}
