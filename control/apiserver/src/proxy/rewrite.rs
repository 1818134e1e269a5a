//! What a proxied page says of its own place, made to lead through the proxy: `Location` headers and the URLs in HTML.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use lol_html::MemorySettings;
use lol_html::send::{Element, ElementContentHandlers, HtmlRewriter, Settings};

use crate::request::BoxError;

/// Attributes that hold URLs.
const ATTRIBUTES: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// How much of a page the rewriter may hold: a tag is read as a whole, and open elements are remembered.
const MEMORY: usize = 4 << 20;

/// Where a page seems to be to its server, and where it is to the client.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The API server's path before the page's own: `/api/v1/namespaces/NS/pods/NAME/proxy`.
    pub(super) prefix: String,
    /// Host and port that were called.
    pub(super) backend: String,
    /// The host that the client called.
    pub(super) host: String,
}

impl Place {
    /// The URL that leads where this one was meant to; none where it does so already or leads elsewhere.
    pub(super) fn rewrite(&self, url: &str) -> Option<String> {
        let (scheme, authority, path) = split(url);
        let host = authority.map(|authority| authority.rsplit_once('@').map_or(authority, |(_, host)| host));
        let elsewhere = host.is_some_and(|host| host != self.backend && host != self.host);
        if elsewhere || !path.starts_with('/') {
            return None;
        }
        let path = if path.starts_with(&self.prefix) { path.to_owned() } else { format!("{}{path}", self.prefix) };
        let rewritten = match authority.filter(|_| host == Some(&self.host)) {
            Some(authority) => format!("{scheme}//{authority}{path}"),
            // The backend's own address means nothing to the client.
            None => path,
        };
        (rewritten != url).then_some(rewritten)
    }
}

/// A URL's scheme with its colon, what stands behind `//`, and the rest.
fn split(url: &str) -> (&str, Option<&str>, &str) {
    let scheme = url.find([':', '/', '?', '#']).filter(|&at| url[at..].starts_with("://")).map_or(0, |at| at + 1);
    let (scheme, rest) = url.split_at(scheme);
    match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            (scheme, Some(authority), path)
        }
        None => (scheme, None, rest),
    }
}

/// An HTML page whose URLs are rewritten while it passes.
pub(super) struct Page<B> {
    body: B,
    /// None at the end.
    rewriter: Option<HtmlRewriter<'static, Output>>,
    written: Arc<Mutex<Vec<u8>>>,
}

type Output = Box<dyn FnMut(&[u8]) + Send>;

impl<B> Page<B> {
    pub(super) fn new(body: B, place: Place) -> Result<Self, BoxError> {
        let handler = ElementContentHandlers::default().element(move |element: &mut Element<'_, '_>| {
            let tag = element.tag_name();
            let attributes = ATTRIBUTES.iter().find(|(name, _)| *name == tag).map_or(&[][..], |(_, names)| names);
            for name in attributes {
                if let Some(url) = element.get_attribute(name).and_then(|url| place.rewrite(&url)) {
                    element.set_attribute(name, &url)?;
                }
            }
            Ok(())
        });
        let settings = Settings {
            element_content_handlers: vec![(std::borrow::Cow::Owned("*".parse()?), handler)],
            memory_settings: MemorySettings { max_allowed_memory_usage: MEMORY, ..MemorySettings::new() },
            // Doubtful markup is a browser's affair.
            strict: false,
            ..Settings::new_send()
        };
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = written.clone();
        let output: Output = Box::new(move |piece: &[u8]| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(piece);
        });
        Ok(Self { body, rewriter: Some(HtmlRewriter::new(settings, output)), written })
    }
}

