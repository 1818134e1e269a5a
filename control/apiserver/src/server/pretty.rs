//! JSON with line breaks, for people: where `?pretty=true` asks for it, and for curl, Wget and browsers, as upstream.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;

use crate::request::{Query, ResponseBody};

/// What a person uses.
const PEOPLES: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// Whether a person asks.
pub(super) fn wanted(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(said) = query.get("pretty").filter(|said| !said.is_empty()) {
        return matches!(said, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    PEOPLES.iter().any(|program| agent.starts_with(program))
}

/// Breaks an answer's lines, if it is JSON.
pub(super) fn print(response: Response<ResponseBody>) -> Response<ResponseBody> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/json") {
        return response;
    }
    let mut printer = Printer::default();
    response.map(|body| body.map_frame(move |frame| frame.map_data(|data| printer.print(&data))).boxed_unsync())
}

/// Where in a document the printer is.
#[derive(Default)]
struct Printer {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// A brace or bracket was the last to be printed: what is empty stays on its line.
    opened: bool,
}

impl Printer {
    /// The next piece of a document, which may end anywhere.
    fn print(&mut self, piece: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(piece.len() * 2);
        for &byte in piece {
            if self.in_string {
                out.put_u8(byte);
                self.in_string = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                continue;
            }
            let closes = matches!(byte, b'}' | b']');
            if byte.is_ascii_whitespace() {
                continue;
            }
            if closes {
                self.depth = self.depth.saturating_sub(1);
            }
            if self.opened != closes {
                self.new_line(&mut out);
            }
            self.opened = matches!(byte, b'{' | b'[');
            out.put_u8(byte);
            match byte {
                b'{' | b'[' => self.depth += 1,
                b'"' => self.in_string = true,
                b':' => out.put_u8(b' '),
                b',' => self.new_line(&mut out),
                _ => {}
            }
        }
        out.freeze()
    }

    fn new_line(&self, out: &mut BytesMut) {
        out.put_u8(b'\n');
        out.put_bytes(b' ', self.depth * 2);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// As serde's, wherever the pieces end.
    #[test]
    fn lines_are_broken() {
        for value in [
            json!({}),
            json!([]),
            json!("a"),
            json!([1, [], {}, [{}], null, -1.5e3, true]),
            json!({"a": {"b": [1, 2], "c": "x\"}],\\"}, "d\n{": "é", "e": [[], [[]]]}),
        ] {
            // A value's text has its keys in the order in which the pretty one has them.
            let (plain, expected) = (value.to_string(), format!("{value:#}"));
            for size in [1, 3, plain.len()] {
                let mut printer = Printer::default();
                let pieces: Vec<u8> = plain.as_bytes().chunks(size).flat_map(|piece| printer.print(piece)).collect();
                assert_eq!(String::from_utf8(pieces).unwrap(), expected, "in pieces of {size}");
            }
        }
        let mut printer = Printer::default();
        let spaced = printer.print(b" { \"a\" : [ 1 , { } ] }\n");
        assert_eq!(spaced, format!("{:#}", serde_json::from_str::<Value>(r#"{"a":[1,{}]}"#).unwrap()).as_bytes());
    }

    #[test]
    fn people_get_lines() {
        for (agent, query, expected) in [
            ("curl/8.5.0", "", true),
            ("Mozilla/5.0 (X11; Linux x86_64)", "", true),
            ("curl/8.5.0", "pretty=false", false),
            ("kubectl/v1.36.0", "", false),
            ("kubectl/v1.36.0", "pretty=true", true),
            ("kubectl/v1.36.0", "pretty=", false),
            ("", "pretty=1", true),
        ] {
            let headers = HeaderMap::from_iter([(USER_AGENT, agent.parse().unwrap())]);
            assert_eq!(wanted(&headers, &Query::parse(query)), expected, "{agent} {query}");
        }
    }
}
