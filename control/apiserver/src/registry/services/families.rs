//! The IP families of a Service in a cluster of one family.

use apimachinery::field::{FieldError, Path};
use serde_json::{Value, json};

/// Fills in `ipFamilies` and `ipFamilyPolicy`, or says what of them the cluster cannot give.
pub(super) fn fill(spec: &mut Value, family: &str, invalid: &mut Vec<FieldError>) {
    let path = Path::new("spec");
    let headless = spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None";
    let selects = spec["selector"].as_object().is_some_and(|selector| !selector.is_empty());
    // Endpoints of a headless service without selector are the user's own: of any family.
    if headless && !selects {
        if spec["ipFamilyPolicy"].is_null() {
            let given = spec["ipFamilies"].as_array().map_or(0, Vec::len);
            spec["ipFamilyPolicy"] = if given == 1 { "SingleStack" } else { "RequireDualStack" }.into();
        }
        if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
            let other = if family == "IPv4" { "IPv6" } else { "IPv4" };
            let both = json!([family, other]);
            spec["ipFamilies"] = if spec["ipFamilyPolicy"] == "SingleStack" { json!([family]) } else { both };
        }
        return;
    }
    let policy = &spec["ipFamilyPolicy"];
    if policy.is_null() || policy == "SingleStack" {
        for field in ["clusterIPs", "ipFamilies"] {
            if spec[field].as_array().is_some_and(|list| list.len() > 1) {
                let detail = format!("must be RequireDualStack or PreferDualStack when multiple {field} are specified");
                invalid.push(FieldError::invalid(&path.child("ipFamilyPolicy"), policy.clone(), detail));
            }
        }
    }
    if policy == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        invalid.push(FieldError::invalid(&path.child("ipFamilyPolicy"), "RequireDualStack", detail));
    }
    // Families follow from addresses that came without them.
    if let Some(addresses) = spec["clusterIPs"].as_array().filter(|_| !headless) {
        let of = |address: &Value| if address.as_str().unwrap_or("").contains(':') { "IPv6" } else { "IPv4" };
        let mut families = spec["ipFamilies"].as_array().cloned().unwrap_or_default();
        families.extend(addresses.iter().skip(families.len()).map(|address| of(address).into()));
        spec["ipFamilies"] = families.into();
    }
    for (index, wanted) in spec["ipFamilies"].as_array().into_iter().flatten().enumerate() {
        if wanted != family {
            let detail = "not configured on this cluster";
            invalid.push(FieldError::invalid(&path.child("ipFamilies").index(index), wanted.clone(), detail));
        }
    }
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
    if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
        spec["ipFamilies"] = json!([family]);
    }
}
