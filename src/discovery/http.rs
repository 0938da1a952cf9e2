//! GET over HTTP and HTTPS from servers that are not trusted.
//!
//! Everything is bounded: time, redirects, headers, and the body before and after decompression. The addresses
//! that a name leads to are looked up here and judged before a connection is made, so that neither a redirect nor
//! a name with changing addresses leads from the internet into the user's own network. Proxies are not used.

mod ranges;

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, HOST, LOCATION, USER_AGENT};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_util::task::AbortOnDropHandle;
use url::{Host, Url};

use super::scope::Scope;

pub use ranges::{RangeClient, RangeError};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 6;
const MAX_HEADERS: usize = 64;
/// Bytes that the headers of an answer may take.
const MAX_HEAD: usize = 32 * 1024;

/// What one GET may take.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Time until one address has been connected to, with TLS where it is used.
    pub connect: Duration,
    /// Time for everything, redirects included.
    pub total: Duration,
    /// Bytes of the body, before and after decompression.
    pub body: usize,
    /// Redirects that are followed.
    pub redirects: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), total: Duration::from_secs(30), body: 1 << 20, redirects: 5 }
    }
}

/// Addresses that requests are sent from; unspecified ones leave it to the system.
#[derive(Clone, Copy, Debug)]
pub struct LocalAddrs {
    /// Towards IPv4 servers.
    pub v4: Ipv4Addr,
    /// Towards IPv6 servers.
    pub v6: Ipv6Addr,
}

impl Default for LocalAddrs {
    fn default() -> Self {
        Self { v4: Ipv4Addr::UNSPECIFIED, v6: Ipv6Addr::UNSPECIFIED }
    }
}

impl LocalAddrs {
    /// The one to reach `remote` from.
    pub(super) fn towards(self, remote: SocketAddr) -> SocketAddr {
        let ip = if remote.is_ipv4() { IpAddr::V4(self.v4) } else { IpAddr::V6(self.v6) };
        SocketAddr::new(ip, 0)
    }
}

/// A version of the internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Whether `addr` is of this version.
    pub fn has(self, addr: &SocketAddr) -> bool {
        addr.is_ipv4() == (self == Self::V4)
    }
}

/// Where a request may go at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Anywhere: the user, or what the user trusts, says so.
    Anywhere,
    /// Nowhere in the user's own network: a stranger says so.
    Internet,
}

impl Reach {
    /// The nearest that a server may be.
    fn nearest(self) -> Scope {
        match self {
            Self::Anywhere => Scope::Host,
            Self::Internet => Scope::Public,
        }
    }
}

/// The answer to a GET.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status, after redirects.
    pub status: StatusCode,
    /// The body, decompressed.
    pub body: Bytes,
    /// Who answered in the end.
    pub remote: SocketAddr,
}

