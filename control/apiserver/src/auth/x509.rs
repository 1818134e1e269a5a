//! Client certificates: the common name is the user, the organizations are the groups.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AUTHENTICATED, User};
use crate::pki::validity;

/// Who a verified certificate says its bearer is, and when it does. Connections outlive certificates.
pub(crate) struct Identity {
    pub(crate) user: Arc<User>,
    pub(crate) valid: Range<SystemTime>,
}

/// What a verified certificate says; `None` without a common name.
pub(crate) fn identity(der: &[u8]) -> Option<Identity> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(Identity { user: Arc::new(User { name, groups, ..User::default() }), valid: validity(&cert) })
}
