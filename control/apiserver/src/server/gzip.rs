//! gzip for large answers, where the client takes it.
//!
//! Watches and streams never come here. What is small costs more to compress than to send.

use std::collections::VecDeque;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use super::respond;
use crate::request::{BoxError, ResponseBody};

/// Answers up to this size are sent as they are.
const THRESHOLD: usize = 128 * 1024;
/// The fastest level: it takes most of what can be had.
const LEVEL: Compression = Compression::new(1);
/// After so many bytes other tasks have their turn: about 2 ms.
const TURN: usize = 256 * 1024;

/// Whether the client takes gzip.
pub(super) fn accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let refused = |parameter: &str| {
            parameter.strip_prefix("q=").is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight == 0.0))
        };
        parts.next().is_some_and(|coding| coding.eq_ignore_ascii_case("gzip")) && !parts.any(refused)
    })
}

/// Compresses an answer if it is large.
pub(super) async fn compress(response: Response<ResponseBody>) -> Response<ResponseBody> {
    let small = response.body().size_hint().upper().is_some_and(|size| size <= THRESHOLD as u64);
    if small || response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, mut body) = response.into_parts();
    // Where the size is not told, the first frames tell.
    let (mut frames, mut size) = (VecDeque::new(), 0);
    while size <= THRESHOLD {
        match body.frame().await {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                size += data.len();
                frames.push_back(data);
            }
            Some(Err(error)) => return Response::from_parts(head, failed(error)),
            None => return Response::from_parts(head, respond::full(Vec::from(frames).concat())),
        }
    }
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let encoder = Some(GzEncoder::new(Vec::new(), LEVEL));
    Response::from_parts(head, Gzip { frames, body, encoder, turn: 0 }.boxed_unsync())
}

/// A body that fails at once, as its beginning did.
fn failed(error: BoxError) -> ResponseBody {
    http_body_util::StreamBody::new(futures::stream::once(async { Err(error) })).boxed_unsync()
}

struct Gzip {
    /// What was read of the body to know its size.
    frames: VecDeque<Bytes>,
    body: ResponseBody,
    /// None at the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// Bytes compressed since others had their turn.
    turn: usize,
}

impl Gzip {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Body for Gzip {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if this.encoder.is_none() {
                return Poll::Ready(None);
            }
            if this.turn >= TURN {
                this.turn = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let data = ready!(this.poll_data(cx)).transpose()?;
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            let compressed = match data {
                Some(data) => {
                    this.turn += data.len();
                    encoder.write_all(&data)?;
                    std::mem::take(encoder.get_mut())
                }
                None => match this.encoder.take() {
                    Some(encoder) => encoder.finish()?,
                    None => Vec::new(),
                },
            };
            if !compressed.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(compressed.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn streamed(pieces: &[Bytes]) -> ResponseBody {
        let frames: Vec<_> = pieces.iter().cloned().map(|piece| Ok::<_, BoxError>(Frame::data(piece))).collect();
        http_body_util::StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
    }

    #[test]
    fn who_takes_gzip() {
        let cases = [("gzip", true), ("br, GZIP;q=0.5", true), ("gzip;q=0", false), ("deflate", false), ("", false)];
        for (accept, expect) in cases {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(accept))]);
            assert_eq!(accepted(&headers), expect, "{accept}");
        }
    }

    #[tokio::test]
    async fn large_answers_are_compressed() {
        let text: Bytes = (0..60_000).map(|n| format!("{n},")).collect::<String>().into();
        let pieces: Vec<Bytes> = text.chunks(10_000).map(|piece| text.slice_ref(piece)).collect();
        let (small, few) = (text.slice(..1_000), &pieces[..3]);
        for (what, body, compressed) in [
            ("whole", respond::full(text.clone()), true),
            ("in pieces of unknown number", streamed(&pieces), true),
            ("small", respond::full(small), false),
            ("small, in pieces", streamed(few), false),
        ] {
            let response = compress(Response::new(body)).await;
            assert_eq!(response.headers().contains_key(CONTENT_ENCODING), compressed, "{what}");
            assert_eq!(response.headers().get(VARY).is_some(), compressed, "{what}");
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let mut plain = Vec::new();
            if compressed {
                assert!(bytes.len() < text.len(), "{what}: {}", bytes.len());
                flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
                assert_eq!(plain, text, "{what}");
            } else {
                assert!(text.starts_with(&bytes), "{what}");
            }
        }
    }

    #[tokio::test]
    async fn an_error_stays_one() {
        let error = futures::stream::iter([Ok(Frame::data(Bytes::from(vec![0; 200_000]))), Err("broken".into())]);
        let body = http_body_util::StreamBody::new(error).boxed_unsync();
        let response = compress(Response::new(body)).await;
        assert_eq!(response.into_body().collect().await.unwrap_err().to_string(), "broken");
    }
}