impl<B> Body for Page<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        while let Some(mut rewriter) = this.rewriter.take() {
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => {
                    this.rewriter = Some(rewriter);
                    return Poll::Pending;
                }
                Poll::Ready(frame) => frame.transpose().map_err(Into::into)?,
            };
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => {
                    rewriter.write(&data)?;
                    this.rewriter = Some(rewriter);
                }
                // Trailers are not passed on.
                Some(Err(_)) => this.rewriter = Some(rewriter),
                None => rewriter.end()?,
            }
            let written = std::mem::take(&mut *this.written.lock().unwrap_or_else(PoisonError::into_inner));
            if !written.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(written.into()))));
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/ns/pods/p:80/proxy";

    fn place() -> Place {
        Place { prefix: PREFIX.to_owned(), backend: "10.0.0.9:80".to_owned(), host: "api:6443".to_owned() }
    }

    #[test]
    fn urls_of_the_same_server_lead_through_the_proxy() {
        for (url, expected) in [
            ("/", Some("PREFIX/")),
            ("/a/b?c=/d#e", Some("PREFIX/a/b?c=/d#e")),
            ("http://10.0.0.9:80/a/", Some("PREFIX/a/")),
            ("//10.0.0.9:80/a", Some("PREFIX/a")),
            ("https://10.0.0.9:80PREFIX/a", Some("PREFIX/a")),
            ("https://api:6443/a", Some("https://api:6443PREFIX/a")),
            ("//u:p@api:6443/a", Some("//u:p@api:6443PREFIX/a")),
            ("https://api:6443PREFIX/a", None),
            ("PREFIX/a", None),
            ("a/b", None),
            ("../b", None),
            ("?q", None),
            ("#top", None),
            ("", None),
            ("http://10.0.0.9:80", None),
            ("http://10.0.0.9:81/a", None),
            ("https://example.com/a", None),
            ("mailto:a@b/c", None),
            ("data:text/plain,/x", None),
        ] {
            let (url, expected) = (url.replace("PREFIX", PREFIX), expected.map(|url| url.replace("PREFIX", PREFIX)));
            assert_eq!(place().rewrite(&url), expected, "{url}");
        }
    }

    async fn rewritten(html: &str, piece: usize) -> Result<String, BoxError> {
        let html = Bytes::copy_from_slice(html.as_bytes());
        let pieces: Vec<_> =
            html.chunks(piece).map(|piece| Ok::<_, BoxError>(Frame::data(html.slice_ref(piece)))).collect();
        let page = Page::new(StreamBody::new(futures::stream::iter(pieces)), place())?;
        Ok(String::from_utf8(page.collect().await?.to_bytes().to_vec())?)
    }

    #[tokio::test]
    async fn only_urls_are_changed_in_a_page() {
        for (html, expected) in [
            (
                "<!doctype html><a class=x HREF='/a?b&amp;c'>/a</a><!-- <a href='/no'> -->",
                "<!doctype html><a class=x HREF=\"PREFIX/a?b&amp;c\">/a</a><!-- <a href='/no'> -->",
            ),
            ("<img src=/i.png alt=/no usemap='#m'/>", "<img src=\"PREFIX/i.png\" alt=/no usemap='#m' />"),
            (
                "<script src='/s.js'>x = '<a href=\"/no\">'</script>",
                "<script src=\"PREFIX/s.js\">x = '<a href=\"/no\">'</script>",
            ),
            ("<pre>\u{e4} & <b title='/no'>", "<pre>\u{e4} & <b title='/no'>"),
            (
                "<form action=/f><input formaction=/g><a href=/unended",
                "<form action=\"PREFIX/f\"><input formaction=\"PREFIX/g\"><a href=/unended",
            ),
            ("", ""),
        ] {
            // Also when tags come in pieces.
            for piece in [3, 4096] {
                assert_eq!(rewritten(html, piece).await.unwrap(), expected.replace("PREFIX", PREFIX), "{html}");
            }
        }
        for (tag, names) in ATTRIBUTES {
            for name in names {
                let page = rewritten(&format!("<{tag} {name}=\"/x\">"), 4096).await.unwrap();
                assert_eq!(page, format!("<{tag} {name}=\"{PREFIX}/x\">"));
            }
        }
    }

    #[tokio::test]
    async fn a_page_cannot_fill_the_memory() {
        let endless = format!("<a href=\"{}", "x".repeat(2 * MEMORY));
        assert!(rewritten(&endless, 64 << 10).await.is_err());
    }
}
