//! exec, attach, port-forward: the runtime's URL, then whatever the client speaks carried to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::streams::{Connected, StreamError, Streams, connect, offered_protocols};
use cri::v1::{AttachRequest, ExecRequest};
use cri::websocket::{self, Protocol};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::routes::{Body, Query, Refusal, State, bad, empty, find_pod, internal, text};

/// What the runtime is asked to speak for a WebSocket client: it is older than v5.
const REMOTE_COMMAND: &[&str] = &["v4.channel.k8s.io"];
const PORT_FORWARD: &[&str] = &["portforward.k8s.io"];
/// A channel's number is a byte, and a port has two.
const MAX_PORTS: usize = 128;

/// `/exec/NAMESPACE/POD[/UID]/CONTAINER`
pub(super) async fn exec(
    state: &Arc<State>,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    uid: &str,
    container: &str,
) -> Result<Response<Body>, Refusal> {
    let query = Query::of(&request);
    let streams = wanted(&query)?;
    let container_id = running(state, namespace, pod, uid, container)?;
    let Streams { stdin, stdout, stderr, tty } = streams;
    let asked = ExecRequest { container_id, cmd: query.all("command"), tty, stdin, stdout, stderr };
    let url = state.runtime.exec(asked).await.map_err(internal)?;
    carry(state, request, &url, Kind::RemoteCommand(streams)).await
}

/// `/attach/NAMESPACE/POD[/UID]/CONTAINER`
pub(super) async fn attach(
    state: &Arc<State>,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    uid: &str,
    container: &str,
) -> Result<Response<Body>, Refusal> {
    let streams = wanted(&Query::of(&request))?;
    let container_id = running(state, namespace, pod, uid, container)?;
    let Streams { stdin, stdout, stderr, tty } = streams;
    let url =
        state.runtime.attach(AttachRequest { container_id, stdin, tty, stdout, stderr }).await.map_err(internal)?;
    carry(state, request, &url, Kind::RemoteCommand(streams)).await
}

/// `/portForward/NAMESPACE/POD[/UID]`
pub(super) async fn port_forward(
    state: &Arc<State>,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    uid: &str,
) -> Result<Response<Body>, Refusal> {
    let found = find_pod(state, namespace, pod, uid)?;
    let sandbox = found.sandbox_id.ok_or_else(|| internal(format!("pod {pod:?} has no running sandbox")))?;
    let url = state.runtime.port_forward(&sandbox, Vec::new()).await.map_err(internal)?;
    let ports = Query::of(&request).all("port");
    carry(state, request, &url, Kind::PortForward(ports)).await
}

/// The ports that a client of channels names.
fn ports(named: &[String]) -> Result<Vec<u16>, Refusal> {
    let port = |text: &str| {
        let number = text.parse().map_err(|_| bad(format!("unable to parse {text:?} as a port")))?;
        if number == 0 { Err(bad(format!("port {text:?} must be > 0"))) } else { Ok(number) }
    };
    let ports: Vec<u16> = named.iter().flat_map(|list| list.split(',')).map(port).collect::<Result<_, _>>()?;
    match ports.len() {
        0 => Err(bad("query parameter \"port\" is required".into())),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(bad(format!("at most {MAX_PORTS} ports can be forwarded over one connection"))),
    }
}

/// `/run/NAMESPACE/POD/CONTAINER?cmd=…`: runs a command and answers its output.
pub(super) async fn run(
    state: &Arc<State>,
    request: &Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<Response<Body>, Refusal> {
    let id = running(state, namespace, pod, "", container)?;
    let command = Query::of(request).get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let answer = state.runtime.exec_sync(&id, command, Duration::ZERO).await.map_err(internal)?;
    let mut output = String::from_utf8_lossy(&answer.stdout).into_owned();
    output.push_str(&String::from_utf8_lossy(&answer.stderr));
    if answer.exit_code != 0 {
        return Err(internal(format!("command exited with {}: {output}", answer.exit_code)));
    }
    Ok(text(StatusCode::OK, output))
}

fn running(state: &State, namespace: &str, pod: &str, uid: &str, container: &str) -> Result<String, Refusal> {
    let found = find_pod(state, namespace, pod, uid)?;
    let instance = found.container(container).and_then(|container| container.current.clone());
    match instance {
        Some(instance) if instance.running => Ok(instance.id),
        Some(_) => Err(internal(format!("container {container:?} of pod {pod:?} is not running"))),
        None => Err((StatusCode::NOT_FOUND, format!("container not found ({container:?})"))),
    }
}

fn wanted(query: &Query) -> Result<Streams, Refusal> {
    let streams = Streams {
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        stderr: query.flag(&["error", "stderr"]),
        tty: query.flag(&["tty"]),
    };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(bad("you must specify at least 1 of stdin, stdout, stderr".into()));
    }
    // A terminal has one output.
    Ok(Streams { stderr: streams.stderr && !streams.tty, ..streams })
}

