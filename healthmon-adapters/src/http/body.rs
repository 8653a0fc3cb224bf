//! Reading a body, as much of it as is needed and never more than the cap.

use std::{
    io::{self, Write},
    pin::Pin,
};

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status, write::MultiGzDecoder};
use healthmon_core::probe::FailReason;
use hyper::{
    Response,
    body::{Body, Incoming},
    header,
};

use super::link::Link;
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

/// What is wanted of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    text: Text,
    /// How many bytes are to be counted at least, beyond what is read anyway.
    counted: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Skipped,
    Kept,
}

/// What was seen of a body.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) end: End,
    /// Its bytes as they came, not as they were decoded.
    pub(super) size: u64,
    /// What was kept of it, if it was wanted.
    pub(super) text: Option<Kept>,
}

/// A body as it was decoded, up to the cap.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    pub(super) end: End,
}

/// Whether more is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Appetite {
    More,
    Enough,
}

impl Wanted {
    /// Only that it comes to its end.
    pub(super) const NOTHING: Self = Self { text: Text::Skipped, counted: 0 };
    /// Its text.
    pub(super) const TEXT: Self = Self { text: Text::Kept, counted: 0 };

    /// The same, and its size up to `most`.
    pub(super) const fn counted(self, most: u64) -> Self {
        Self { counted: most, ..self }
    }

    /// Whether it may come encoded: not if its size is of interest.
    pub(super) const fn may_be_encoded(self) -> bool {
        matches!(self.text, Text::Kept) && self.counted == 0
    }
}

/// Reads a body as far as it is wanted.
pub(super) async fn read(link: &mut Link, response: Response<Incoming>, wanted: Wanted) -> Result<Seen, Fault> {
    let mut decoder = match wanted.text {
        Text::Skipped => None,
        Text::Kept => Some(Decoder::new(&response)?),
    };
    let mut appetite = Appetite::More;
    let limit = wanted.counted.max(LIMIT as u64);
    let (end, size) = read_to(link, response.into_body(), limit, |data| {
        if let (Some(decoder), Appetite::More) = (&mut decoder, appetite) {
            appetite = decoder.take(data)?;
        }
        let done = appetite == Appetite::Enough && wanted.counted == 0;
        Ok(if done { Appetite::Enough } else { Appetite::More })
    })
    .await?;
    let text = match decoder {
        None => None,
        Some(decoder) => {
            let (bytes, end) = decoder.finish(size, end)?;
            Some(Kept { bytes, end })
        }
    };
    Ok(Seen { end, size, text })
}

async fn read_to(
    link: &mut Link,
    mut body: Incoming,
    limit: u64,
    mut taste: impl FnMut(&Bytes) -> Result<Appetite, Fault>,
) -> Result<(End, u64), Fault> {
    let mut size = 0;
    while !body.is_end_stream() {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Some(frame) = link.wait_for(next).await.transpose()? else {
            return Ok((End::Reached, size));
        };
        // Trailers are of no interest; hyper bounds them.
        let Ok(data) = frame.into_data() else { continue };
        link.earn(data.len());
        let left = usize::try_from(limit - size).unwrap_or(usize::MAX);
        let data = if data.len() > left { data.slice(..left) } else { data };
        size += data.len() as u64;
        if taste(&data)? == Appetite::Enough || size == limit {
            return Ok((End::Capped, size));
        }
    }
    Ok((End::Reached, size))
}

/// Keeps what is written to it, up to the cap, and then refuses more.
#[derive(Debug, Default)]
struct Output(Vec<u8>);

impl Write for Output {
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
    Identity(Output),
    Gzip(Box<MultiGzDecoder<Output>>),
    /// "deflate" by the book, which is zlib's format, or as some servers mean it: without zlib's frame.
    Deflate(Box<Inflated>),
    /// "deflate" before its first byte has shown which.
    Either,
}

/// What comes out of "deflate". By hand, for flate2's writers do not say whether the stream came to its end, and
/// without a frame nothing else would.
struct Inflated {
    state: Decompress,
    text: Vec<u8>,
    is_whole: bool,
}

impl Inflated {
    fn new(has_frame: bool) -> Self {
        Self { state: Decompress::new(has_frame), text: Vec::new(), is_whole: false }
    }

    /// Takes `data` up to the cap; what follows the end is not looked at.
    fn take(&mut self, mut data: &[u8]) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let room = buffer.len().min(LIMIT - self.text.len());
            if self.is_whole || room == 0 {
                return Ok(());
            }
            let (taken, made) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(data, &mut buffer[..room], FlushDecompress::None)?;
            let since = |before: u64, now: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
            let (taken, made) = (since(taken, self.state.total_in()), since(made, self.state.total_out()));
            data = &data[taken..];
            self.text.extend_from_slice(&buffer[..made]);
            self.is_whole = status == Status::StreamEnd;
            // It may owe more than there was room for, and know that it has ended only then.
            if taken == 0 && made == 0 {
                let is_done = self.is_whole || data.is_empty();
                return is_done.then_some(()).ok_or_else(|| io::Error::other("it does not go on"));
            }
        }
    }

    fn finish(&self) -> io::Result<()> {
        match self.is_whole {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut off")),
        }
    }
}

impl Decoder {
    fn new<B>(response: &Response<B>) -> Result<Self, Fault> {
        let Some(encoding) = response.headers().get(header::CONTENT_ENCODING) else {
            return Ok(Self::Identity(Output::default()));
        };
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        match encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity(Output::default())),
            "gzip" | "x-gzip" => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(Output::default())))),
            "deflate" => Ok(Self::Either),
            // Whole: a secret that it repeats is looked for, and then it is cut.
            other => Err(Fault::fail(FailReason::Protocol, format!("a content encoding was not asked for: {other}"))),
        }
    }

    fn take(&mut self, data: &Bytes) -> Result<Appetite, Fault> {
        if let (Self::Either, Some(first)) = (&*self, data.first()) {
            // zlib's first byte names the method 8 and a window of at most 32 KiB. As the first of a
            // bare stream it would begin a stored block of an odd kind, which encoders do not write.
            *self = Self::Deflate(Box::new(Inflated::new(first & 0x0f == 8 && first >> 4 <= 7)));
        }
        let written = match self {
            Self::Identity(kept) => kept.write_all(data),
            Self::Gzip(decoder) => decoder.write_all(data),
            Self::Deflate(inflated) => inflated.take(data),
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
            Self::Deflate(inflated) => inflated.text.len(),
            Self::Either => 0,
        }
    }

    /// What was decoded of `received` bytes, and whether that is all of it.
    fn finish(mut self, received: u64, end: End) -> Result<(Vec<u8>, End), Fault> {
        let flushed = match &mut self {
            // An empty body has nothing that could be coded, whatever the header says.
            _ if received == 0 => Ok(()),
            Self::Identity(_) | Self::Either => Ok(()),
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Deflate(inflated) => inflated.finish(),
        };
        let cut = if self.kept() >= LIMIT { End::Capped } else { end };
        if let (End::Reached, Err(error)) = (cut, flushed) {
            return Err(undecodable(&error));
        }
        let kept = match &mut self {
            Self::Identity(kept) => std::mem::take(&mut kept.0),
            Self::Gzip(decoder) => std::mem::take(&mut decoder.get_mut().0),
            Self::Deflate(inflated) => std::mem::take(&mut inflated.text),
            Self::Either => Vec::new(),
        };
        Ok((kept, cut))
    }
}

fn undecodable(error: &io::Error) -> Fault {
    Fault::fail(FailReason::Protocol, format!("the body cannot be decoded: {error}"))
}
