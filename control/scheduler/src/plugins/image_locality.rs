//! A node that has a pod's large images already is better.

use std::collections::HashMap;

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{ClusterEvent, CycleState, MAX_SCORE, Plugin};
use crate::objects::Pod;

/// The plugin.
pub(super) struct ImageLocality;

/// Less than this is quickly pulled.
const MIN_BYTES: i64 = 23 << 20;
/// More than this a container makes no difference.
const MAX_BYTES: i64 = 1000 << 20;

fn containers(pod: &Pod) -> impl Iterator<Item = &str> {
    pod.spec.init_containers.iter().chain(&pod.spec.containers).map(|container| container.image.as_str())
}

/// As nodes name it: with a tag.
fn normalized(image: &str) -> String {
    let tagged = image.rsplit('/').next().is_some_and(|last| last.contains(':')) || image.contains('@');
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}

fn rate(bytes: i64, containers: i64) -> i64 {
    let most = MAX_BYTES * containers;
    MAX_SCORE * (bytes.clamp(MIN_BYTES, most) - MIN_BYTES) / (most - MIN_BYTES).max(1)
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo) -> bool {
        let wanted: Vec<String> = containers(&pod.pod).map(normalized).collect();
        let any = !wanted.is_empty();
        state.put(wanted);
        any
    }

    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(wanted) = state.get::<Vec<String>>().filter(|_| !node.node.status.images.is_empty()) else { return 0 };
        let images = &node.node.status.images;
        let there: HashMap<&str, i64> =
            images.iter().flat_map(|image| image.names.iter().map(|name| (name.as_str(), image.size_bytes))).collect();
        let bytes = wanted.iter().filter_map(|image| there.get(image.as_str())).sum();
        rate(bytes, i64::try_from(wanted.len()).unwrap_or(1))
    }

    fn helps(&self, _: &PodInfo, _: &ClusterEvent<'_>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Node;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn images_are_named_with_a_tag() {
        for (image, want) in
            [("a/b", "a/b:latest"), ("r:5000/b", "r:5000/b:latest"), ("b:1", "b:1"), ("b@sha256:0", "b@sha256:0")]
        {
            assert_eq!(normalized(image), want);
        }
    }

    #[test]
    fn large_images_at_hand_count() {
        let node = |images| {
            let node = serde_json::from_value::<Node>(json!({"status": {"images": images}})).unwrap();
            NodeInfo::new(Arc::new(node))
        };
        let pod = json!({"spec": {"containers": [{"image": "big"}]}});
        let pod = PodInfo::from(serde_json::from_value::<Pod>(pod).unwrap());
        let mut state = CycleState::default();
        assert!(ImageLocality.pre_score(&mut state, &pod));
        for (images, want) in [
            (json!([]), 0),
            (json!([{"names": ["small:latest"], "sizeBytes": 900 << 20}]), 0),
            (json!([{"names": ["x", "big:latest"], "sizeBytes": 10 << 20}]), 0),
            (json!([{"names": ["big:latest"], "sizeBytes": 512 << 20}]), 50),
            (json!([{"names": ["big:latest"], "sizeBytes": 2000_i64 << 20}]), 100),
        ] {
            assert_eq!(ImageLocality.score(&state, &pod, &node(images.clone())), want, "{images}");
        }
    }
}