enum Kind {
    RemoteCommand(Streams),
    /// With the ports that the request names.
    PortForward(Vec<String>),
}

/// What a client's WebSocket carries.
enum Carried {
    Command(Protocol, Streams),
    /// A SPDY connection.
    Spdy,
    Ports(Protocol, Vec<u16>),
}

/// A log for a client that asks for it over a WebSocket.
pub(super) fn log(
    tasks: &TaskTracker,
    shutdown: CancellationToken,
    mut request: Request<Incoming>,
    source: mpsc::Receiver<Bytes>,
) -> Result<Response<Body>, Refusal> {
    let upgrade = hyper::upgrade::on(&mut request);
    let accepted = websocket::accept(request.headers(), websocket::LOG);
    let (protocol, response) = accepted.map_err(|error| bad(error.to_string()))?;
    let send = async move {
        let client = TokioIo::new(upgrade.await.map_err(|error| error.to_string())?);
        cri::streams::bytes(client, protocol, source).await.map_err(|error| error.to_string())
    };
    until_shutdown(tasks, shutdown, send);
    Ok(response.map(|()| empty()))
}

fn until_shutdown(
    tasks: &TaskTracker,
    shutdown: CancellationToken,
    carried: impl Future<Output = Result<(), String>> + Send + 'static,
) {
    tasks.spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            carried = carried => if let Err(error) = carried {
                tracing::debug!(error, "a stream of the kubelet's API broke");
            },
        }
    });
}

/// Switches the client's connection over and carries it in a task of its own.
async fn carry(
    state: &Arc<State>,
    mut request: Request<Incoming>,
    url: &str,
    kind: Kind,
) -> Result<Response<Body>, Refusal> {
    let upgrade = hyper::upgrade::on(&mut request);
    let headers = request.headers();
    if websocket::is_websocket(headers) {
        let (ours, theirs) = match kind {
            Kind::RemoteCommand(_) => (websocket::REMOTE_COMMAND, REMOTE_COMMAND),
            Kind::PortForward(_) => (websocket::PORT_FORWARD, PORT_FORWARD),
        };
        let (protocol, response) = websocket::accept(headers, ours).map_err(|error| bad(error.to_string()))?;
        let carried = match kind {
            Kind::RemoteCommand(streams) => Carried::Command(protocol, streams),
            Kind::PortForward(_) if protocol == websocket::PORT_FORWARD_SPDY => Carried::Spdy,
            Kind::PortForward(named) => Carried::Ports(protocol, ports(&named)?),
        };
        let connected = connect(url, theirs).await.map_err(|error| refused(&error))?;
        spawn(state, upgrade, connected, Some(carried));
        return Ok(response.map(|()| empty()));
    }
    if websocket::is_spdy(headers) {
        let connected = connect(url, &offered_protocols(headers)).await.map_err(|error| refused(&error))?;
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = connected.response.headers().clone();
        spawn(state, upgrade, connected, None);
        return Ok(response);
    }
    Err(bad("unable to upgrade: use Upgrade: websocket or Upgrade: SPDY/3.1".into()))
}

fn spawn(state: &Arc<State>, upgrade: OnUpgrade, connected: Connected, websocket: Option<Carried>) {
    let carried = async move {
        let client = TokioIo::new(upgrade.await.map_err(|error| error.to_string())?);
        let carried = match websocket {
            Some(Carried::Command(protocol, streams)) => connected.remote_command(client, protocol, streams).await,
            Some(Carried::Spdy) => connected.unwrapped(client).await,
            Some(Carried::Ports(protocol, ports)) => connected.port_forward(client, protocol, &ports).await,
            None => {
                connected.tunnel(client).await;
                Ok(())
            }
        };
        carried.map_err(|error| error.to_string())
    };
    until_shutdown(&state.tasks, state.shutdown.clone(), carried);
}

/// The runtime's own refusal is the client's fault as often as not; say it as it is.
fn refused(error: &StreamError) -> Refusal {
    match error {
        StreamError::Refused { status, message } => (*status, message.clone()),
        other => internal(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_in_lists() {
        let many = "1,".repeat(128) + "1";
        for (named, expected) in [
            (&["80"][..], Ok(vec![80])),
            (&["80,443", "65535"], Ok(vec![80, 443, 65535])),
            (&[], Err("query parameter \"port\" is required")),
            (&[""], Err("unable to parse \"\" as a port")),
            (&["65536"], Err("unable to parse \"65536\" as a port")),
            (&["80,-1"], Err("unable to parse \"-1\" as a port")),
            (&["0"], Err("port \"0\" must be > 0")),
            (&[&many], Err("at most 128 ports can be forwarded over one connection")),
        ] {
            let named: Vec<String> = named.iter().map(|text| (*text).to_owned()).collect();
            let found = ports(&named).map_err(|(_, message)| message);
            assert_eq!(found, expected.map_err(str::to_owned), "{named:?}");
        }
    }
}
