//! The cluster's certificates and keys.
