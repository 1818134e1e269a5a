//! What is placed where: nodes with the sum of their pods, those included that are only assumed to be there because their
//! binding is under way.

use std::collections::HashMap;
use std::sync::Arc;

use informer::ObjectKey;

use crate::objects::{Node, Pod, Port};
use crate::resources::Resources;

/// What containers that ask for nothing count as when nodes are rated, so that they spread too.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// A pod with what the cycle needs of it computed once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub requests: Resources,
    /// CPU and memory with defaults for containers that ask for none.
    pub rated_milli_cpu: i64,
    /// See `rated_milli_cpu`.
    pub rated_memory: i64,
    /// Ports of the node it needs.
    pub ports: Vec<Port>,
}

/// A node and what is placed on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// Sum of what the pods ask for.
    pub requested: Resources,
    /// Sums with defaults.
    pub rated_milli_cpu: i64,
    /// See `rated_milli_cpu`.
    pub rated_memory: i64,
    /// Ports in use.
    pub ports: Vec<Port>,
    /// Pods.
    pub pods: HashMap<ObjectKey, Arc<PodInfo>>,
}

/// All nodes at one moment.
pub type Snapshot = Arc<Vec<Arc<NodeInfo>>>;

/// The state. Synchronous; its user puts it behind a lock.
#[derive(Default)]
pub struct Cache {
    nodes: Snapshot,
    positions: HashMap<String, usize>,
    /// Node and pod by key; pods of nodes that are not known (yet) are here only.
    placed: HashMap<ObjectKey, Placed>,
}

struct Placed {
    node: String,
    info: Arc<PodInfo>,
    assumed: bool,
}

// === impl PodInfo ===

impl PodInfo {
    /// Computes what the cycle needs.
    pub fn new(pod: Arc<Pod>) -> Self {
        let (mut rated_milli_cpu, mut rated_memory) = (0, 0);
        for container in &pod.spec.containers {
            let requests = &container.resources.requests;
            rated_milli_cpu += if requests.milli_cpu == 0 { DEFAULT_MILLI_CPU } else { requests.milli_cpu };
            rated_memory += if requests.memory == 0 { DEFAULT_MEMORY } else { requests.memory };
        }
        let requests = pod.requests();
        Self {
            rated_milli_cpu: rated_milli_cpu.max(requests.milli_cpu),
            rated_memory: rated_memory.max(requests.memory),
            ports: pod.host_ports().cloned().collect(),
            requests,
            pod,
        }
    }

    /// The pod's key.
    pub fn key(&self) -> ObjectKey {
        self.pod.metadata.key()
    }
}

// === impl NodeInfo ===

