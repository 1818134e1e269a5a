//! The `Accept` header: what a client takes, best first.

/// A media range with its parameters.
pub(crate) struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (mut parameters, mut quality) = (Vec::new(), 1.0);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match (key.trim(), value.trim()) {
                ("q", value) => quality = value.parse().unwrap_or(1.0),
                parameter => parameters.push(parameter),
            }
        }
        Self { media, parameters, quality }
    }

    /// Whether JSON is meant, alone or among others.
    pub(crate) fn takes_json(&self) -> bool {
        ["application/json", "application/*", "*/*"].iter().any(|media| self.media.eq_ignore_ascii_case(media))
    }

    /// The kind, group and version that objects are to be turned into (`as`, `g`, `v`); empty where it does not say.
    pub(crate) fn target(&self) -> (&'a str, &'a str, &'a str) {
        let parameter = |name| self.parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| *value);
        (parameter("as"), parameter("g"), parameter("v"))
    }
}

/// The clauses of a header, without those that it refuses: by quality, and of the same quality as they stand.
pub(crate) fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let all = accept.split(',').map(str::trim).filter(|clause| !clause.is_empty()).map(Clause::parse);
    let mut clauses: Vec<Clause<'_>> = all.filter(|clause| clause.quality > 0.0).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_comes_first() {
        for (accept, expected) in [
            ("", vec![]),
            ("a/b, c/d", vec!["a/b", "c/d"]),
            ("a/b;q=0.1, c/d;q=0.9,e/f", vec!["e/f", "c/d", "a/b"]),
            ("a/b;q=0, c/d;q=x, e/f;v=1; q=0.5,", vec!["c/d", "e/f"]),
        ] {
            assert_eq!(clauses(accept).iter().map(|clause| clause.media).collect::<Vec<_>>(), expected, "{accept}");
        }
        let all = clauses("Application/JSON; as=Table;g=meta.k8s.io;v=v1;charset=utf-8");
        assert!(all[0].takes_json());
        assert_eq!(all[0].target(), ("Table", "meta.k8s.io", "v1"));
    }
}
