//! How large each ReplicaSet of a Deployment should be next. Pure.

use serde_json::Value;

use crate::objects::{Deployment, ReplicaSet};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

pub(super) fn wanted(deployment: &Deployment) -> i64 {
    deployment.spec.replicas.unwrap_or(1)
}

pub(super) fn size(set: &ReplicaSet) -> i64 {
    set.spec.replicas.unwrap_or(1)
}

pub(super) fn total<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    sets.into_iter().map(size).sum()
}

/// A number, or a percentage of `of`.
pub(crate) fn number_or_percent(value: &Value, of: i64, round_up: bool) -> i64 {
    if let Some(text) = value.as_str() {
        let percent = text.strip_suffix('%').and_then(|text| text.parse::<i64>().ok()).unwrap_or_default();
        let product = percent.saturating_mul(of);
        return if round_up { (product + 99) / 100 } else { product / 100 };
    }
    value.as_i64().unwrap_or_default()
}

/// How many pods may be there beyond those wanted, and how many of those wanted may be missing. Never both 0: nothing
/// could move.
pub(super) fn fenceposts(deployment: &Deployment) -> (i64, i64) {
    let Some(rolling) = deployment.spec.strategy.rolling_update.as_ref().filter(|_| is_rolling(deployment)) else {
        return (0, 0);
    };
    let wanted = wanted(deployment);
    let surge = number_or_percent(&rolling.max_surge, wanted, true);
    let unavailable = number_or_percent(&rolling.max_unavailable, wanted, false);
    (surge, if surge == 0 && unavailable == 0 { 1 } else { unavailable })
}

pub(super) fn is_rolling(deployment: &Deployment) -> bool {
    deployment.spec.strategy.r#type != "Recreate"
}

/// As [`fenceposts`], but not more than are wanted.
pub(super) fn max_unavailable(deployment: &Deployment) -> i64 {
    if !is_rolling(deployment) || wanted(deployment) == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(wanted(deployment))
}

/// The new set's next size; `all` holds it too, if it exists.
pub(super) fn new_size(deployment: &Deployment, current: i64, all: i64) -> i64 {
    let wanted = wanted(deployment);
    if current >= wanted || !is_rolling(deployment) {
        return wanted;
    }
    let room = wanted + fenceposts(deployment).0 - all;
    current + room.clamp(0, wanted - current)
}

/// The old sets' next sizes while rolling, as (index, size); `old` is sorted by age. Pods that are not available go first.
pub(super) fn old_sizes(deployment: &Deployment, new: &ReplicaSet, old: &[&ReplicaSet]) -> Vec<(usize, i64)> {
    let all = total(old.iter().copied()) + size(new);
    let min_available = wanted(deployment) - max_unavailable(deployment);
    let new_unavailable = (size(new) - new.status.available_replicas).max(0);
    let mut removable = all - min_available - new_unavailable;
    if removable <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<i64> = old.iter().map(|set| size(set)).collect();
    for (set, size) in old.iter().zip(&mut sizes) {
        let unhealthy = (*size - set.status.available_replicas).clamp(0, removable.max(0));
        *size -= unhealthy;
        removable -= unhealthy;
    }
    let available: i64 =
        old.iter().map(|set| set.status.available_replicas).sum::<i64>() + new.status.available_replicas;
    let mut spare = available - min_available;
    for size in &mut sizes {
        let less = (*size).min(spare.max(0));
        *size -= less;
        spare -= less;
    }
    let changed = |(at, next): (usize, i64)| (next != size(old[at])).then_some((at, next));
    sizes.into_iter().enumerate().filter_map(changed).collect()
}

fn annotation(set: &ReplicaSet, key: &str) -> Option<i64> {
    set.metadata.annotation(key)?.parse().ok()
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).unwrap_or_default()
}

/// Whether the Deployment's size changed since its sets were last sized.
pub(super) fn is_scaling(deployment: &Deployment, sets: &[&ReplicaSet]) -> bool {
    sets.iter()
        .filter(|set| size(set) > 0)
        .any(|set| annotation(set, DESIRED).is_some_and(|desired| desired != wanted(deployment)))
}

/// Sizes after the Deployment was scaled, as (index, size) into `sets`, of which `new` is the index of the new one, if any.
pub(super) fn scale(deployment: &Deployment, sets: &[&ReplicaSet], new: Option<usize>) -> Vec<(usize, i64)> {
    let wanted = wanted(deployment);
    let active: Vec<usize> = (0..sets.len()).filter(|at| size(sets[*at]) > 0).collect();
    let only = match active.as_slice() {
        [] => new.or_else(|| (0..sets.len()).max_by_key(|at| &sets[*at].metadata.creation_timestamp)),
        [only] => Some(*only),
        _ => None,
    };
    if let Some(only) = only {
        return vec![(only, wanted)];
    }
    let saturated = new.is_some_and(|at| {
        let set = sets[at];
        size(set) == wanted && annotation(set, DESIRED) == Some(wanted) && set.status.available_replicas == wanted
    });
    if saturated {
        return active.into_iter().filter(|at| Some(*at) != new).map(|at| (at, 0)).collect();
    }
    if !is_rolling(deployment) {
        return Vec::new();
    }
    proportional(deployment, sets, active)
}