impl NodeInfo {
    /// An empty node.
    pub fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            requested: Resources::default(),
            rated_milli_cpu: 0,
            rated_memory: 0,
            ports: Vec::new(),
            pods: HashMap::new(),
        }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.node.metadata.name
    }

    /// Places a pod.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.rated_milli_cpu += pod.rated_milli_cpu;
        self.rated_memory += pod.rated_memory;
        self.ports.extend_from_slice(&pod.ports);
        self.pods.insert(pod.key(), pod);
    }

    fn remove(&mut self, key: &ObjectKey) {
        let Some(pod) = self.pods.remove(key) else { return };
        self.requested.subtract(&pod.requests);
        self.rated_milli_cpu -= pod.rated_milli_cpu;
        self.rated_memory -= pod.rated_memory;
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|used| used == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

// === impl Cache ===

impl Cache {
    /// All nodes as they are now. Cheap: later changes copy what they touch.
    pub fn snapshot(&self) -> Snapshot {
        Arc::clone(&self.nodes)
    }

    /// A node came or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone();
        if let Some(at) = self.positions.get(&name) {
            Arc::make_mut(&mut Arc::make_mut(&mut self.nodes)[*at]).node = node;
            return;
        }
        let mut info = NodeInfo::new(node);
        for placed in self.placed.values().filter(|placed| placed.node == name) {
            info.add(Arc::clone(&placed.info));
        }
        let nodes = Arc::make_mut(&mut self.nodes);
        self.positions.insert(name, nodes.len());
        nodes.push(Arc::new(info));
    }

    /// A node is gone. Its pods are remembered until they are deleted themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.positions.remove(name) else { return };
        let nodes = Arc::make_mut(&mut self.nodes);
        nodes.swap_remove(at);
        if let Some(moved) = nodes.get(at) {
            self.positions.insert(moved.name().to_owned(), at);
        }
    }

    /// A pod is on a node, or has changed there; returns what it was. This confirms an assumption.
    pub fn set_pod(&mut self, info: Arc<PodInfo>) -> Option<Arc<PodInfo>> {
        let node = info.pod.spec.node_name.clone();
        self.place(info, node, false)
    }

    /// A pod will be on `node` once its binding is written.
    pub fn assume(&mut self, info: Arc<PodInfo>, node: &str) {
        self.place(info, node.to_owned(), true);
    }

    /// The binding failed. A confirmation that came meanwhile stands, and so does another pod of that name. Whether there is
    /// room again.
    pub fn forget(&mut self, pod: &PodInfo) -> bool {
        let key = pod.key();
        let is_it = |placed: &Placed| placed.assumed && placed.info.pod.metadata.uid == pod.pod.metadata.uid;
        self.placed.get(&key).is_some_and(is_it) && self.remove_pod(&key).is_some()
    }

    /// A pod is gone or has ended; returns it if it was placed.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Option<Arc<PodInfo>> {
        let placed = self.placed.remove(key)?;
        self.with_node(&placed.node, |node| node.remove(key));
        Some(placed.info)
    }

    /// Whether a pod is placed or assumed to be.
    pub fn has_pod(&self, key: &ObjectKey) -> bool {
        self.placed.contains_key(key)
    }

    fn place(&mut self, info: Arc<PodInfo>, node: String, assumed: bool) -> Option<Arc<PodInfo>> {
        let key = info.key();
        let old = self.remove_pod(&key);
        self.with_node(&node, |node| node.add(Arc::clone(&info)));
        self.placed.insert(key, Placed { node, info, assumed });
        old
    }

    fn with_node(&mut self, name: &str, change: impl FnOnce(&mut NodeInfo)) {
        if let Some(at) = self.positions.get(name) {
            change(Arc::make_mut(&mut Arc::make_mut(&mut self.nodes)[*at]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Container, ContainerResources, PodSpec};
    use informer::Meta;

    fn node(name: &str) -> Arc<Node> {
        Arc::new(Node { metadata: Meta { name: name.into(), ..Meta::default() }, ..Node::default() })
    }

    fn pod(name: &str, node: &str, milli_cpu: i64) -> Arc<PodInfo> {
        let requests = Resources { milli_cpu, ..Resources::default() };
        let ports = vec![Port { host_port: 80, ..Port::default() }];
        let container = Container { resources: ContainerResources { requests }, ports, ..Container::default() };
        let spec = PodSpec { node_name: node.into(), containers: vec![container], ..PodSpec::default() };
        let metadata = Meta { name: name.into(), namespace: "ns".into(), ..Meta::default() };
        Arc::new(PodInfo::new(Arc::new(Pod { metadata, spec, ..Pod::default() })))
    }

    fn sums(cache: &Cache) -> Vec<(String, i64, i64, usize)> {
        let mut sums: Vec<_> = cache
            .snapshot()
            .iter()
            .map(|node| (node.name().to_owned(), node.requested.milli_cpu, node.requested.pods, node.ports.len()))
            .collect();
        sums.sort();
        sums
    }

    #[test]
    fn assume_confirm_forget() {
        let mut cache = Cache::default();
        let key = ObjectKey::new("ns", "a");
        cache.set_node(node("n1"));
        cache.set_node(node("n2"));
        cache.assume(pod("a", "", 100), "n1");
        assert_eq!(sums(&cache), [("n1".into(), 100, 1, 1), ("n2".into(), 0, 0, 0)]);
        let mut other = PodInfo::clone(&pod("a", "", 100));
        Arc::make_mut(&mut other.pod).metadata.uid = "of the same name".into();
        assert!(!cache.forget(&other));
        assert!(cache.forget(&pod("a", "", 100)));
        assert_eq!(sums(&cache)[0], ("n1".into(), 0, 0, 0));
        cache.assume(pod("a", "", 100), "n1");
        cache.set_pod(pod("a", "n2", 200));
        assert!(!cache.forget(&pod("a", "", 100)), "it came to be");
        assert_eq!(sums(&cache), [("n1".into(), 0, 0, 0), ("n2".into(), 200, 1, 1)]);
        assert!(cache.remove_pod(&key).is_some() && cache.remove_pod(&key).is_none());
        assert_eq!(sums(&cache)[1], ("n2".into(), 0, 0, 0));
    }

    #[test]
    fn pods_may_come_before_their_node_and_outlive_it() {
        let mut cache = Cache::default();
        cache.set_pod(pod("a", "n1", 100));
        cache.set_node(node("n0"));
        cache.set_node(node("n1"));
        cache.set_node(node("n2"));
        cache.remove_node("n0");
        cache.set_pod(pod("b", "n2", 5));
        assert_eq!(sums(&cache), [("n1".into(), 100, 1, 1), ("n2".into(), 5, 1, 1)]);
        cache.remove_node("n1");
        cache.set_node(node("n1"));
        assert_eq!(sums(&cache)[0].1, 100);
    }

    #[test]
    fn a_snapshot_does_not_change() {
        let mut cache = Cache::default();
        cache.set_node(node("n1"));
        let before = cache.snapshot();
        cache.assume(pod("a", "", 100), "n1");
        assert_eq!(before[0].requested.milli_cpu, 0);
        assert_eq!(cache.snapshot()[0].requested.milli_cpu, 100);
    }
}
