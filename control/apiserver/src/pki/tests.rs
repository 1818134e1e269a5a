//! What reopening, changed names and damage do.

use super::*;

fn open(dir: &Path) -> Result<Pki, PkiError> {
    Pki::open_or_create(dir, CERTIFICATE_LIFE)
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn reopening_gives_the_same_ca_and_certificates() {
    let dir = dir();
    let first = open(dir.path()).unwrap();
    let sans = vec!["127.0.0.1".to_owned(), "a.example".to_owned()];
    let server = first.server("server", "kube-apiserver", &sans).unwrap();
    let admin = first.admin().unwrap();
    let again = open(dir.path()).unwrap();
    assert_eq!(again.ca_pem(), first.ca_pem());
    assert_eq!(again.service_account_key_pem(), first.service_account_key_pem());
    assert_eq!(again.server("server", "kube-apiserver", &sans).unwrap(), server);
    assert_eq!(again.admin().unwrap(), admin);
    let more = vec!["127.0.0.1".to_owned(), "b.example".to_owned()];
    assert_ne!(
        again.server("server", "kube-apiserver", &more).unwrap(),
        server,
        "changed names need a new certificate"
    );
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
}

#[test]
fn a_certificate_of_a_replaced_ca_is_issued_anew() {
    let dir = dir();
    let admin = open(dir.path()).unwrap().admin().unwrap();
    std::fs::remove_file(dir.path().join("ca.pem")).unwrap();
    assert_ne!(open(dir.path()).unwrap().admin().unwrap(), admin);
}

#[test]
fn damaged_files_are_named_and_kept() {
    let dir = dir();
    open(dir.path()).unwrap().admin().unwrap();
    let ca = std::fs::read_to_string(dir.path().join("ca.pem")).unwrap();
    let admin = std::fs::read_to_string(dir.path().join("admin.pem")).unwrap();
    let mixed = format!(
        "{}{}",
        &ca[..ca.find("-----BEGIN PRIVATE").unwrap()],
        &admin[admin.find("-----BEGIN PRIVATE").unwrap()..]
    );
    let cases = [
        ("ca.pem", String::new(), "holds no certificate"),
        ("ca.pem", ca[..ca.len() / 2].to_owned(), "is damaged"),
        ("ca.pem", mixed, "do not belong together"),
        ("service-account.pem", "nonsense".to_owned(), "is damaged"),
    ];
    for (file, text, expected) in cases {
        let path = dir.path().join(file);
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text).unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(file), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "nothing is overwritten");
        std::fs::write(&path, before).unwrap();
    }
}

#[test]
fn the_kubernetes_service_has_the_first_address() {
    let cases = [("10.96.0.0/16", "10.96.0.1"), ("fd00:10:96::/112", "fd00:10:96::1")];
    for (cidr, address) in cases {
        assert_eq!(first_service_address(cidr).unwrap().to_string(), address);
    }
    assert_eq!(first_service_address("nonsense"), None);
}

/// Machines begin with any clock: what is made at a wrong time must not stand in the way of the right one.
#[test]
fn certificates_out_of_their_time_are_issued_anew() {
    let dir = dir();
    let pki = open(dir.path()).unwrap();
    let life = |pair: &Certified| inspect(Path::new("x"), pair, validity).unwrap();
    assert_eq!(life(&pki.ca).start, UNIX_EPOCH, "a clock that is set back leaves the CA valid");
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    for (from, until, kept) in [
        (now - day, now + CERTIFICATE_LIFE, true),
        (now - CERTIFICATE_LIFE, now + 92 * day, true),
        (now - CERTIFICATE_LIFE, now + 91 * day, false),
        (now - 2 * day, now - day, false),
        (now + day, now + CERTIFICATE_LIFE, false),
    ] {
        let mut params = pki.leaf("x", &[]);
        (params.not_before, params.not_after) = (from.into(), until.into());
        let odd = pki.sign("x", &params).unwrap();
        write_private(&dir.path().join("x.pem"), format!("{}{}", odd.cert_pem, odd.key_pem).as_bytes()).unwrap();
        let found = pki.client("x", "x", &[]).unwrap();
        assert_eq!(found == odd, kept, "{from:?} to {until:?}");
        assert!(life(&found).contains(&now));
    }
}