/// Shares what is to be added or removed among the active sets by their sizes; what rounding leaves goes to the largest.
fn proportional(deployment: &Deployment, sets: &[&ReplicaSet], mut active: Vec<usize>) -> Vec<(usize, i64)> {
    let wanted = wanted(deployment);
    let allowed = if wanted > 0 { wanted + fenceposts(deployment).0 } else { 0 };
    let to_add = allowed - active.iter().map(|at| size(sets[*at])).sum::<i64>();
    // Largest first; among equals, growth goes to the newest and shrinking takes from the oldest.
    active.sort_by(|a, b| {
        let (a, b) = (sets[*a], sets[*b]);
        let age = a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp);
        size(b).cmp(&size(a)).then(if to_add > 0 { age.reverse() } else { age })
    });
    let mut added = 0;
    let mut sizes: Vec<(usize, i64)> = Vec::new();
    for at in active {
        let current = size(sets[at]);
        let share = if to_add == 0 { 0 } else { share(deployment, sets[at]) };
        let left = to_add - added;
        let share = if to_add > 0 { share.min(left).max(0) } else { share.max(left).min(0) };
        added += share;
        sizes.push((at, current + share));
    }
    if let Some((_, largest)) = sizes.first_mut() {
        *largest = (*largest + to_add - added).max(0);
    }
    sizes
}

fn share(deployment: &Deployment, set: &ReplicaSet) -> i64 {
    let (wanted, current) = (wanted(deployment), size(set));
    if wanted == 0 {
        return -current;
    }
    let before = annotation(set, MAX).filter(|max| *max > 0).unwrap_or(deployment.status.replicas).max(1);
    let after = wanted + fenceposts(deployment).0;
    (2 * current * after + before) / (2 * before) - current
}

/// Whether the template is the one that `set` was made from; the label with the hash does not count.
pub(super) fn same_template(deployment: &Value, set: &Value) -> bool {
    normal(deployment) == normal(set)
}

