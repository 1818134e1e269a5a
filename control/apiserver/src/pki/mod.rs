//! The cluster's certificates and keys: one CA, made at first start, and what it signs.
//!
//! Everything lies in DATA_DIR/pki, mode 0600, each file written beside its place, synced and renamed. A certificate and
//! its key are one file, so that no crash can leave a pair that does not fit. A file that cannot be read is an error that
//! names it; nothing is ever replaced silently but a certificate whose names changed, whose time is running out or has not come.
//!
//! Clocks are wrong where machines start without a battery for theirs. So the CA is valid from the beginning of time, nothing
//! ends before a clock that is right would say so, and whoever sets the clock makes [`live`] look at what is in use.

mod files;
mod kubeconfig;
mod live;

use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::auth::MASTERS;
pub use files::write_private;
use files::{read_optional, split_pem};
pub use kubeconfig::write_kubeconfig;
pub use live::Live;

/// Certificates are valid from this long ago, for clients whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(3600);
const CA_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// What [`Pki::open_or_create`] is usually told.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Of a certificate's life, the part that is left when it is issued anew: one in this many.
const RENEWAL_PART: u32 = 4;
/// 2026-01-01: a clock that shows less is wrong.
const NO_CLOCK_IS_RIGHT_BEFORE: Duration = Duration::from_secs(1_767_225_600);

/// The user name of the API server at the kubelets.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// What goes wrong with certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file is there but is not what it should be.
    #[error("{} is damaged: {problem}. Restore it from a backup, or remove it to have a new one made{}", path.display(), consequence(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate for {subject}: {source}")]
    Issue {
        /// Whom it was for.
        subject: String,
        /// Why it failed.
        source: rcgen::Error,
    },
}

fn consequence(path: &Path) -> &'static str {
    match path.file_name().and_then(|name| name.to_str()) {
        Some("ca.pem") => " (every kubeconfig and certificate of this cluster then becomes invalid)",
        Some("service-account.pem") => " (every service-account token then becomes invalid)",
        _ => "",
    }
}

/// A certificate with its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certified {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key, PKCS #8.
    pub key_pem: String,
}

