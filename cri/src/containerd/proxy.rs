//! Proxies for image pulls: the environment's, with the cluster's own addresses excepted.

/// What containerd gets in its environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyEnv {
    /// HTTP_PROXY.
    pub http: Option<String>,
    /// HTTPS_PROXY.
    pub https: Option<String>,
    /// Entries of NO_PROXY.
    pub no_proxy: Vec<String>,
}

impl ProxyEnv {
    /// Reads HTTP_PROXY, HTTPS_PROXY and NO_PROXY (either case) and excepts `cluster`: ranges, node address, domain.
    pub fn from_env(cluster: &[String]) -> Self {
        Self::from(|name| std::env::var(name).ok(), cluster)
    }

    fn from(var: impl Fn(&str) -> Option<String>, cluster: &[String]) -> Self {
        let either = |upper: &str| {
            var(upper)
                .or_else(|| var(&upper.to_ascii_lowercase()))
                .map(|v| v.trim().to_owned())
                .filter(|v| !v.is_empty())
        };
        let (http, https) = (either("HTTP_PROXY"), either("HTTPS_PROXY"));
        if http.is_none() && https.is_none() {
            return ProxyEnv::default();
        }
        let given = either("NO_PROXY").unwrap_or_default();
        let mut no_proxy: Vec<String> = Vec::new();
        let always = ["localhost", "127.0.0.0/8", "::1", ".svc"].map(str::to_owned);
        for entry in given.split(',').map(|e| e.trim().to_owned()).chain(always).chain(cluster.iter().cloned()) {
            if !entry.is_empty() && !no_proxy.contains(&entry) {
                no_proxy.push(entry);
            }
        }
        ProxyEnv { http, https, no_proxy }
    }

    /// The variables to set.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        if let Some(http) = &self.http {
            out.push(("HTTP_PROXY", http.clone()));
        }
        if let Some(https) = &self.https {
            out.push(("HTTPS_PROXY", https.clone()));
        }
        if !out.is_empty() {
            out.push(("NO_PROXY", self.no_proxy.join(",")));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ranges_are_excepted() {
        let cluster = ["10.96.0.0/16".to_owned()];
        let env = |pairs: &'static [(&'static str, &'static str)]| {
            ProxyEnv::from(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()), &cluster)
        };
        assert_eq!(env(&[("NO_PROXY", "x")]).variables(), []);
        assert_eq!(env(&[("HTTP_PROXY", " ")]).variables(), []);
        let got = env(&[("https_proxy", "http://p:3128"), ("NO_PROXY", "a.example, localhost")]).variables();
        assert_eq!(got[0], ("HTTPS_PROXY", "http://p:3128".to_owned()));
        assert_eq!(got[1], ("NO_PROXY", "a.example,localhost,127.0.0.0/8,::1,.svc,10.96.0.0/16".to_owned()));
    }
}
