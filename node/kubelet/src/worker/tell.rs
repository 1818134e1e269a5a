//! Telling: the pod's status to the API, its view to the rest of the kubelet, and at last the end of the API object.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::state::{Job, ahead, step};
use super::{Outcome, View, Worker, later};
use crate::context::ApiFailure;
use crate::pod;
use crate::status;

const RETRY: Duration = Duration::from_secs(1);

/// The status as the API has it, as far as we know, and what is under way to change it.
pub(super) struct Told {
    status: PodStatus,
    version: u64,
    writing: bool,
    after: Option<Timestamp>,
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Told {
    pub(super) fn of(pod: &Pod) -> Told {
        Told { status: pod::status(pod).clone(), version: version(pod), writing: false, after: None }
    }

    /// Takes in the object, unless something newer is known.
    pub(super) fn saw(&mut self, pod: &Pod) {
        if version(pod) >= self.version {
            self.version = version(pod);
            self.status = pod::status(pod).clone();
        }
    }

    /// Nobody will tell how the write that is under way ends.
    pub(super) fn lost(&mut self) {
        self.writing = false;
    }

    /// When a write that failed is to be tried again.
    pub(super) fn again_at(&self) -> Option<Timestamp> {
        self.after
    }
}

impl Worker {
    fn current_status(&self, now: Timestamp) -> PodStatus {
        let terminated = self.stopping_since.is_some() && !self.state.any_alive();
        status::build(&status::Input {
            pod: &self.pod,
            known: &self.told.status,
            state: &self.state,
            host_ip: &self.context.host_ip,
            started: self.accepted,
            terminated,
            now,
        })
    }

    pub(super) fn write_status(&mut self, now: Timestamp) {
        if self.told.writing || self.gone || self.removing || self.told.after.is_some_and(|at| ahead(at, now)) {
            return;
        }
        self.told.after = None;
        let wanted = self.current_status(now);
        let Some(patch) = status::patch::diff(&self.shared.id, &self.told.status, &wanted) else { return };
        self.told.writing = true;
        let shared = Arc::clone(&self.shared);
        self.jobs.spawn(async move {
            let result = shared.context.api.patch_status(&shared.id, patch).await;
            (None, Outcome::Written(Box::new(result)))
        });
    }

    pub(super) fn written(&mut self, result: Result<Pod, ApiFailure>) {
        self.told.writing = false;
        match result {
            Ok(pod) => self.told.saw(&pod),
            Err(ApiFailure::Gone) => self.gone = true,
            Err(error) => {
                tracing::warn!(pod = %self.shared.id, %error, "status not written, will be tried again");
                self.told.after = Some(later(Timestamp::now(), RETRY));
            }
        }
    }

    pub(super) fn publish(&self) {
        let mut pod = (*self.pod).clone();
        pod.status = Some(self.current_status(Timestamp::now()));
        let over = !self.state.any_alive() && (self.state.finished(&self.pod).is_some() || self.cleaned);
        let view = View {
            pod: Arc::new(pod),
            sandbox: self.state.sandbox.as_ref().map(|sandbox| sandbox.id.clone()),
            records: self.state.records.clone(),
            waiting: self.state.waiting.clone(),
            over,
        };
        if !self.view.send_replace(Arc::new(view)).over && over {
            self.context.freed.notify_one();
        }
    }

    /// The last thing: with no trace left and the last status told, the API object goes.
    pub(super) fn remove_object(&mut self) {
        if !self.cleaned {
            return;
        }
        if self.gone {
            self.done = true;
            return;
        }
        let untold = self.told.writing || self.told.after.is_some();
        if untold || self.removing || !self.due(step::REMOVE, Timestamp::now()) {
            return;
        }
        self.removing = true;
        let shared = Arc::clone(&self.shared);
        self.job(Job::Remove, async move { Outcome::Removed(shared.context.api.delete(&shared.id).await) });
    }
}