impl std::fmt::Debug for Certified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certified").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// The cluster's CA and the directory it lives in.
pub struct Pki {
    dir: PathBuf,
    ca: Certified,
    issuer: Issuer<'static, KeyPair>,
    service_account_key: String,
    /// How long certificates are valid.
    life: Duration,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Pki {
    /// Opens the PKI in `dir`, making the CA and the service-account key if they are not there. Certificates that it issues are
    /// valid for `life`, at least some seconds.
    pub fn open_or_create(dir: &Path, life: Duration) -> Result<Self, PkiError> {
        files::create_dir(dir)?;
        let path = dir.join("ca.pem");
        let ca = match read_optional(&path)? {
            Some(text) => split_pem(&path, &text)?,
            None => {
                let ca = new_ca()?;
                // The bare certificate is what users hand on; it holds nothing secret but follows the same rules.
                write_private(&dir.join("ca.crt"), ca.cert_pem.as_bytes())?;
                write_private(&path, format!("{}{}", ca.cert_pem, ca.key_pem).as_bytes())?;
                ca
            }
        };
        let key = KeyPair::from_pem(&ca.key_pem).map_err(|error| damaged(&path, error))?;
        check_pair(&path, &ca, &key)?;
        let issuer = Issuer::from_ca_cert_pem(&ca.cert_pem, key).map_err(|error| damaged(&path, error))?;
        if read_optional(&dir.join("ca.crt"))?.as_deref() != Some(ca.cert_pem.as_str()) {
            write_private(&dir.join("ca.crt"), ca.cert_pem.as_bytes())?;
        }
        if !inspect(&path, &ca, validity)?.contains(&SystemTime::now()) {
            let ca = path.display();
            tracing::error!(%ca, "the CA is not valid at this time; if the clock is right, the cluster needs a new CA");
        }
        let service_account_key = open_service_account_key(dir)?;
        Ok(Self { dir: dir.to_owned(), ca, issuer, service_account_key, life })
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca.cert_pem
    }

    /// The key that signs service-account tokens, PKCS #8 PEM (ECDSA P-256).
    pub fn service_account_key_pem(&self) -> &str {
        &self.service_account_key
    }

    /// A serving certificate for these DNS names and addresses. Not stored.
    pub fn issue_server(&self, common_name: &str, sans: &[String]) -> Result<Certified, PkiError> {
        let mut params = self.leaf(common_name, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = sans.iter().map(|san| san_type(san, common_name)).collect::<Result<_, _>>()?;
        self.sign(common_name, &params)
    }

    /// A client certificate: the user is its common name, the groups its organizations. Not stored.
    pub fn issue_client(&self, user: &str, groups: &[&str]) -> Result<Certified, PkiError> {
        let mut params = self.leaf(user, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(user, &params)
    }

    /// The serving certificate kept as NAME.pem; issued anew if its names differ from `sans` or its time is running out.
    pub fn server(&self, name: &str, common_name: &str, sans: &[String]) -> Result<Certified, PkiError> {
        self.stored(name, |cert| names_of(cert) == sorted(sans), || self.issue_server(common_name, sans))
    }

    /// The client certificate kept as NAME.pem; issued anew if its time is running out.
    pub fn client(&self, name: &str, user: &str, groups: &[&str]) -> Result<Certified, PkiError> {
        self.stored(name, |_| true, || self.issue_client(user, groups))
    }

    /// The certificate of cluster administrators.
    pub fn admin(&self) -> Result<Certified, PkiError> {
        self.client("admin", "keelson:admin", &[MASTERS])
    }

    /// The certificate with which the API server calls kubelets.
    pub fn kubelet_client(&self) -> Result<Certified, PkiError> {
        self.client("apiserver-kubelet-client", KUBELET_CLIENT, &[MASTERS])
    }

    fn sign(&self, subject: &str, params: &CertificateParams) -> Result<Certified, PkiError> {
        let fail = |source| PkiError::Issue { subject: subject.to_owned(), source };
        let key = KeyPair::generate().map_err(fail)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(fail)?;
        Ok(Certified { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    fn stored(
        &self,
        name: &str,
        still_fits: impl Fn(&X509Certificate<'_>) -> bool,
        issue: impl FnOnce() -> Result<Certified, PkiError>,
    ) -> Result<Certified, PkiError> {
        let path = self.path(name);
        if let Some(text) = read_optional(&path)? {
            let pair = split_pem(&path, &text)?;
            let key = KeyPair::from_pem(&pair.key_pem).map_err(|error| damaged(&path, error))?;
            check_pair(&path, &pair, &key)?;
            let (from, due) = (inspect(&path, &pair, validity)?.start, self.due(&path, &pair)?);
            let in_time = (from..due).contains(&SystemTime::now());
            if in_time && inspect(&path, &pair, still_fits)? && self.signed_by_us(&path, &pair)? {
                return Ok(pair);
            }
        }
        let pair = issue()?;
        write_private(&path, format!("{}{}", pair.cert_pem, pair.key_pem).as_bytes())?;
        Ok(pair)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pem"))
    }

    /// When a certificate is to be issued anew.
    fn due(&self, path: &Path, pair: &Certified) -> Result<SystemTime, PkiError> {
        inspect(path, pair, |cert| validity(cert).end - self.life / RENEWAL_PART)
    }

    /// What is common to the certificates that this CA signs.
    fn leaf(&self, common_name: &str, organizations: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        for organization in organizations {
            name.push(DnType::OrganizationName, *organization);
        }
        name.push(DnType::CommonName, common_name);
        params.distinguished_name = name;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (SystemTime::now() - BACKDATED).into();
        params.not_after = (sane_now() + self.life).into();
        params
    }

    /// Whether a stored certificate comes from this CA rather than from one that was replaced.
    fn signed_by_us(&self, path: &Path, pair: &Certified) -> Result<bool, PkiError> {
        let ca = der(path, &self.ca.cert_pem)?;
        let (_, ca) = X509Certificate::from_der(&ca).map_err(|error| damaged(path, error))?;
        let wanted = key_identifier(&ca);
        inspect(path, pair, |cert| {
            cert.extensions().iter().any(|extension| match extension.parsed_extension() {
                x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                    wanted.is_some() && id.key_identifier.as_ref().map(|id| id.0) == wanted
                }
                _ => false,
            })
        })
    }
}

/// The names and addresses of the API server's serving certificate.
pub fn server_sans(config: &crate::Config) -> Vec<String> {
    let mut sans: Vec<String> =
        ["localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(str::to_owned)
            .to_vec();
    sans.push(format!("kubernetes.default.svc.{}", config.cluster_domain));
    sans.push(config.node_name.clone());
    sans.push(config.advertise_address.to_string());
    if !config.bind_address.is_unspecified() {
        sans.push(config.bind_address.to_string());
    }
    sans.extend(first_service_address(&config.service_cidr).map(|address| address.to_string()));
    sans.extend(config.tls_sans.iter().cloned());
    sorted(&sans)
}

/// The address of the `kubernetes` Service: the first of the service range.
pub fn first_service_address(cidr: &str) -> Option<IpAddr> {
    let (address, _) = cidr.split_once('/')?;
    match address.parse().ok()? {
        IpAddr::V4(address) => Some(IpAddr::V4((u32::from(address).checked_add(1)?).into())),
        IpAddr::V6(address) => Some(IpAddr::V6((u128::from(address).checked_add(1)?).into())),
    }
}

fn new_ca() -> Result<Certified, PkiError> {
    let fail = |source| PkiError::Issue { subject: "the cluster's CA".to_owned(), source };
    let key = KeyPair::generate().map_err(fail)?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    // The year of its making sets a new CA apart from a lost one of the same cluster in error messages.
    name.push(DnType::CommonName, format!("keelson-ca-{}", unix_seconds()));
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = UNIX_EPOCH.into();
    params.not_after = (sane_now() + CA_LIFE).into();
    let cert = params.self_signed(&key).map_err(fail)?;
    Ok(Certified { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

fn san_type(san: &str, subject: &str) -> Result<SanType, PkiError> {
    match san.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => san
            .to_owned()
            .try_into()
            .map(SanType::DnsName)
            .map_err(|source| PkiError::Issue { subject: format!("{subject} (name {san:?})"), source }),
    }
}

fn open_service_account_key(dir: &Path) -> Result<String, PkiError> {
    let path = dir.join("service-account.pem");
    if let Some(text) = read_optional(&path)? {
        KeyPair::from_pem(&text).map_err(|error| damaged(&path, error))?;
        return Ok(text);
    }
    let fail = |source| PkiError::Issue { subject: "service accounts".to_owned(), source };
    let text = KeyPair::generate().map_err(fail)?.serialize_pem();
    write_private(&path, text.as_bytes())?;
    Ok(text)
}

fn check_pair(path: &Path, pair: &Certified, key: &KeyPair) -> Result<(), PkiError> {
    use rcgen::PublicKeyData;
    let fits = inspect(path, pair, |cert| cert.public_key().subject_public_key.data.as_ref() == key.der_bytes())?;
    if fits { Ok(()) } else { Err(damaged(path, "its certificate and its key do not belong together")) }
}

fn inspect<T>(path: &Path, pair: &Certified, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, PkiError> {
    let der = der(path, &pair.cert_pem)?;
    let (_, cert) = X509Certificate::from_der(&der).map_err(|error| damaged(path, error))?;
    Ok(look(&cert))
}

fn der(path: &Path, pem: &str) -> Result<Vec<u8>, PkiError> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|der| der.to_vec())
        .map_err(|error| damaged(path, error))
}

fn key_identifier<'a>(cert: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    cert.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

/// The first moment at which a certificate holds, and the first at which it does not any more.
pub(crate) fn validity(cert: &X509Certificate<'_>) -> Range<SystemTime> {
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let validity = cert.validity();
    time(validity.not_before.timestamp())..time(validity.not_after.timestamp().saturating_add(1))
}

fn sane_now() -> SystemTime {
    SystemTime::now().max(UNIX_EPOCH + NO_CLOCK_IS_RIGHT_BEFORE)
}

fn unix_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn names_of(cert: &X509Certificate<'_>) -> Vec<String> {
    let names = cert.subject_alternative_name().ok().flatten();
    let names: Vec<String> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            },
            _ => None,
        })
        .collect();
    sorted(&names)
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    names
}

fn damaged(path: &Path, problem: impl std::fmt::Display) -> PkiError {
    PkiError::Damaged { path: path.to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests;
