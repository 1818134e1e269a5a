//! Volumes of pods.

mod atomic;
mod mounts;
mod ownership;
