//! Where `metadata.resourceVersion` goes into stored bytes.

use bytes::Bytes;

use crate::api::Revision;

/// The object with its `resourceVersion` in place. Bytes without a `metadata` object stay as they are.
pub(crate) fn with_revision(value: &Bytes, revision: Revision) -> Bytes {
    const METADATA: &[u8] = b"\"metadata\":{";
    let Some(at) = value.windows(METADATA.len()).position(|w| w == METADATA).map(|at| at + METADATA.len()) else {
        return value.clone();
    };
    let comma = if value[at..].first() == Some(&b'}') { "" } else { "," };
    let insert = format!("\"resourceVersion\":\"{revision}\"{comma}");
    let mut out = Vec::with_capacity(value.len() + insert.len());
    out.extend_from_slice(&value[..at]);
    out.extend_from_slice(insert.as_bytes());
    out.extend_from_slice(&value[at..]);
    out.into()
}
