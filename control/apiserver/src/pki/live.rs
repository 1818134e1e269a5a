//! Certificates in use: what TLS shows changes while the server runs, before its time is out.
//!
//! A certificate is looked at once a handshake. Open connections go on with what they began with: TLS asks for no certificate
//! twice.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use supervise::Backoff;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Certified, Pki, PkiError, damaged};

/// Between attempts to renew: there is time, a quarter of a certificate's life.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(600));

/// A certificate that is always in its time. Clones share it.
#[derive(Debug, Clone)]
pub struct Live(watch::Receiver<Arc<CertifiedKey>>);

impl Live {
    /// What is shown now.
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.0.borrow().clone()
    }
}

impl ResolvesServerCert for Live {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Live {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Pki {
    /// Gets a certificate by `get`, and again whenever the one in use has a quarter of its life left or the clock was set,
    /// until shutdown. `get` is asked at any time and answers with the same one as long as that will do.
    pub fn keep<F>(
        self: &Arc<Self>,
        name: &'static str,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
        get: F,
    ) -> Result<Live, PkiError>
    where
        F: Fn(&Pki) -> Result<Certified, PkiError> + Send + Sync + 'static,
    {
        let (key, due) = self.usable(name, &get(self)?)?;
        let (shown, live) = watch::channel(key);
        let keeper = Keeper { pki: self.clone(), name, get, shown, due, retry: RETRY, shutdown: shutdown.clone() };
        supervise::spawn("certificates", tasks, shutdown, keeper, |keeper| Box::pin(keeper.run()));
        Ok(Live(live))
    }

    /// A certificate as TLS takes it, and when it is to be renewed.
    fn usable(&self, name: &str, pair: &Certified) -> Result<(Arc<CertifiedKey>, SystemTime), PkiError> {
        let path = self.path(name);
        let cert = CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).map_err(|error| damaged(&path, error))?;
        let due = self.due(&path, pair)?;
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(|error| damaged(&path, error))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(vec![cert], key, &provider).map_err(|error| damaged(&path, error))?;
        Ok((Arc::new(key), due))
    }
}

struct Keeper<F> {
    pki: Arc<Pki>,
    name: &'static str,
    get: F,
    shown: watch::Sender<Arc<CertifiedKey>>,
    due: SystemTime,
    retry: Backoff,
    shutdown: CancellationToken,
}

impl<F: Fn(&Pki) -> Result<Certified, PkiError>> Keeper<F> {
    async fn run(&mut self) {
        let shutdown = self.shutdown.clone();
        while let Some(waited) = shutdown.run_until_cancelled(supervise::clock::until(self.due)).await {
            let problem: Box<dyn std::fmt::Display + Send> = match waited.map(|()| self.renew()) {
                Ok(Ok(())) if self.due > SystemTime::now() => {
                    self.retry.reset();
                    continue;
                }
                Ok(Ok(())) => Box::new("the new one is due at once"),
                Ok(Err(error)) => Box::new(error),
                Err(error) => Box::new(error),
            };
            tracing::error!(name = self.name, %problem, "a certificate could not be renewed; trying again");
            drop(problem);
            if !self.retry.wait(&shutdown).await {
                return;
            }
        }
    }

    /// Shows what there is to show now.
    fn renew(&mut self) -> Result<(), PkiError> {
        let (key, due) = self.pki.usable(self.name, &(self.get)(&self.pki)?)?;
        self.due = due;
        let renewed = self.shown.send_if_modified(|shown| {
            let other = shown.cert != key.cert;
            *shown = key;
            other
        });
        if renewed {
            tracing::info!(name = self.name, "the certificate is renewed");
        }
        Ok(())
    }
}
