//! The variables that tell containers of Services, as Docker links once did.

use informer::kinds::Service;

use super::Env;

/// Variables for a pod in `namespace`: the API's Service always, the namespace's own with `links`.
pub(crate) fn service_env<'a>(services: impl Iterator<Item = &'a Service>, namespace: &str, links: bool) -> Env {
    let mut env = Env::new();
    for service in services {
        let meta = &service.metadata;
        let is_api = meta.namespace == "default" && meta.name == "kubernetes";
        let shadowed =
            is_api && links && namespace != "default" && env.iter().any(|(k, _)| k == "KUBERNETES_SERVICE_HOST");
        if (is_api && !shadowed) || (links && meta.namespace == namespace) {
            one(service, &mut env);
        }
    }
    env
}

fn one(service: &Service, env: &mut Env) {
    let ip = service.spec.cluster_ip.as_str();
    if ip.is_empty() || ip == "None" {
        return;
    }
    let Some(first) = service.spec.ports.first() else { return };
    let name = upper(&service.metadata.name);
    let mut set = |key: String, value: String| env.push((key, value));
    set(format!("{name}_SERVICE_HOST"), ip.to_owned());
    set(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in &service.spec.ports {
        if !port.name.is_empty() {
            set(format!("{name}_SERVICE_PORT_{}", upper(&port.name)), port.port.to_string());
        }
    }
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in service.spec.ports.iter().enumerate() {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let scheme = protocol.to_lowercase();
        let url = format!("{scheme}://{host}:{}", port.port);
        if index == 0 {
            set(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        set(prefix.clone(), url);
        set(format!("{prefix}_PROTO"), scheme);
        set(format!("{prefix}_PORT"), port.port.to_string());
        set(format!("{prefix}_ADDR"), ip.to_owned());
    }
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str, ip: &str) -> Service {
        let text = format!(
            r#"{{"metadata":{{"namespace":"{namespace}","name":"{name}"}},
            "spec":{{"clusterIP":"{ip}","ports":[{{"name":"http-web","port":80,"protocol":"TCP"}}]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn which_services_and_which_names() {
        let all = [
            service("default", "kubernetes", "10.96.0.1"),
            service("a", "my-svc", "10.96.0.7"),
            service("a", "headless", "None"),
            service("b", "other", "10.96.0.8"),
        ];
        let env = service_env(all.iter(), "a", true);
        let get = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        assert_eq!(get("KUBERNETES_SERVICE_HOST"), Some("10.96.0.1"));
        assert_eq!(get("MY_SVC_SERVICE_PORT_HTTP_WEB"), Some("80"));
        assert_eq!(get("MY_SVC_PORT"), Some("tcp://10.96.0.7:80"));
        assert_eq!(get("MY_SVC_PORT_80_TCP_ADDR"), Some("10.96.0.7"));
        assert_eq!(get("OTHER_SERVICE_HOST"), None);
        assert_eq!(get("HEADLESS_SERVICE_HOST"), None);
        let plain = service_env(all.iter(), "a", false);
        assert!(plain.iter().all(|(k, _)| k.starts_with("KUBERNETES_")) && !plain.is_empty());
    }
}
