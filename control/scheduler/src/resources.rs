//! Amounts of resources: what nodes offer and pods ask for, as integers.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use serde::{Deserialize, Deserializer};

/// Amounts by resource. CPU in thousandths, everything else in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Pods a node may run.
    pub pods: i64,
    /// Huge pages and extended resources.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Adds another set of amounts.
    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes another set of amounts away.
    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
    }

    /// Raises each amount to at least that of another set.
    pub fn max(&mut self, other: &Resources) {
        self.combine(other, std::cmp::Ord::max);
    }

    /// Takes over what is said as a whole: cpu, memory and huge pages, where they are named.
    pub fn replace(&mut self, whole: &Resources) {
        for (mine, said) in [(&mut self.milli_cpu, whole.milli_cpu), (&mut self.memory, whole.memory)] {
            *mine = if said == 0 { *mine } else { said };
        }
        self.extended.extend(whole.extended.clone());
    }

    /// Whether any amount is larger than that of another set.
    pub fn exceeds(&self, other: &Resources) -> bool {
        let mut both = self.clone();
        both.max(other);
        both != *other
    }

    fn combine(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }

    fn set(&mut self, name: String, quantity: Quantity) {
        match name.as_str() {
            "cpu" => self.milli_cpu = quantity.as_milli(),
            "memory" => self.memory = quantity.as_i64(),
            "ephemeral-storage" => self.ephemeral_storage = quantity.as_i64(),
            "pods" => self.pods = quantity.as_i64(),
            _ => {
                self.extended.insert(name, quantity.as_i64());
            }
        }
    }
}

/// From `{"cpu": "100m", …}`. Unreadable quantities never pass validation; should one appear, it counts as nothing.
impl<'de> Deserialize<'de> for Resources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Amount {
            Text(String),
            Number(serde_json::Number),
        }
        let amounts = Option::<BTreeMap<String, Amount>>::deserialize(deserializer)?.unwrap_or_default();
        let mut resources = Resources::default();
        for (name, amount) in amounts {
            let text = match amount {
                Amount::Text(text) => text,
                Amount::Number(number) => number.to_string(),
            };
            if let Ok(quantity) = Quantity::parse(&text) {
                resources.set(name, quantity);
            }
        }
        Ok(resources)
    }
}

/// What a container asks for, as far as a pod's sum needs it.
pub struct Ask {
    /// Its requests.
    pub requests: Resources,
    /// An init container that goes on running beside the others.
    pub restartable: bool,
}

/// What the containers of a pod ask for: app containers and sidecars together, or the init container that needs most
/// with the sidecars started before it.
pub fn pod_requests(
    containers: impl Iterator<Item = Resources>,
    init_containers: impl Iterator<Item = Ask>,
) -> Resources {
    let mut total = Resources::default();
    containers.for_each(|requests| total.add(&requests));
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for Ask { requests, restartable } in init_containers {
        let mut during = sidecars.clone();
        during.add(&requests);
        peak.max(&during);
        if restartable {
            sidecars = during;
        }
    }
    total.add(&sidecars);
    total.max(&peak);
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(milli_cpu: i64) -> Resources {
        Resources { milli_cpu, ..Resources::default() }
    }

    #[test]
    fn reads_quantities() {
        let got: Resources =
            serde_json::from_str(r#"{"cpu":"1500m","memory":"1Gi","pods":110,"example.com/gpu":"2"}"#).unwrap();
        let extended = BTreeMap::from([("example.com/gpu".to_owned(), 2)]);
        assert_eq!(got, Resources { milli_cpu: 1500, memory: 1 << 30, pods: 110, extended, ..Resources::default() });
    }

    #[test]
    fn pods_sum_up() {
        // (containers, init containers with restartable, want)
        type Case = (&'static [i64], &'static [(i64, bool)], i64);
        let cases: [Case; 5] = [
            (&[100, 200], &[], 300),
            (&[100], &[(500, false), (300, false)], 500),
            (&[100], &[(50, true)], 150),
            (&[100], &[(50, true), (400, false)], 450),
            (&[100], &[(400, false), (50, true)], 400),
        ];
        for (containers, inits, want) in cases {
            let asks =
                inits.iter().map(|(milli, restartable)| Ask { requests: cpu(*milli), restartable: *restartable });
            assert_eq!(pod_requests(containers.iter().copied().map(cpu), asks).milli_cpu, want);
        }
    }
}
