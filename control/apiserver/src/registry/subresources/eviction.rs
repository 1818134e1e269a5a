//! `pods/eviction`: a deletion that disruption budgets may refuse.

use apimachinery::resources::Subresource;
use apimachinery::selector::LabelSelector;
use apimachinery::status::Status;
use apimachinery::{disruption, meta, time};
use http::Response;
use serde_json::{Value, json};

use super::{decode, success};
use crate::auth::{MASTERS, User};
use crate::registry::options::{DeleteOptions, WriteOptions};
use crate::registry::write::{Part, Writer};
use crate::registry::{Call, convert};
use crate::request::{ResponseBody, Warnings};

/// How often a pod that has not started is looked at again when someone else wrote meanwhile.
const ATTEMPTS: usize = 20;
/// More evictions than this that the controller has not seen yet are too many.
const MOST_UNDER_WAY: usize = 2000;
const GROUP: &str = "policy";
const BUDGETS: &str = "poddisruptionbudgets";
const WOULD_VIOLATE: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CAUSE: &str = "DisruptionBudget";

/// What a pod's budgets say to its eviction.
enum Verdict {
    /// They need not be asked: the pod has ended, never ran, or is going.
    NotAsked,
    /// There are none, or they have given what they had.
    Allowed,
    /// The pod does not count, as long as it is as it is now.
    NotCounted { budget: String },
}

pub(super) async fn create(
    call: &Call<'_>,
    subresource: &Subresource,
    body: &[u8],
) -> Result<Response<ResponseBody>, Status> {
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let eviction = decode(call, subresource, options, body)?;
    call.check_name(&eviction)?;
    let mut deletion = DeleteOptions::parse(call.query, Some(&eviction["deleteOptions"]))?;
    deletion.dry_run |= options.dry_run;
    evict(&call.writer(deletion.dry_run)?, call.name, &deletion).await.map(|()| success(call))
}

async fn evict(pods: &Writer<'_>, name: &str, asked: &DeleteOptions) -> Result<(), Status> {
    // Whoever names a version means that one.
    let any_version = asked.resource_version.is_none();
    for attempt in 1.. {
        let cache = pods.storage.fresh_cache().await?;
        let entry = cache.get(&pods.storage.key(pods.namespace, name)).ok_or_else(|| pods.storage.not_found(name))?;
        let pod = convert::parse(&entry.bytes)?;
        pods.check_preconditions(name, &pod, asked)?;
        let mut options = asked.clone();
        let this_version = || Some(meta::resource_version(&pod).to_owned());
        match ask(pods, &pod, options.dry_run).await? {
            Verdict::NotAsked => {
                if !is_over(&pod) && any_version {
                    options.resource_version = this_version();
                }
                match delete(pods, name, options).await {
                    Err(status) if status.code == 409 && any_version && attempt < ATTEMPTS => {}
                    done => return done,
                }
            }
            Verdict::Allowed => return delete(pods, name, options).await,
            Verdict::NotCounted { budget } => {
                options.resource_version = options.resource_version.or_else(this_version);
                return match delete(pods, name, options).await {
                    Err(status) if status.code == 409 && any_version => Err(still_processed(&budget)),
                    done => done,
                };
            }
        }
    }
    Ok(())
}

/// Marks the pod, so that its controller knows why it ends, and deletes it.
async fn delete(pods: &Writer<'_>, name: &str, mut options: DeleteOptions) -> Result<(), Status> {
    if !options.dry_run {
        let expected = options.resource_version.as_deref();
        let marked = pods.update(name, Part::Status, false, &mut |old| Ok(mark(old, expected))).await?;
        if options.resource_version.is_some() {
            options.resource_version = Some(meta::resource_version(&convert::parse(&marked.bytes)?).to_owned());
        }
    }
    pods.delete(name, &options).await.map(drop)
}

/// The pod with the condition that says that it is being evicted.
fn mark(old: &Value, expected: Option<&str>) -> Value {
    let mut new = old.clone();
    if let Some(version) = expected {
        meta::set_text(&mut new, "resourceVersion", version);
    }
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": time::now_rfc3339(),
        "observedGeneration": meta::generation(old)});
    meta::set_condition(&mut new["status"], condition);
    new
}

fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or("")
}

/// Ended, or on its way out.
fn is_over(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed") || meta::deletion_timestamp(pod).is_some()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Asks the pod's budget, which counts the eviction if it allows it.
async fn ask(pods: &Writer<'_>, pod: &Value, dry_run: bool) -> Result<Verdict, Status> {
    if is_over(pod) || phase(pod) == "Pending" {
        return Ok(Verdict::NotAsked);
    }
    let budgets = pods.registry.stored(GROUP, BUDGETS)?.storage()?;
    let mut found = Vec::new();
    for entry in budgets.fresh_cache().await?.snapshot().range(&budgets.range(pods.namespace), None) {
        let budget = convert::parse(&entry.bytes)?;
        // A selector that cannot be read selects nothing.
        let selector = LabelSelector::from_object(&budget["spec"]["selector"]);
        if selector.is_ok_and(|selector| selector.matches(|key| meta::label(pod, key))) {
            found.push(budget);
        }
    }
    let budget = match &found[..] {
        [] => return Ok(Verdict::Allowed),
        [budget] => budget,
        _ => {
            return Err(Status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let name = meta::name(budget);
    if !is_ready(pod) && ignores_unready(budget) {
        return Ok(Verdict::NotCounted { budget: name.to_owned() });
    }
    let (user, warnings) = (User::new("system:apiserver", &[MASTERS]), Warnings::default());
    let mut writer = pods.registry.writer(GROUP, BUDGETS, pods.namespace, &user, &warnings)?;
    writer.dry_run = dry_run;
    writer.update(name, Part::Status, false, &mut |budget| spend(budget, meta::name(pod))).await?;
    Ok(Verdict::Allowed)
}

/// Whether a pod that is not ready may go without being counted.
fn ignores_unready(budget: &Value) -> bool {
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (healthy, wanted) = (count("currentHealthy"), count("desiredHealthy"));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (wanted > 0 && healthy >= wanted)
}

/// The budget with one disruption less.
fn spend(budget: &Value, pod: &str) -> Result<Value, Status> {
    let (name, status) = (meta::name(budget), &budget["status"]);
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    if count("observedGeneration") < meta::generation(budget) {
        return Err(still_processed(name));
    }
    let allowed = count("disruptionsAllowed");
    if allowed < 0 {
        return Err(Status::forbidden(GROUP, "poddisruptionbudget", name, "pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MOST_UNDER_WAY) {
        let detail = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(GROUP, "poddisruptionbudget", name, detail));
    }
    if allowed == 0 {
        let condition = disruption::allowed_condition(status);
        let why = match condition.filter(|condition| condition["reason"] == disruption::SYNC_FAILED) {
            Some(failed) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
                failed["message"].as_str().unwrap_or("")
            ),
            None => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                count("desiredHealthy"),
                count("currentHealthy")
            ),
        };
        return Err(Status::too_many_requests(WOULD_VIOLATE, 0).with_cause(CAUSE, why, ""));
    }
    let now = time::now_rfc3339();
    let mut new = budget.clone();
    let status = &mut new["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    if allowed == 1 {
        disruption::set_allowed_condition(status, &now);
    }
    // The controller must not count the pod, whose deletion it has yet to see.
    status["disruptedPods"][pod] = now.into();
    Ok(new)
}

fn still_processed(budget: &str) -> Status {
    let why = format!("The disruption budget {budget} is still being processed by the server.");
    Status::too_many_requests(WOULD_VIOLATE, 10).with_cause(CAUSE, why, "")
}