fn normal(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(super::HASH_LABEL);
        }
        metadata.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()));
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(wanted: i64, surge: impl Into<Value>, unavailable: impl Into<Value>) -> Deployment {
        let (surge, unavailable): (Value, Value) = (surge.into(), unavailable.into());
        serde_json::from_value(json!({"spec": {"replicas": wanted, "strategy": {
            "type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}))
        .unwrap()
    }

    fn set(size: i64, available: i64) -> ReplicaSet {
        serde_json::from_value(json!({"spec": {"replicas": size}, "status": {"availableReplicas": available}})).unwrap()
    }

    fn annotated(size: i64, desired: i64, max: i64, created: &str) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"creationTimestamp": created,
                         "annotations": {DESIRED: desired.to_string(), MAX: max.to_string()}},
            "spec": {"replicas": size}}))
        .unwrap()
    }

    #[test]
    fn percentages_round_apart() {
        for (wanted, surge, unavailable, want) in [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (4, json!(0), json!(0), (0, 1)),
            (3, json!("0%"), json!("10%"), (0, 1)),
            (3, json!(2), json!(1), (2, 1)),
        ] {
            assert_eq!(fenceposts(&deployment(wanted, surge, unavailable)), want);
        }
    }

    #[test]
    fn the_new_set_grows_into_the_surge() {
        // (wanted, surge, current size, size of all, want)
        for (wanted, surge, current, all, want) in [
            (10, 2, 0, 10, 2),
            (10, 2, 2, 12, 2),
            (10, 2, 8, 10, 10),
            (10, 20, 0, 10, 10),
            (5, 1, 8, 8, 5),
            (0, 1, 3, 3, 0),
        ] {
            assert_eq!(new_size(&deployment(wanted, json!(surge), json!(0)), current, all), want);
        }
        let mut recreate = deployment(5, json!(0), json!(0));
        recreate.spec.strategy.r#type = "Recreate".into();
        assert_eq!(new_size(&recreate, 0, 5), 5);
    }

    #[test]
    fn old_sets_shrink_as_new_pods_become_available() {
        // (wanted, unavailable, new (size, available), old (size, available)…, want)
        type Case = (i64, i64, (i64, i64), &'static [(i64, i64)], &'static [(usize, i64)]);
        let cases: [Case; 6] = [
            (10, 0, (2, 0), &[(10, 10)], &[]),
            (10, 0, (2, 2), &[(10, 10)], &[(0, 8)]),
            (10, 2, (0, 0), &[(10, 10)], &[(0, 8)]),
            (10, 2, (2, 0), &[(10, 8)], &[(0, 8)]),
            (10, 0, (10, 10), &[(1, 1), (2, 0)], &[(0, 0), (1, 0)]),
            (3, 0, (1, 0), &[(3, 3)], &[]),
        ];
        for (wanted, unavailable, new, old, want) in cases {
            let old: Vec<_> = old.iter().map(|(size, available)| set(*size, *available)).collect();
            let old: Vec<_> = old.iter().collect();
            let deployment = deployment(wanted, json!(2), json!(unavailable));
            assert_eq!(old_sizes(&deployment, &set(new.0, new.1), &old), want, "{wanted} {unavailable} {new:?}");
        }
    }

    #[test]
    fn scaling_keeps_proportions() {
        // A rollout at 8 old and 5 new of 10 (surge 3) is scaled to 20 (surge 3): 23 in all.
        let mut rolling = deployment(20, json!(3), json!(2));
        rolling.status.replicas = 13;
        let (old, new) = (annotated(8, 10, 13, "1"), annotated(5, 10, 13, "2"));
        assert!(is_scaling(&rolling, &[&old, &new]));
        assert_eq!(scale(&rolling, &[&old, &new], Some(1)), [(0, 14), (1, 9)]);
        let down = deployment(5, json!(3), json!(2));
        assert_eq!(scale(&down, &[&old, &new], Some(1)), [(0, 5), (1, 3)]);
        assert_eq!(scale(&deployment(0, json!(3), json!(2)), &[&old, &new], Some(1)), [(0, 0), (1, 0)]);
        let idle = annotated(0, 10, 13, "1");
        assert_eq!(scale(&rolling, &[&idle, &new], Some(1)), [(1, 20)]);
        assert_eq!(scale(&rolling, &[&idle], None), [(0, 20)]);
    }

    /// Upstream's cases (`TestScale`); sets are given from new to old, and all of them were sized for `before`.
    #[test]
    fn scaling_is_upstreams() {
        // (what, (replicas before, surge), (replicas now, surge), whether the first set is the new one, sizes, want)
        type Case = (&'static str, (i64, i64), (i64, i64), bool, &'static [i64], &'static [i64]);
        let cases: [Case; 17] = [
            ("10 to 12", (10, 0), (12, 0), true, &[10], &[12]),
            ("10 to 5", (10, 0), (5, 0), true, &[10], &[5]),
            ("5 to 10", (5, 0), (10, 0), true, &[2, 3], &[4, 6]),
            ("5 to 3", (5, 0), (3, 0), true, &[2, 3], &[1, 2]),
            ("9 to 4", (9, 0), (4, 0), true, &[8, 1], &[4, 0]),
            ("7 to 10", (7, 0), (10, 0), true, &[2, 3, 2], &[3, 4, 3]),
            ("13 to 8", (13, 0), (8, 0), true, &[2, 8, 3], &[1, 5, 2]),
            ("what is left over, 3 to 4", (3, 0), (4, 0), true, &[1, 1, 1], &[2, 1, 1]),
            ("what is left over, 3 to 2", (3, 0), (2, 0), true, &[1, 1, 1], &[1, 1, 0]),
            ("no new set, 4 to 5", (4, 0), (5, 0), false, &[2, 2], &[3, 2]),
            ("6 to 0", (6, 0), (0, 0), true, &[3, 2, 1], &[0, 0, 0]),
            ("0 to 6", (6, 0), (6, 0), true, &[0, 0, 0], &[6, 0, 0]),
            ("no new set, 0 to 6", (6, 0), (6, 0), false, &[0, 0], &[6, 0]),
            ("with surge", (10, 2), (20, 2), true, &[6, 6], &[11, 11]),
            ("surge and size", (10, 3), (50, 6), true, &[5, 8], &[22, 34]),
            ("template and size", (10, 0), (14, 0), false, &[7, 3], &[10, 4]),
            ("complete, but nothing of it available", (2, 1), (2, 1), true, &[2, 1], &[2, 1]),
        ];
        for (what, before, now, has_new, sizes, want) in cases {
            let deployment = deployment(now.0, now.1, 0);
            let aged = |at: usize, size: i64| annotated(size, before.0, before.0 + before.1, &(9 - at).to_string());
            // As the controller has them: the old ones by age, then the new one.
            let sets: Vec<_> = sizes.iter().enumerate().rev().map(|(at, size)| aged(at, *size)).collect();
            let sets: Vec<_> = sets.iter().collect();
            let mut got: Vec<i64> = sets.iter().map(|set| size(set)).collect();
            for (at, size) in scale(&deployment, &sets, has_new.then(|| sets.len() - 1)) {
                got[at] = size;
            }
            got.reverse();
            assert_eq!(got, want, "{what}");
        }
    }

    #[test]
    fn templates_compare_without_the_hash() {
        let a = json!({"metadata": {"labels": {"a": "b"}, "creationTimestamp": null}, "spec": {"x": 1}});
        let b = json!({"metadata": {"labels": {"a": "b", "pod-template-hash": "1"}}, "spec": {"x": 1}});
        assert!(same_template(&a, &b));
        assert!(!same_template(&a, &json!({"metadata": {"labels": {"a": "b"}}, "spec": {"x": 2}})));
    }
}
