//! Environment of a container: envFrom, services, and variables from values, fields, ConfigMaps and Secrets.

mod expand;
mod file;
mod services;

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

pub(crate) use expand::expand;
pub(crate) use services::service_env;

use crate::downward::{self, LiveFacts};
use crate::objects::PodObjects;
use crate::pod;
use crate::volumes::VolumePaths;

/// Name and value, in the order they are set.
pub(crate) type Env = Vec<(String, String)>;

/// Builds the environment. The error is what status shows under CreateContainerConfigError.
pub(crate) async fn build(
    pod: &Pod,
    container: &Container,
    facts: &LiveFacts,
    objects: &PodObjects,
    volumes: &VolumePaths,
    services: &Env,
) -> Result<Env, String> {
    let mut result = Env::new();
    let mut known: HashMap<String, String> = HashMap::new();
    let set = |result: &mut Env, known: &mut HashMap<String, String>, name: &str, value: String| {
        known.insert(name.to_owned(), value.clone());
        match result.iter_mut().find(|(n, _)| n == name) {
            Some(entry) => entry.1 = value,
            None => result.push((name.to_owned(), value)),
        }
    };
    for (name, value) in from_objects(pod, container, objects).await? {
        set(&mut result, &mut known, &name, value);
    }
    let service_map: HashMap<&str, &str> = services.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    for variable in pod::list(&container.env) {
        let value = match &variable.value_from {
            None => {
                let lookup = |name: &str| {
                    known.get(name).cloned().or_else(|| service_map.get(name).map(|value| (*value).to_owned()))
                };
                Some(expand(variable.value.as_deref().unwrap_or_default(), lookup))
            }
            Some(_) => from_source(pod, container, facts, objects, volumes, variable).await?,
        };
        if let Some(value) = value {
            set(&mut result, &mut known, &variable.name, value);
        }
    }
    for (name, value) in services {
        if !known.contains_key(name) {
            result.push((name.clone(), value.clone()));
        }
    }
    Ok(result)
}

async fn from_objects(pod: &Pod, container: &Container, objects: &PodObjects) -> Result<Env, String> {
    let mut result = Env::new();
    for source in pod::list(&container.env_from) {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (data, missing) = if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            let data = objects.config_map_text(&reference.name).await;
            (data, (!optional).then(|| format!("configmap {:?} not found", reference.name)))
        } else if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            let data = objects.secret(&reference.name).await;
            (data, (!optional).then(|| format!("secret {:?} not found", reference.name)))
        } else {
            continue;
        };
        match (data, missing) {
            (None, Some(message)) => return Err(message),
            (None, None) => {}
            (Some(data), _) => {
                for (key, value) in data {
                    let name = format!("{prefix}{key}");
                    if name.is_empty() || name.contains(['=', '\0']) {
                        tracing::warn!(pod = %pod::PodId::of(pod), name, "not a name for an environment variable, skipped");
                        continue;
                    }
                    result.push((name, String::from_utf8_lossy(&value).into_owned()));
                }
            }
        }
    }
    Ok(result)
}

/// The value of a variable with `valueFrom`; `None` when an optional source lacks it.
async fn from_source(
    pod: &Pod,
    container: &Container,
    facts: &LiveFacts,
    objects: &PodObjects,
    volumes: &VolumePaths,
    variable: &EnvVar,
) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else { return Ok(None) };
    if let Some(reference) = &source.field_ref {
        return downward::field(pod, facts, &reference.field_path).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return downward::resource(pod, facts, &container.name, selector).map(Some);
    }
    if let Some(reference) = &source.file_key_ref {
        return file::value(volumes, reference);
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (kind, data, name, key, optional) = if let Some(reference) = &source.config_map_key_ref {
        (
            "ConfigMap",
            objects.config_map_text(&reference.name).await,
            &reference.name,
            &reference.key,
            reference.optional,
        )
    } else if let Some(reference) = &source.secret_key_ref {
        ("Secret", objects.secret(&reference.name).await, &reference.name, &reference.key, reference.optional)
    } else {
        return Err(format!("environment variable {}: this kind of valueFrom is not supported yet", variable.name));
    };
    let optional = optional.unwrap_or(false);
    match data {
        None if optional => Ok(None),
        None => Err(format!("{} {name:?} not found", kind.to_lowercase())),
        Some(mut data) => match data.remove(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMapKeySelector, EnvVarSource, ObjectFieldSelector, PodSpec};

    use super::*;

    fn variable(name: &str, value: &str) -> EnvVar {
        EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
    }

    fn pod(env: Vec<EnvVar>) -> Pod {
        let container = Container { name: "c".into(), env: Some(env), ..Container::default() };
        let mut pod =
            Pod { spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), ..Pod::default() };
        pod.metadata.name = Some("p".into());
        pod.metadata.namespace = Some("ns".into());
        pod
    }

    async fn built(env: Vec<EnvVar>) -> Result<Env, String> {
        let pod = pod(env);
        let services = vec![("SVC_HOST".to_owned(), "10.0.0.1".to_owned()), ("A".to_owned(), "svc".to_owned())];
        let objects = PodObjects::new(None, "ns");
        build(&pod, &pod::containers(&pod)[0], &LiveFacts::default(), &objects, &VolumePaths::new(), &services).await
    }

    #[tokio::test]
    async fn later_values_see_earlier_ones_and_services() {
        let source = EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: "metadata.name".into(), api_version: None }),
            ..EnvVarSource::default()
        };
        let env = built(vec![
            EnvVar { name: "NAME".into(), value: None, value_from: Some(source) },
            variable("A", "$(NAME)-$(SVC_HOST)-$(LATER)"),
            variable("LATER", "x"),
        ])
        .await
        .unwrap();
        let expected = [("NAME", "p"), ("A", "p-10.0.0.1-$(LATER)"), ("LATER", "x"), ("SVC_HOST", "10.0.0.1")];
        let expected: Env = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(env, expected);
    }

    #[tokio::test]
    async fn missing_config_map() {
        for (optional, expected) in [(false, Err("configmap \"cm\" not found".to_owned())), (true, Ok(2))] {
            let reference = ConfigMapKeySelector { name: "cm".into(), key: "k".into(), optional: Some(optional) };
            let source = EnvVarSource { config_map_key_ref: Some(reference), ..EnvVarSource::default() };
            let got = built(vec![EnvVar { name: "V".into(), value: None, value_from: Some(source) }]).await;
            assert_eq!(got.map(|env| env.len()), expected, "optional: {optional}");
        }
    }
}
