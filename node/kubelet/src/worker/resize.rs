//! A pod's resources while it runs: what is told of a change, and what its end brings.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::Worker;
use super::state::{Applied, step};
use crate::allocation::{self, Pending};
use crate::pod;

impl Worker {
    /// Takes in the pod as the node now gives it resources; `old` is what it was.
    pub(super) fn resized_from(&mut self, old: &Pod, pending: Option<Pending>) {
        if !allocation::same(old, &self.pod) {
            self.state.resize.error = None;
            self.state.resize.going_on = true;
            self.state.waiting.remove(step::RESIZE);
            self.tell_resize(false, "ResizeStarted", "started", None);
        }
        if let Some(told) = pending.as_ref().filter(|told| self.state.resize.pending.as_ref() != Some(told)) {
            let reason = if told.reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" };
            self.tell_resize(true, reason, told.reason, Some(&told.message));
        }
        self.state.resize.pending = pending;
    }

    /// A resize was brought to containers, whole or in part.
    pub(super) fn resized(&mut self, pod: &Arc<Pod>, done: Vec<(String, Applied)>, result: Result<bool, String>) {
        self.state.applied.extend(done);
        match result {
            // What was given may have changed again meanwhile.
            Ok(true) if allocation::same(pod, &self.pod) => {
                self.succeeded(step::RESIZE);
                self.state.resize.error = None;
                self.state.resize.going_on = false;
                self.tell_resize(false, "ResizeCompleted", "completed", None);
            }
            Ok(_) => self.succeeded(step::RESIZE),
            Err(message) => {
                if self.state.resize.error.as_ref() != Some(&message) {
                    self.tell_resize(true, "ResizeError", "error", Some(&message));
                }
                self.hold(step::RESIZE, "Error", message.clone());
                self.state.resize.error = Some(message);
            }
        }
    }

    fn tell_resize(&self, warning: bool, reason: &str, what: &str, error: Option<&str>) {
        let containers: Vec<_> = pod::all_containers(&self.pod)
            .map(|container| json!({"name": container.name, "resources": container.resources}))
            .collect();
        let mut detail = json!({"containers": containers, "generation": self.pod.metadata.generation});
        if let Some(error) = error {
            detail["error"] = error.into();
        }
        self.context.events.event(&self.pod, None, warning, reason, format!("Pod resize {what}: {detail}"));
    }
}
