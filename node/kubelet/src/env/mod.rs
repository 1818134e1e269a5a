//! Environment of containers.

mod expand;
