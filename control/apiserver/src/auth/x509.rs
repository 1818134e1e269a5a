//! Client certificates: the common name is the user, the organizations are the groups.

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AUTHENTICATED, User};

/// The user that a verified certificate names; `None` without a common name.
pub(crate) fn user_of(der: &[u8]) -> Option<User> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(User { name, groups, ..User::default() })
}
