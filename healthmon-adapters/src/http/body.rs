//! Reading a body, as much of it as is needed and never more than the cap.

use std::{
    io::{self, Write},
    pin::Pin,
};

use bytes::Bytes;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use healthmon_core::probe::FailReason;
use hyper::{
    Response,
    body::{Body, Incoming},
    header,
};

use super::exchange::Link;
use crate::net::attempt::Fault;

/// The most that is read of a body, as it comes and as it is decoded.
pub(super) const LIMIT: usize = 64 * 1024;

/// Where the reading of a body stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At its end, so that the connection can be used again.
    Reached,
    /// At the cap.
    Capped,
}

/// Whether more is wanted.
enum Appetite {
    More,
    Enough,
}

/// Reads a body that nobody looks at.
pub(super) async fn skip(link: &mut Link, body: Incoming) -> Result<End, Fault> {
    read(link, body, |_| Ok(Appetite::More)).await
}

/// Reads a body that must contain `text`.
pub(super) async fn expect(link: &mut Link, response: Response<Incoming>, text: &str) -> Result<End, Fault> {
    let mut decoder = Decoder::new(&response)?;
    let end = read(link, response.into_body(), |data| decoder.take(data)).await?;
    let (seen, cut) = decoder.finish(end)?;
    if String::from_utf8_lossy(&seen).contains(text) {
        return Ok(end);
    }
    // What was seen instead stays here: bodies are never shown.
    let where_to = match cut {
        End::Reached => format!("in the body ({} bytes)", seen.len()),
        End::Capped => format!("in the body's first {} bytes", seen.len()),
    };
    Err(Fault::fail(FailReason::Assertion, format!("the expected text is not {where_to}")))
}

async fn read(
    link: &mut Link,
    mut body: Incoming,
    mut taste: impl FnMut(&Bytes) -> Result<Appetite, Fault>,
) -> Result<End, Fault> {
    let mut left = LIMIT;
    while !body.is_end_stream() {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Some(frame) = link.wait_for(next).await.transpose()? else {
            return Ok(End::Reached);
        };
        // Trailers are of no interest; hyper bounds them.
        let Ok(data) = frame.into_data() else { continue };
        let data = if data.len() > left { data.slice(..left) } else { data };
        left -= data.len();
        if matches!(taste(&data)?, Appetite::Enough) || left == 0 {
            return Ok(End::Capped);
        }
    }
    Ok(End::Reached)
}

/// Keeps what is written to it, up to the cap, and then refuses more.
#[derive(Debug, Default)]
struct Kept(Vec<u8>);

impl Write for Kept {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(LIMIT - self.0.len());
        self.0.extend_from_slice(&data[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Decoder {
    Identity(Kept),
    Gzip(Box<MultiGzDecoder<Kept>>),
    /// "deflate" by the book: zlib's format.
    Zlib(Box<ZlibDecoder<Kept>>),
    /// "deflate" as some servers mean it: without zlib's frame.
    Deflate(Box<DeflateDecoder<Kept>>),
    /// "deflate" before its first byte has shown which.
    Either,
}

impl Decoder {
    fn new<B>(response: &Response<B>) -> Result<Self, Fault> {
        let Some(encoding) = response.headers().get(header::CONTENT_ENCODING) else {
            return Ok(Self::Identity(Kept::default()));
        };
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        match encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity(Kept::default())),
            "gzip" | "x-gzip" => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(Kept::default())))),
            "deflate" => Ok(Self::Either),
            other => {
                let shown: String = other.chars().take(32).collect();
                Err(Fault::fail(FailReason::Protocol, format!("the content encoding {shown:?} was not asked for")))
            }
        }
    }

    fn take(&mut self, data: &Bytes) -> Result<Appetite, Fault> {
        if let (Self::Either, Some(first)) = (&*self, data.first()) {
            // zlib's first byte names the method 8 and a window of at most 32 KiB. As the first of a
            // bare stream it would begin a stored block of an odd kind, which encoders do not write.
            *self = if first & 0x0f == 8 && first >> 4 <= 7 {
                Self::Zlib(Box::new(ZlibDecoder::new(Kept::default())))
            } else {
                Self::Deflate(Box::new(DeflateDecoder::new(Kept::default())))
            };
        }
        let written = match self {
            Self::Identity(kept) => kept.write_all(data),
            Self::Gzip(decoder) => decoder.write_all(data),
            Self::Zlib(decoder) => decoder.write_all(data),
            Self::Deflate(decoder) => decoder.write_all(data),
            Self::Either => Ok(()),
        };
        if self.kept() >= LIMIT {
            return Ok(Appetite::Enough);
        }
        written.map(|()| Appetite::More).map_err(|error| undecodable(&error))
    }

    fn kept(&self) -> usize {
        match self {
            Self::Identity(kept) => kept.0.len(),
            Self::Gzip(decoder) => decoder.get_ref().0.len(),
            Self::Zlib(decoder) => decoder.get_ref().0.len(),
            Self::Deflate(decoder) => decoder.get_ref().0.len(),
            Self::Either => 0,
        }
    }

    /// What was decoded, and whether that is all of it.
    fn finish(mut self, end: End) -> Result<(Vec<u8>, End), Fault> {
        let flushed = match &mut self {
            Self::Identity(_) | Self::Either => Ok(()),
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Zlib(decoder) => decoder.try_finish(),
            Self::Deflate(decoder) => decoder.try_finish(),
        };
        let cut = if self.kept() >= LIMIT { End::Capped } else { end };
        if let (End::Reached, Err(error)) = (cut, flushed) {
            return Err(undecodable(&error));
        }
        let kept = match &mut self {
            Self::Identity(kept) => std::mem::take(&mut kept.0),
            Self::Gzip(decoder) => std::mem::take(&mut decoder.get_mut().0),
            Self::Zlib(decoder) => std::mem::take(&mut decoder.get_mut().0),
            Self::Deflate(decoder) => std::mem::take(&mut decoder.get_mut().0),
            Self::Either => Vec::new(),
        };
        Ok((kept, cut))
    }
}

fn undecodable(error: &io::Error) -> Fault {
    Fault::fail(FailReason::Protocol, format!("the body cannot be decoded: {error}"))
}
