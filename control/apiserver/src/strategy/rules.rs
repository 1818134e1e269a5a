//! How the API server itself is told to behave: webhooks, admission policies, priority and fairness.

use std::sync::LazyLock;

use apimachinery::field::{FieldError, Path};
use serde_json::Value;

use super::plain::{Plain, defaults, no_rules};
use super::tools::{empty, indexed, int, one_of, some, text};

/// The strategy of ValidatingWebhookConfigurations.
pub(super) static VALIDATING_WEBHOOKS: Plain =
    Plain { defaults: LazyLock::new(|| defaults(&WEBHOOK)), immutable: &[], validate: webhooks };

/// The strategy of MutatingWebhookConfigurations.
pub(super) static MUTATING_WEBHOOKS: Plain = Plain {
    defaults: LazyLock::new(|| {
        let mut all = defaults(&WEBHOOK);
        all.extend(defaults(&[("webhooks[].reinvocationPolicy", "\"Never\"")]));
        all
    }),
    immutable: &[],
    validate: webhooks,
};

const WEBHOOK: [(&str, &str); 7] = [
    ("webhooks[].failurePolicy", "\"Fail\""),
    ("webhooks[].matchPolicy", "\"Equivalent\""),
    ("webhooks[].namespaceSelector", "{}"),
    ("webhooks[].objectSelector", "{}"),
    ("webhooks[].timeoutSeconds", "10"),
    ("webhooks[].rules[].scope", "\"*\""),
    ("webhooks[].clientConfig.service.port", "443"),
];

fn webhooks(configuration: &Value, problems: &mut Vec<FieldError>) {
    for (path, hook) in indexed(configuration, "webhooks", &Path::root()) {
        let name = text(hook, "name");
        if name.split('.').filter(|part| !part.is_empty()).count() < 3 {
            let detail = "should be a domain with at least three segments separated by dots";
            problems.push(FieldError::invalid(&path.child("name"), name, detail));
        }
        if empty(hook, "admissionReviewVersions") {
            let detail = "must specify one of v1, v1beta1";
            problems.push(FieldError::required(&path.child("admissionReviewVersions"), detail));
        }
        one_of(&path.child("sideEffects"), text(hook, "sideEffects"), &["None", "NoneOnDryRun"], true, problems);
        one_of(&path.child("failurePolicy"), text(hook, "failurePolicy"), &["Fail", "Ignore"], true, problems);
        one_of(&path.child("matchPolicy"), text(hook, "matchPolicy"), &["Equivalent", "Exact"], true, problems);
        if let Some(seconds) = int(hook, "timeoutSeconds")
            && !(1..=30).contains(&seconds)
        {
            let detail = "the timeout value must be between 1 and 30 seconds";
            problems.push(FieldError::invalid(&path.child("timeoutSeconds"), seconds, detail));
        }
        let client = &hook["clientConfig"];
        if some(client, "url").is_some() == some(client, "service").is_some() {
            let detail = "exactly one of url or service is required";
            problems.push(FieldError::required(&path.child("clientConfig"), detail));
        }
    }
}

/// The strategy of ValidatingAdmissionPolicies and MutatingAdmissionPolicies.
pub(super) static POLICY: Plain = Plain {
    defaults: LazyLock::new(|| {
        defaults(&[
            ("spec.failurePolicy", "\"Fail\""),
            ("spec.matchConstraints.matchPolicy", "\"Equivalent\""),
            ("spec.matchConstraints.namespaceSelector", "{}"),
            ("spec.matchConstraints.objectSelector", "{}"),
            ("spec.matchConstraints.resourceRules[].scope", "\"*\""),
            ("spec.matchConstraints.excludeResourceRules[].scope", "\"*\""),
        ])
    }),
    immutable: &[],
    validate: no_rules,
};

/// The strategy of their bindings.
pub(super) static POLICY_BINDING: Plain = Plain {
    defaults: LazyLock::new(|| {
        defaults(&[
            ("spec.matchResources.matchPolicy", "\"Equivalent\""),
            ("spec.matchResources.namespaceSelector", "{}"),
            ("spec.matchResources.objectSelector", "{}"),
            ("spec.matchResources.resourceRules[].scope", "\"*\""),
            ("spec.matchResources.excludeResourceRules[].scope", "\"*\""),
        ])
    }),
    immutable: &[],
    validate: no_rules,
};

/// The strategy of FlowSchemas.
pub(super) static FLOW: Plain = Plain {
    defaults: LazyLock::new(|| defaults(&[("spec.matchingPrecedence", "1000")])),
    immutable: &[],
    validate: |schema, problems| {
        let path = Path::new("spec");
        let precedence = int(&schema["spec"], "matchingPrecedence").unwrap_or(0);
        if !(1..=10_000).contains(&precedence) {
            let detail = "must be a value between 1 and 10000";
            problems.push(FieldError::invalid(&path.child("matchingPrecedence"), precedence, detail));
        }
        if empty(&schema["spec"]["priorityLevelConfiguration"], "name") {
            let at = path.child("priorityLevelConfiguration").child("name");
            problems.push(FieldError::required(&at, "must reference a priority level"));
        }
    },
};

/// The strategy of PriorityLevelConfigurations.
pub(super) static LEVEL: Plain = Plain {
    defaults: LazyLock::new(|| {
        defaults(&[
            ("spec.exempt.nominalConcurrencyShares", "0"),
            ("spec.exempt.lendablePercent", "0"),
            ("spec.limited.nominalConcurrencyShares", "30"),
            ("spec.limited.lendablePercent", "0"),
            ("spec.limited.limitResponse.queuing.queues", "64"),
            ("spec.limited.limitResponse.queuing.handSize", "8"),
            ("spec.limited.limitResponse.queuing.queueLengthLimit", "50"),
        ])
    }),
    immutable: &[],
    validate: |level, problems| {
        let (path, spec) = (Path::new("spec"), &level["spec"]);
        one_of(&path.child("type"), text(spec, "type"), &["Exempt", "Limited"], true, problems);
        if text(spec, "type") == "Limited" && some(spec, "limited").is_none() {
            problems.push(FieldError::required(&path.child("limited"), "must not be empty when type is Limited"));
        }
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Strategy;
    use serde_json::json;

    #[test]
    fn every_table_parses() {
        for plain in [&VALIDATING_WEBHOOKS, &MUTATING_WEBHOOKS, &POLICY, &POLICY_BINDING, &FLOW, &LEVEL] {
            assert!(!plain.defaults.is_empty());
        }
    }

    #[test]
    fn webhooks_are_checked() {
        let mut object = json!({"webhooks": [{"name": "a.b", "clientConfig": {"url": "https://x", "service": {}}, "timeoutSeconds": 31}]});
        MUTATING_WEBHOOKS.defaults(&mut object);
        assert_eq!(object["webhooks"][0]["clientConfig"]["service"]["port"], 443);
        let said: Vec<_> = MUTATING_WEBHOOKS.validate(&object).into_iter().map(|problem| problem.path).collect();
        assert_eq!(
            said,
            [
                "webhooks[0].name",
                "webhooks[0].admissionReviewVersions",
                "webhooks[0].sideEffects",
                "webhooks[0].timeoutSeconds",
                "webhooks[0].clientConfig"
            ]
        );
    }
}
