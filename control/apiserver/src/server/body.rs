//! Request bodies: bounded in size and in time.

use std::time::Duration;

use apimachinery::status::Status;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

use crate::request::{BoxError, MAX_BODY};

/// The body of a request, wherever it comes from.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Boxes a body.
pub(crate) fn boxed<B>(body: B) -> RequestBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Reads a whole body. One that is too large is refused before it is taken in, one that stalls is given up.
pub(crate) async fn read(headers: &HeaderMap, mut body: RequestBody, stall: Duration) -> Result<Bytes, Status> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let limit = u64::try_from(MAX_BODY).unwrap_or(u64::MAX);
    if declared.is_some_and(|length| length > limit) || body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut length = 0;
    loop {
        let frame = match tokio::time::timeout(stall, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                return Err(Status::bad_request(format!("cannot read the request's body: {error}")));
            }
            Err(_) => return Err(Status::timeout("the request's body did not arrive in time")),
        };
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > MAX_BODY {
            return Err(too_large());
        }
        // Most bodies are one frame: no copy.
        match &first {
            None => first = Some(data),
            Some(head) => {
                if rest.is_empty() {
                    rest.extend_from_slice(head);
                }
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}

fn too_large() -> Status {
    Status::too_large(format!("limit is {MAX_BODY}"))
}
