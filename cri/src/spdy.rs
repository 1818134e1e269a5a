//! The client's half of SPDY/3.1, as far as kubelet streaming uses it: streams with headers and data both ways.
//!
//! Flow control is left out, as the servers of this protocol (Go's spdystream) leave it out: TCP is the only brake.

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Header names and values that SPDY/3 starts its compression with, each preceded by its length.
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base content-encoding \
    content-language content-length content-location content-md5 content-range content-type date etag expect expires \
    from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location \
    max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer \
    transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 \
    url public set-cookie keep-alive origin";
/// The rest of the dictionary, running text.
const DICTIONARY_TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
    Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// A frame larger than this is no frame of ours: the servers write at most 32 KiB at a time.
const FRAME_MAX: usize = 4 << 20;
/// Header blocks are a handful of short words.
const HEADERS_MAX: usize = 64 << 10;

const FIN: u8 = 1;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Bytes that are not SPDY/3.1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// Too big to be real.
    #[error("a SPDY frame of {0} bytes")]
    FrameTooLarge(usize),
    /// Another protocol version.
    #[error("SPDY version {0}, 3 is spoken here")]
    Version(u16),
    /// A frame that is shorter than its kind.
    #[error("SPDY frame of type {0} is cut short")]
    Short(u16),
    /// Headers that do not decompress or do not parse.
    #[error("SPDY headers: {0}")]
    Headers(&'static str),
}

/// What the other side sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Data of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// The last of this stream.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
    /// The other side opened a stream.
    SynStream {
        /// The stream.
        stream: u32,
        /// Nothing follows.
        fin: bool,
        /// Its headers.
        headers: Vec<(String, String)>,
    },
    /// The other side accepted a stream, or added headers to it.
    Reply {
        /// The stream.
        stream: u32,
        /// Nothing follows.
        fin: bool,
        /// Headers.
        headers: Vec<(String, String)>,
    },
    /// A stream ends at once.
    Reset {
        /// The stream.
        stream: u32,
        /// Why, in SPDY's numbers.
        status: u32,
    },
    /// To be sent back.
    Ping(u32),
    /// The connection ends.
    GoAway,
    /// Settings, window updates and whatever else does not matter here.
    Other(u16),
}

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS.split(' ').filter(|word| !word.is_empty()) {
        let word = word.replace('_', " ");
        out.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(DICTIONARY_TEXT.as_bytes());
    out
}

/// Makes frames. All header blocks of a connection share one compressor.
#[derive(Debug)]
pub struct Encoder {
    compress: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut compress = Compress::new(Compression::default(), true);
        // A fresh compressor takes any dictionary.
        let _ = compress.set_dictionary(&dictionary());
        Encoder { compress }
    }
}

impl Encoder {
    /// Opens a stream. A client's streams have odd, rising numbers.
    pub fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        plain.extend_from_slice(&length(headers.len()));
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend_from_slice(&length(text.len()));
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut payload = Vec::with_capacity(plain.len() + 64);
        payload.extend_from_slice(&stream.to_be_bytes());
        payload.extend_from_slice(&[0; 6]); // no associated stream, priority 0, no slot
        self.deflate(&plain, &mut payload);
        control(SYN_STREAM, 0, &payload)
    }

    fn deflate(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let mut rest = plain;
        loop {
            out.reserve(256);
            let before = self.compress.total_in();
            // Deflate of valid state and buffers has no other error than a full buffer, and that is enlarged.
            let _ = self.compress.compress_vec(rest, out, FlushCompress::Sync);
            let taken = usize::try_from(self.compress.total_in() - before).unwrap_or(rest.len());
            rest = &rest[taken..];
            if rest.is_empty() && out.len() < out.capacity() {
                return;
            }
        }
    }

    /// Data of a stream; `fin` ends our half of it.
    pub fn data(stream: u32, fin: bool, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + data.len());
        out.extend_from_slice(&(stream & 0x7fff_ffff).to_be_bytes());
        out.push(if fin { FIN } else { 0 });
        out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes()[1..]);
        out.extend_from_slice(data);
        out
    }

    /// The answer to a ping.
    pub fn ping(id: u32) -> Vec<u8> {
        control(PING, 0, &id.to_be_bytes())
    }
}

fn length(rest: &mut &[u8]) -> Result<usize, SpdyError> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or(SpdyError::Headers("cut short"))?;
    *rest = after;
    Ok(u32::from_be_bytes(*length) as usize)
}

fn text(rest: &mut &[u8]) -> Result<String, SpdyError> {
    let length = length(rest)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(SpdyError::Headers("cut short"))?;
    *rest = after;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + payload.len());
    out.extend_from_slice(&0x8003u16.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.push(flags);
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(0).to_be_bytes()[1..]);
    out.extend_from_slice(payload);
    out
}

/// Takes frames apart.
#[derive(Debug)]
pub struct Decoder {
    decompress: Decompress,
    dictionary: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { decompress: Decompress::new(true), dictionary: dictionary() }
    }
}