/// Why a GET brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Another scheme, or no host.
    #[error("expected a URL with http or https and a host, got scheme {0:?}")]
    Url(String),
    /// No address that may be used.
    #[error("found no address for {0}")]
    NoAddress(String),
    /// A way from far to near.
    #[error("refused to be led to {0}, which has an address of this host or network")]
    TooNear(String),
    /// Too many redirects.
    #[error("expected at most {0} redirects")]
    Redirects(usize),
    /// Name look-up or connection failed.
    #[error("could not connect to {host}: {source}")]
    Connect {
        /// To whom.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// No certificates to check servers against.
    #[error("found no trusted certificates on this system: install ca-certificates or set SSL_CERT_FILE")]
    NoCertificates,
    /// The answer is not HTTP, or the connection broke.
    #[error("the exchange failed: {0}")]
    Exchange(#[from] hyper::Error),
    /// The request could not be made from the URL.
    #[error("the URL makes no request: {0}")]
    Request(#[from] hyper::http::Error),
    /// The body is too long.
    #[error("expected at most {0} bytes, got more")]
    TooLong(usize),
    /// The body cannot be decompressed.
    #[error("expected a body in gzip, got {0}")]
    Encoding(String),
    /// It took too long.
    #[error("got no whole answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
}

/// A connection to a server.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    remote: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

/// Makes requests. Cheap to clone.
#[derive(Clone, Default)]
pub struct HttpClient {
    limits: HttpLimits,
    local: LocalAddrs,
    /// Made when the first HTTPS server is asked, since reading the system's certificates takes a moment.
    tls: Arc<OnceCell<Arc<ClientConfig>>>,
}

impl HttpClient {
    /// A client that trusts the certificates that the system trusts.
    pub fn new(limits: HttpLimits, local: LocalAddrs) -> Self {
        Self { limits, local, tls: Arc::default() }
    }

    /// A client with its own idea of whom to trust.
    pub fn with_tls(limits: HttpLimits, local: LocalAddrs, tls: ClientConfig) -> Self {
        Self { limits, local, tls: Arc::new(OnceCell::new_with(Some(Arc::new(tls)))) }
    }

    /// Gets `url`, from a server as near as `reach` allows and over one version of the internet protocol if
    /// `family` says so. Redirects never lead to a server that is nearer than the one that sends them.
    pub async fn get(&self, url: &Url, reach: Reach, family: Option<Family>) -> Result<HttpAnswer, HttpError> {
        let total = self.limits.total;
        timeout(total, self.follow(url.clone(), reach, family)).await.map_err(|_| HttpError::Timeout(total))?
    }

    async fn follow(&self, mut url: Url, reach: Reach, family: Option<Family>) -> Result<HttpAnswer, HttpError> {
        let mut nearest = reach.nearest();
        for _ in 0..=self.limits.redirects {
            let (response, remote, _connection) = self.request(&url, family, nearest).await?;
            let status = response.status();
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            if status.is_redirection()
                && let Some(next) = location.and_then(|location| url.join(location).ok())
            {
                nearest = nearest.max(Scope::of(remote.ip()));
                url = next;
                continue;
            }
            let body = self.body(response).await?;
            return Ok(HttpAnswer { status, body, remote });
        }
        Err(HttpError::Redirects(self.limits.redirects))
    }

    /// One request. The connection lasts until it is dropped.
    async fn request(
        &self,
        url: &Url,
        family: Option<Family>,
        nearest: Scope,
    ) -> Result<(Response<Incoming>, SocketAddr, Connection), HttpError> {
        let mut connection = self.reach(url, family, nearest).await?;
        let request = request_to(url).header(ACCEPT_ENCODING, "gzip").header(CONNECTION, "close");
        let response = connection.sender.send_request(request.body(Empty::new())?).await?;
        Ok((response, connection.remote, connection))
    }

    /// Connects to the server of `url`, if it is not nearer than `nearest`.
    async fn reach(&self, url: &Url, family: Option<Family>, nearest: Scope) -> Result<Connection, HttpError> {
        let is_https = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(HttpError::Url(other.to_owned())),
        };
        let host = url.host().ok_or_else(|| HttpError::Url(url.scheme().to_owned()))?.to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        let failed = |source| HttpError::Connect { host: host.to_string(), source };
        let mut addrs = resolve(&host, port).await.map_err(failed)?;
        addrs.retain(|addr| family.is_none_or(|family| family.has(addr)));
        if addrs.is_empty() {
            return Err(HttpError::NoAddress(host.to_string()));
        }
        addrs.retain(|addr| Scope::of(addr.ip()) >= nearest);
        if addrs.is_empty() {
            return Err(HttpError::TooNear(host.to_string()));
        }
        let (stream, remote) = self.connect(&host, &addrs).await?;
        let (sender, task) = if is_https {
            let tls = self.encrypt(&host, stream).await?;
            handshake(tls).await?
        } else {
            handshake(stream).await?
        };
        Ok(Connection { sender, remote, _task: task })
    }

    /// Connects to the first address that answers.
    async fn connect(&self, host: &Host<String>, addrs: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), HttpError> {
        let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        for addr in addrs.iter().take(MAX_ADDRESSES) {
            match timeout(self.limits.connect, self.dial(*addr)).await {
                Ok(Ok(stream)) => return Ok((stream, *addr)),
                Ok(Err(error)) => last = error,
                Err(_) => last = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(HttpError::Connect { host: host.to_string(), source: last })
    }

    async fn dial(&self, addr: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        let local = self.local.towards(addr);
        if !local.ip().is_unspecified() {
            socket.bind(local)?;
        }
        let stream = socket.connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn encrypt(
        &self,
        host: &Host<String>,
        stream: TcpStream,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, HttpError> {
        let failed = |source| HttpError::Connect { host: host.to_string(), source };
        let config = self.tls.get_or_try_init(system_tls).await?.clone();
        let name = match host {
            Host::Domain(name) => {
                ServerName::try_from(name.clone()).map_err(|error| failed(std::io::Error::other(error)))?
            }
            Host::Ipv4(ip) => ServerName::from(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => ServerName::from(IpAddr::V6(*ip)),
        };
        let handshake = TlsConnector::from(config).connect(name, stream);
        let timed_out = |_| failed(std::io::ErrorKind::TimedOut.into());
        timeout(self.limits.connect, handshake).await.map_err(timed_out)?.map_err(failed)
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, HttpError> {
        let (head, mut incoming) = response.into_parts();
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if body.len() + data.len() > self.limits.body {
                return Err(HttpError::TooLong(self.limits.body));
            }
            body.extend_from_slice(&data);
        }
        decode(&head.headers, body.freeze(), self.limits.body)
    }
}

/// The addresses of `host`. How long the system may take is for the caller to bound.
pub(super) async fn resolve(host: &Host<String>, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    match host {
        Host::Ipv4(ip) => Ok(vec![SocketAddr::new(IpAddr::V4(*ip), port)]),
        Host::Ipv6(ip) => Ok(vec![SocketAddr::new(IpAddr::V6(*ip), port)]),
        Host::Domain(name) => Ok(tokio::net::lookup_host((name.as_str(), port)).await?.collect()),
    }
}

async fn system_tls() -> Result<Arc<ClientConfig>, HttpError> {
    let load = || {
        let mut roots = RootCertStore::empty();
        // Certificates that cannot be read are left out, as browsers do; having none at all is an error.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    let roots = tokio::task::spawn_blocking(load).await.map_err(|_| HttpError::NoCertificates)?;
    if roots.is_empty() {
        return Err(HttpError::NoCertificates);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|_| HttpError::NoCertificates)?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Gets a stream ready for requests.
async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(SendRequest<Empty<Bytes>>, AbortOnDropHandle<()>), HttpError> {
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let task = AbortOnDropHandle::new(tokio::spawn(async {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "an HTTP connection ended");
        }
    }));
    Ok((sender, task))
}

/// The start of a request for `url`.
fn request_to(url: &Url) -> hyper::http::request::Builder {
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let agent = concat!("knot/", env!("CARGO_PKG_VERSION"));
    Request::get(target).header(HOST, host).header(USER_AGENT, agent)
}

/// The body as it was before the server compressed it.
fn decode(headers: &HeaderMap, body: Bytes, limit: usize) -> Result<Bytes, HttpError> {
    let encoding = headers.get(CONTENT_ENCODING).map(|encoding| encoding.to_str().unwrap_or("?").to_ascii_lowercase());
    match encoding.as_deref() {
        None | Some("" | "identity") => Ok(body),
        Some("gzip" | "x-gzip") => {
            let mut plain = Vec::new();
            let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
            let read = flate2::read::MultiGzDecoder::new(&body[..]).take(bound).read_to_end(&mut plain);
            read.map_err(|error| HttpError::Encoding(error.to_string()))?;
            if plain.len() > limit { Err(HttpError::TooLong(limit)) } else { Ok(plain.into()) }
        }
        Some(other) => Err(HttpError::Encoding(format!("encoding {other:?}"))),
    }
}

#[cfg(test)]
mod tests;
