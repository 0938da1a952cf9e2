//! Parts of files, from servers that are not trusted.
//!
//! A server must say which bytes of a file of which length it sends; one that sends others, or a page that says why it
//! does not, is an error before a byte of it is used. What is read is never more than what was asked for, and it is
//! read no faster than the caller takes it.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE, RETRY_AFTER};
use hyper::{HeaderMap, Response, StatusCode};
use tokio::time::{timeout, timeout_at};
use url::Url;

use super::{Connection, HttpClient, HttpError, Reach, Scope, request_to};

/// How long a server may send nothing of a body.
const STALL: Duration = Duration::from_secs(20);
/// Connections that are kept for later, to different servers.
const MAX_KEPT: usize = 4;
/// Bytes of a file that are read and thrown away where a server sends all of it, whatever it is asked for.
const MAX_SKIP: u64 = 16 << 20;

/// Why a part of a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An answer that is not the file.
    #[error("expected status 206 (partial content), got {status}")]
    Status {
        /// What came.
        status: StatusCode,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// Other bytes than those asked for.
    #[error("expected Content-Range: bytes {}-{}, got {got:?}", .expected.start, .expected.end - 1)]
    OtherRange {
        /// What was asked for.
        expected: Range<u64>,
        /// What came.
        got: String,
    },
    /// Another file.
    #[error("expected a file of {expected} bytes, got {got}")]
    OtherLength {
        /// What the file has.
        expected: u64,
        /// What the server's has.
        got: String,
    },
    /// The whole file, where a part far behind its start was asked for.
    #[error("expected the bytes from {start} on, got the whole file: the server knows no ranges")]
    NoRanges {
        /// Where the part starts.
        start: u64,
    },
    /// A body in an encoding that was not asked for.
    #[error("expected the bytes as they are, got them encoded as {0:?}")]
    Encoded(String),
    /// The body ended early.
    #[error("expected {missing} more bytes, got the end of the answer")]
    Ended {
        /// What is missing.
        missing: u64,
    },
    /// The server stopped sending.
    #[error("got nothing for {} s", STALL.as_secs())]
    Stalled,
}

impl RangeError {
    /// Whether it is about the one file, so that other files may be had.
    pub fn is_about_file(&self) -> bool {
        match self {
            Self::Http(_) | Self::Ended { .. } | Self::Stalled => false,
            Self::Status { status, .. } => {
                status.is_client_error()
                    && !matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
            }
            _ => true,
        }
    }

    /// How long the server wants to be left alone, if it says.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Gets parts of files, one at a time, over connections that are kept.
pub struct RangeClient {
    http: HttpClient,
    kept: Vec<(Origin, Connection)>,
    body: Option<Body>,
    /// What is read of the body.
    wanted: Range<u64>,
}

/// Which server: scheme, host and port.
type Origin = (String, String, Option<u16>);

/// The answer to a request, while it is read.
struct Body {
    /// What was asked for, before redirects.
    url: Url,
    incoming: Incoming,
    /// The connection, to be used again after the body's end.
    connection: (Origin, Connection),
    /// Where in the file the next byte is.
    at: u64,
    /// Where in the file the body ends.
    end: u64,
    /// What has come and was not read.
    pending: Bytes,
    heard: Instant,
}

impl RangeClient {
    /// A client with the limits of `http`, of which the length of bodies means nothing here.
    pub fn new(http: HttpClient) -> Self {
        Self { http, kept: Vec::new(), body: None, wanted: 0..0 }
    }

    /// Begins to get `range` of the file of `length` bytes at `url`. What was being read is given up.
    ///
    /// # Errors
    /// When no server sends just that.
    pub async fn get(&mut self, url: &Url, reach: Reach, range: Range<u64>, length: u64) -> Result<(), RangeError> {
        self.wanted = range.clone();
        if let Some(body) = self.body.take()
            && body.url == *url
            && body.leads_to(&range)
        {
            self.body = Some(body);
            return Ok(());
        }
        let total = self.http.limits.total;
        let asked = timeout(total, self.ask(url, reach, &range)).await;
        let (response, connection) = asked.map_err(|_| HttpError::Timeout(total))??;
        let sent = judge(response.status(), response.headers(), &range, length)?;
        let (url, incoming) = (url.clone(), response.into_body());
        let (at, end) = (sent.start, sent.end);
        self.body = Some(Body { url, incoming, connection, at, end, pending: Bytes::new(), heard: Instant::now() });
        Ok(())
    }

    /// The next bytes of the part; `None` behind its end. Safe to cancel.
    ///
    /// # Errors
    /// When no more come. Nothing more can be read then.
    pub async fn read(&mut self) -> Result<Option<Bytes>, RangeError> {
        loop {
            let Some(body) = self.body.as_mut().filter(|body| body.at < self.wanted.end) else {
                self.rest().await;
                return Ok(None);
            };
            if body.pending.is_empty()
                && let Err(error) = body.fill().await
            {
                self.body = None;
                return Err(error);
            }
            let skip = self.wanted.start.saturating_sub(body.at).min(body.pending.len() as u64);
            body.pending.advance(skip as usize);
            body.at += skip;
            if body.at < self.wanted.start || body.pending.is_empty() {
                continue;
            }
            let take = (self.wanted.end - body.at).min(body.pending.len() as u64);
            body.at += take;
            return Ok(Some(body.pending.split_to(take as usize)));
        }
    }

