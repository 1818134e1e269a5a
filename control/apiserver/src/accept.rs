//! The `Accept` header: what a client takes, best first.

use apimachinery::protobuf;

/// How objects are written in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// `application/json`.
    Json,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Encoding {
    /// The media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => protobuf::MEDIA_TYPE,
        }
    }

    /// The encoding of an object that has no other form: the one liked best, and JSON for who takes neither. (Failures are told so;
    /// who is refused for what they accept should be able to read why.)
    pub(crate) fn liked(accept: &str) -> Self {
        let plain = clauses(accept).into_iter().filter(|clause| clause.target().0.is_empty());
        plain.filter_map(|clause| clause.encoding()).next().unwrap_or(Self::Json)
    }
}

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
        self.encoding() == Some(Encoding::Json)
    }

    /// The encoding meant; JSON where there is a choice.
    pub(crate) fn encoding(&self) -> Option<Encoding> {
        let is = |media: &str| self.media.eq_ignore_ascii_case(media);
        match () {
            () if is("application/json") || is("application/*") || is("*/*") => Some(Encoding::Json),
            () if is(protobuf::MEDIA_TYPE) => Some(Encoding::Protobuf),
            () => None,
        }
    }

    /// Whether the stream asked for (`stream`) is one that there is: watches alone are streams.
    pub(crate) fn streams(&self) -> bool {
        self.parameter("stream").is_none_or(|stream| matches!(stream, "" | "watch"))
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// The kind, group and version that objects are to be turned into (`as`, `g`, `v`); empty where it does not say.
    pub(crate) fn target(&self) -> (&'a str, &'a str, &'a str) {
        let parameter = |name| self.parameter(name).unwrap_or_default();
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