impl Decoder {
    /// The next whole frame in `buffer`, taken out of it.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        let Some(&[a, b, c, d, flags, x, y, z]) = buffer.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if length > FRAME_MAX {
            return Err(SpdyError::FrameTooLarge(length));
        }
        if buffer.len() < 8 + length {
            buffer.reserve(8 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(8);
        let payload = buffer.split_to(length).freeze();
        let fin = flags & FIN != 0;
        if a & 0x80 == 0 {
            return Ok(Some(Frame::Data { stream: u32::from_be_bytes([a, b, c, d]), fin, data: payload }));
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != 3 {
            return Err(SpdyError::Version(version));
        }
        self.control(u16::from_be_bytes([c, d]), fin, &payload).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, payload: &[u8]) -> Result<Frame, SpdyError> {
        let word = |at: usize| {
            let bytes = payload.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            bytes.map(u32::from_be_bytes).ok_or(SpdyError::Short(kind))
        };
        Ok(match kind {
            SYN_STREAM => {
                let block = payload.get(10..).ok_or(SpdyError::Short(kind))?;
                Frame::SynStream { stream: word(0)?, fin, headers: self.headers(block)? }
            }
            SYN_REPLY | HEADERS => {
                let block = payload.get(4..).ok_or(SpdyError::Short(kind))?;
                Frame::Reply { stream: word(0)?, fin, headers: self.headers(block)? }
            }
            RST_STREAM => Frame::Reset { stream: word(0)?, status: word(4)? },
            PING => Frame::Ping(word(0)?),
            GOAWAY => Frame::GoAway,
            other => Frame::Other(other),
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        let plain = self.inflate(block)?;
        let mut rest = &plain[..];
        let count = length(&mut rest)?;
        let mut out = Vec::new();
        for _ in 0..count {
            out.push((text(&mut rest)?, text(&mut rest)?));
        }
        Ok(out)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            let (taken, made) = (self.decompress.total_in(), out.len());
            let result = self.decompress.decompress_vec(rest, &mut out, FlushDecompress::Sync);
            let used = usize::try_from(self.decompress.total_in() - taken).unwrap_or(rest.len());
            rest = &rest[used..];
            if let Err(error) = result {
                error.needs_dictionary().ok_or(SpdyError::Headers("not zlib"))?;
                let set = self.decompress.set_dictionary(&self.dictionary);
                set.map_err(|_| SpdyError::Headers("another dictionary"))?;
                continue;
            }
            if out.len() > HEADERS_MAX {
                return Err(SpdyError::Headers("too large"));
            }
            if rest.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
            if used == 0 && out.len() == made && out.len() < out.capacity() {
                return Err(SpdyError::Headers("not zlib"));
            }
            out.reserve(1024);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adler32(data: &[u8]) -> u32 {
        let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_spdys() {
        let dictionary = dictionary();
        assert_eq!((dictionary.len(), adler32(&dictionary)), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn frames_survive_any_cut() {
        let mut encoder = Encoder::default();
        let long = "x".repeat(3000);
        let mut wire = encoder.open(1, &[("streamtype", "error")]);
        wire.extend(encoder.open(3, &[("streamtype", "stdin"), ("long", &long)]));
        wire.extend(Encoder::data(3, true, b"hello"));
        wire.extend(Encoder::ping(7));
        wire.extend(control(RST_STREAM, 0, &[0, 0, 0, 3, 0, 0, 0, 5]));
        wire.extend(control(4, 0, &[0; 4]));
        let text = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let want = [
            Frame::SynStream { stream: 1, fin: false, headers: vec![text("streamtype", "error")] },
            Frame::SynStream { stream: 3, fin: false, headers: vec![text("streamtype", "stdin"), text("long", &long)] },
            Frame::Data { stream: 3, fin: true, data: Bytes::from_static(b"hello") },
            Frame::Ping(7),
            Frame::Reset { stream: 3, status: 5 },
            Frame::Other(4),
        ];
        for chunk in [1, 7, wire.len()] {
            let (mut decoder, mut buffer, mut got) = (Decoder::default(), BytesMut::new(), Vec::new());
            for part in wire.chunks(chunk) {
                buffer.extend_from_slice(part);
                while let Some(frame) = decoder.next(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, want, "in chunks of {chunk}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (wire, want) in [
            (vec![0x80, 2, 0, 1, 0, 0, 0, 0], SpdyError::Version(2)),
            (vec![0, 0, 0, 1, 0, 0xff, 0xff, 0xff], SpdyError::FrameTooLarge(0xff_ffff)),
            (control(SYN_STREAM, 0, &[0; 9]), SpdyError::Short(SYN_STREAM)),
            (control(PING, 0, &[]), SpdyError::Short(PING)),
            (control(SYN_REPLY, 0, &[0, 0, 0, 1, 9, 9, 9, 9]), SpdyError::Headers("not zlib")),
        ] {
            assert_eq!(Decoder::default().next(&mut BytesMut::from(&wire[..])), Err(want));
        }
    }
}
