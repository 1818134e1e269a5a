//! Answers that the front gives itself.

use std::pin::Pin;
use std::task::{Context, Poll};

use apimachinery::protobuf;
use apimachinery::status::Status;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, RETRY_AFTER, WARNING};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::accept::Encoding;
use crate::request::{BoxError, ResponseBody};

/// A whole body.
pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of some type.
pub(crate) fn bytes(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Plain text.
pub(crate) fn text(code: StatusCode, body: impl Into<String>) -> Response<ResponseBody> {
    bytes(code, "text/plain; charset=utf-8", body.into())
}

/// A JSON document.
pub(crate) fn json(code: StatusCode, value: &Value) -> Response<ResponseBody> {
    bytes(code, "application/json", value.to_string())
}

/// An object. One that has no protobuf form (none that the API has) is written in JSON.
pub(crate) fn object(code: StatusCode, encoding: Encoding, object: &Value) -> Response<ResponseBody> {
    let encoded = match encoding {
        Encoding::Json => None,
        Encoding::Protobuf => protobuf::Kind::of_object(object).map(|kind| kind.value(object)),
    };
    match encoded {
        None => json(code, object),
        Some(Ok(encoded)) => bytes(code, encoding.media_type(), encoded),
        Some(Err(error)) => failure(&unwritable(&error), Encoding::Json),
    }
}

/// The failure to write an object in protobuf.
pub(crate) fn unwritable(error: &protobuf::EncodeError) -> Status {
    tracing::error!(%error, "an object cannot be written in protobuf");
    Status::internal("the object cannot be written in protobuf; ask for application/json")
}

/// A failed request.
pub(crate) fn failure(status: &Status, encoding: Encoding) -> Response<ResponseBody> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = object(code, encoding, &status.to_value());
    let retry = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if retry > 0 {
        response.headers_mut().insert(RETRY_AFTER, retry.into());
    }
    response
}

/// A document that seldom changes, with its tag: 304 where the client has it already.
pub(crate) fn cached(
    headers: &HeaderMap,
    content_type: &'static str,
    body: &Bytes,
    etag: &str,
) -> Response<ResponseBody> {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = known.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    let mut response = if tags.any(|tag| tag == etag || tag == "*") {
        let mut response = Response::new(full(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        bytes(StatusCode::OK, content_type, body.clone())
    };
    if let Ok(value) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().append(http::header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// The answer to HEAD: all that GET has, but the body, of which only the size is told. (hyper leaves a body out of HTTP/1.1
/// answers by itself, of HTTP/2 ones not.)
pub(crate) fn head_alone(response: Response<ResponseBody>) -> Response<ResponseBody> {
    response.map(|body| Unsent(body.size_hint()).boxed_unsync())
}

struct Unsent(SizeHint);

impl Body for Unsent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        self.0
    }
}

/// How many warnings are said: Python's clients take 100 headers in all.
const WARNINGS: usize = 64;
/// Characters that they may have together, and each of them where they have more, as upstream: there are clients that take
/// 16 KB of headers.
const CHARACTERS: usize = 4096;
const SHORTENED: usize = 256;

/// Says warnings in an answer's headers.
pub(crate) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let all: usize = warnings.iter().map(|warning| warning.chars().count()).sum();
    let most = if all > CHARACTERS { SHORTENED } else { CHARACTERS };
    let mut left = CHARACTERS;
    for warning in warnings.iter().take(WARNINGS) {
        let text: String = warning.chars().take(most).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace(char::is_control, " ");
        // Bytes, for what is not ASCII.
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append(WARNING, value);
        }
        left = left.saturating_sub(text.chars().count());
        if left == 0 {
            return;
        }
    }
}

/// A strong entity tag of some bytes.
pub(crate) fn etag(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02X}")).collect();
    format!("\"{hex}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_bounded() {
        let said = |warnings: &[String]| {
            let mut headers = HeaderMap::new();
            warn(&mut headers, warnings);
            headers.get_all(WARNING).iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(
            said(&["unknown field \"größe\\\"\n".to_owned()]),
            ["299 - \"unknown field \\\"größe\\\\\\\" \"".as_bytes()]
        );
        assert_eq!(said(&vec!["x".to_owned(); 100]).len(), WARNINGS);
        assert_eq!(said(&["x".repeat(CHARACTERS)])[0].len(), CHARACTERS + "299 - \"\"".len());
        let many = said(&vec!["é".repeat(1000); 100]);
        assert_eq!(many.len(), CHARACTERS / SHORTENED);
        assert!(many.iter().all(|one| one.len() == 2 * SHORTENED + "299 - \"\"".len()));
    }
}
