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

/// How much of a body that is too large is read and thrown away.
const MAX_DRAINED: usize = 4 * MAX_BODY;

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
        drain(body, stall).await;
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
            drain(body, stall).await;
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

/// Throws away what a client still sends of a body that is too large. Many do not look for the answer before they have sent all,
/// and take a stream that ends under them for a broken connection. Past the bound they have to.
async fn drain(mut body: RequestBody, stall: Duration) {
    let mut left = MAX_DRAINED;
    let all = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(length);
            if left == 0 {
                return;
            }
        }
    };
    // Whether it ended, stalled or was cut: the answer is the same.
    let _ = tokio::time::timeout(stall, all).await;
}

fn too_large() -> Status {
    Status::too_large(format!("limit is {MAX_BODY}"))
}
