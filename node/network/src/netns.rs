//! Work inside another network namespace, on a thread that lives no longer than the work.

use std::fs::File;
use std::future::Future;
use std::io;

use nix::sched::{CloneFlags, setns};
use rtnetlink::Handle;
use tokio::sync::oneshot;

/// Runs `work` in the namespace, with a netlink connection there. Everything the work does through `/proc/sys/net` or
/// new sockets is inside, too.
pub(crate) async fn inside<T, E, F, W>(namespace: File, work: W) -> Result<T, E>
where
    T: Send + 'static,
    E: From<io::Error> + Send + 'static,
    F: Future<Output = Result<T, E>>,
    W: FnOnce(Handle) -> F + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let run = move || -> Result<T, E> {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            let connection = tokio::spawn(connection);
            let result = work(handle).await;
            connection.abort();
            result
        })
    };
    std::thread::Builder::new().name("netns".into()).spawn(move || sender.send(run()))?;
    // The sender is dropped unsent only when the work panicked.
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the work in the network namespace panicked").into()))
}

/// Writes a setting below `/proc/sys/net`, in the calling thread's namespace. One that this kernel does not have is
/// left alone.
pub(crate) fn sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{name}");
    match std::fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        Ok(()) => Ok(()),
    }
}
