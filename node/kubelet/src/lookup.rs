//! What the kubelet's API asks of the workers.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::api::{ContainerInstance, ContainerRef, PodLookup, PodRef};
use crate::pod::{self, PodId};
use crate::pods::Pods;
use crate::worker::{Run, View};

#[async_trait]
impl PodLookup for Pods {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodRef> {
        let views = self.handles().into_iter().map(|handle| Arc::clone(&handle.view.borrow()));
        let is_it = |pod: &Pod| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        // A deleted pod may still be around beside its successor of the same name.
        let mut found: Vec<Arc<View>> = views.filter(|view| is_it(&view.pod)).collect();
        found.sort_by_key(|view| pod::deleting(&view.pod));
        found.first().map(|view| reference(view))
    }

    fn pods(&self) -> Vec<Arc<Value>> {
        let views = self.handles().into_iter().map(|handle| Arc::clone(&handle.view.borrow()));
        views.filter_map(|view| serde_json::to_value(view.pod.as_ref()).ok().map(Arc::new)).collect()
    }

    async fn container_exited(&self, container_id: &str) {
        let runs = |view: &View| {
            let mut records = view.records.values().flat_map(|r| [&r.current, &r.previous]).flatten();
            records.find(|run| run.id == container_id).map(Run::alive)
        };
        let owner = self.handles().into_iter().find(|handle| runs(&handle.view.borrow()).is_some());
        if let Some(mut handle) = owner {
            // An ended worker has no container that runs.
            let _ = handle.view.wait_for(|view| runs(view) != Some(true)).await;
        }
    }
}

fn reference(view: &View) -> PodRef {
    let PodId { namespace, name, uid } = PodId::of(&view.pod);
    let instance = |run: &Run| ContainerInstance {
        id: run.id.clone(),
        log_path: PathBuf::from(&run.log_path),
        running: run.alive(),
    };
    let default = if pod::init_containers(&view.pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let lasting = pod::all_containers(&view.pod).map(|container| &container.name);
    let ephemeral = pod::list(&pod::spec(&view.pod).ephemeral_containers).iter().map(|container| &container.name);
    let containers = lasting.chain(ephemeral).map(|name| {
        let record = view.records.get(name);
        let waiting = view.waiting.get(name).map_or(default, |waiting| waiting.reason.as_str());
        ContainerRef {
            name: name.clone(),
            current: record.and_then(|r| r.current.as_ref()).map(instance),
            previous: record.and_then(|r| r.previous.as_ref()).map(instance),
            waiting: waiting.to_owned(),
        }
    });
    PodRef { namespace, name, uid, sandbox_id: view.sandbox.clone(), containers: containers.collect() }
}