    /// Keeps the connection of a body that has been read to its end.
    async fn rest(&mut self) {
        let Some(mut body) = self.body.take_if(|body| body.at >= body.end) else { return };
        // The end of a body in chunks is a frame of its own.
        let is_over = body.incoming.is_end_stream()
            || matches!(timeout(STALL, body.incoming.frame()).await, Ok(None)) && body.incoming.is_end_stream();
        if is_over {
            self.keep(body.connection);
        }
    }

    fn keep(&mut self, connection: (Origin, Connection)) {
        if self.kept.len() >= MAX_KEPT {
            self.kept.remove(0);
        }
        self.kept.push(connection);
    }

    /// Asks for a part of a file and follows redirects, never to a server that is nearer than the one that sends them.
    async fn ask(
        &mut self,
        url: &Url,
        reach: Reach,
        range: &Range<u64>,
    ) -> Result<(Response<Incoming>, (Origin, Connection)), RangeError> {
        let (mut url, mut nearest) = (url.clone(), reach.nearest());
        let redirects = self.http.limits.redirects;
        for _ in 0..=redirects {
            let (response, connection) = self.send(&url, nearest, range).await?;
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.filter(|_| response.status().is_redirection()).and_then(|to| url.join(to).ok());
            let Some(next) = next else { return Ok((response, connection)) };
            nearest = nearest.max(Scope::of(connection.1.remote.ip()));
            if response.body().is_end_stream() {
                self.keep(connection);
            }
            url = next;
        }
        Err(HttpError::Redirects(redirects).into())
    }

    /// One request, over a connection that was kept or a new one.
    async fn send(
        &mut self,
        url: &Url,
        nearest: Scope,
        range: &Range<u64>,
    ) -> Result<(Response<Incoming>, (Origin, Connection)), HttpError> {
        let request = || {
            let bytes = format!("bytes={}-{}", range.start, range.end - 1);
            request_to(url).header(RANGE, bytes).header(ACCEPT_ENCODING, "identity").body(Empty::new())
        };
        let host = url.host_str().unwrap_or_default().to_owned();
        let origin: Origin = (url.scheme().to_owned(), host, url.port_or_known_default());
        let usable = |(of, kept): &(Origin, Connection)| *of == origin && Scope::of(kept.remote.ip()) >= nearest;
        if let Some(at) = self.kept.iter().position(usable) {
            let (origin, mut connection) = self.kept.swap_remove(at);
            // The server may have closed it meanwhile.
            if connection.sender.ready().await.is_ok()
                && let Ok(response) = connection.sender.send_request(request()?).await
            {
                return Ok((response, (origin, connection)));
            }
        }
        let mut connection = self.http.reach(url, None, nearest).await?;
        let response = connection.sender.send_request(request()?).await?;
        Ok((response, (origin, connection)))
    }
}

impl Body {
    /// Whether the part will come if this is read on.
    fn leads_to(&self, range: &Range<u64>) -> bool {
        self.at <= range.start && range.start - self.at <= MAX_SKIP && range.end <= self.end
    }

    async fn fill(&mut self) -> Result<(), RangeError> {
        let frame = timeout_at((self.heard + STALL).into(), self.incoming.frame()).await;
        match frame.map_err(|_| RangeError::Stalled)? {
            Some(Ok(frame)) => {
                self.heard = Instant::now();
                let mut data = frame.into_data().unwrap_or_default();
                // Never beyond what was announced.
                data.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
                self.pending = data;
                Ok(())
            }
            Some(Err(error)) => Err(HttpError::Exchange(error).into()),
            None => Err(RangeError::Ended { missing: self.end - self.at }),
        }
    }
}

/// Which bytes of the file the answer to a request for `range` has.
fn judge(status: StatusCode, headers: &HeaderMap, range: &Range<u64>, length: u64) -> Result<Range<u64>, RangeError> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned());
    let encoding = text(CONTENT_ENCODING).filter(|encoding| !matches!(encoding.as_str(), "" | "identity"));
    match (status, encoding) {
        (StatusCode::PARTIAL_CONTENT | StatusCode::OK, Some(encoding)) => Err(RangeError::Encoded(encoding)),
        (StatusCode::PARTIAL_CONTENT, None) => {
            let got = text(CONTENT_RANGE).unwrap_or_default();
            let other = || RangeError::OtherRange { expected: range.clone(), got: got.clone() };
            let (sent, total) = content_range(&got).ok_or_else(other)?;
            match total {
                Some(total) if total != length => {
                    Err(RangeError::OtherLength { expected: length, got: format!("{total} bytes") })
                }
                _ if sent != *range => Err(other()),
                _ => Ok(sent),
            }
        }
        (StatusCode::OK, None) => match text(CONTENT_LENGTH) {
            Some(got) if got.parse() == Ok(length) && range.start <= MAX_SKIP => Ok(0..length),
            Some(got) if got.parse() == Ok(length) => Err(RangeError::NoRanges { start: range.start }),
            got => {
                let got = got.map_or_else(|| "unknown length".to_owned(), |got| format!("{got} bytes"));
                let got = text(hyper::header::CONTENT_TYPE).map_or(got.clone(), |kind| format!("{got} ({kind})"));
                Err(RangeError::OtherLength { expected: length, got })
            }
        },
        _ => {
            let retry_after = text(RETRY_AFTER).and_then(|after| after.parse().ok()).map(Duration::from_secs);
            Err(RangeError::Status { status, retry_after })
        }
    }
}

/// The value of a `Content-Range`: which bytes, of how many if that is said.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last).then(|| Some((first..last.checked_add(1)?, total)))?
}

#[cfg(test)]
mod tests;
