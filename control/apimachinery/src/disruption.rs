//! What a PodDisruptionBudget's status says of itself. The controller that counts and the evictions that spend both write it.

use serde_json::{Value, json};

use crate::meta;

/// The condition that says whether a pod may be disrupted.
pub const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";
/// The condition's reason where the number could not be computed.
pub const SYNC_FAILED: &str = "SyncFailed";

/// Makes the condition say what `disruptionsAllowed` does.
pub fn set_allowed_condition(status: &mut Value, now: &str) {
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0) > 0;
    let (value, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_condition(status, value, reason, "", now);
}

/// Makes the condition say that nothing is allowed because the controller could not count.
pub fn set_failed_condition(status: &mut Value, message: &str, now: &str) {
    set_condition(status, "False", SYNC_FAILED, message, now);
}

/// The condition.
pub fn allowed_condition(status: &Value) -> Option<&Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == DISRUPTION_ALLOWED)
}

fn set_condition(status: &mut Value, value: &str, reason: &str, message: &str, now: &str) {
    let mut condition = json!({"type": DISRUPTION_ALLOWED, "status": value, "reason": reason, "message": message,
        "lastTransitionTime": now});
    if let Some(generation) = status.get("observedGeneration") {
        condition["observedGeneration"] = generation.clone();
    }
    meta::set_condition(status, condition);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_follows_the_number() {
        let mut status = json!({"disruptionsAllowed": 1, "observedGeneration": 2, "conditions": [{"type": "Other"}]});
        set_allowed_condition(&mut status, "t1");
        set_allowed_condition(&mut status, "t2");
        assert_eq!(
            status["conditions"][1],
            json!({"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "message": "",
                   "lastTransitionTime": "t1", "observedGeneration": 2})
        );
        status["disruptionsAllowed"] = 0.into();
        set_allowed_condition(&mut status, "t3");
        let condition = allowed_condition(&status).unwrap();
        assert_eq!(
            (&condition["reason"], &condition["lastTransitionTime"]),
            (&json!("InsufficientPods"), &json!("t3"))
        );
        set_failed_condition(&mut status, "why", "t4");
        let condition = allowed_condition(&status).unwrap();
        assert_eq!((&condition["reason"], &condition["lastTransitionTime"]), (&json!(SYNC_FAILED), &json!("t3")));
        assert_eq!(status["conditions"].as_array().unwrap().len(), 2);
    }
}
