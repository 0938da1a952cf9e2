//! Servers on loopback that do what servers do, and worse.

use std::io::Write as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const QUICK: HttpLimits =
    HttpLimits { connect: Duration::from_secs(5), total: Duration::from_secs(20), body: 1 << 20, redirects: 5 };

fn client() -> HttpClient {
    HttpClient::new(QUICK, LocalAddrs::default())
}

/// A server that answers each request with what `answer` makes of its head, and closes.
async fn server(answer: impl Fn(String) -> Vec<u8> + Send + Sync + 'static) -> Url {
    server_in_parts(answer, usize::MAX).await
}

/// The same, that says so many bytes at a time.
async fn server_in_parts(answer: impl Fn(String) -> Vec<u8> + Send + Sync + 'static, len: usize) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                stream.set_nodelay(true).unwrap();
                for part in answer(String::from_utf8(head).unwrap()).chunks(len) {
                    let _ = stream.write_all(part).await;
                    tokio::task::yield_now().await;
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    Url::parse(&format!("http://{addr}/announce")).unwrap()
}

fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

async fn get(url: &Url) -> Result<HttpAnswer, HttpError> {
    client().get(url, Reach::Anywhere, None).await
}

#[tokio::test]
async fn the_request_is_whole_and_the_answer_is_read() {
    let url = server(|head| ok("", head.as_bytes())).await;
    let asked = url.join("/x?a=%00&b#c").unwrap();
    let answer = get(&asked).await.unwrap();
    let head = String::from_utf8(answer.body.to_vec()).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /x?a=%00&b http/1.1\r\n"), "{head}");
    let host = format!("host: 127.0.0.1:{}\r\n", url.port().unwrap());
    for line in [&host[..], "user-agent: knot/", "accept-encoding: gzip\r\n", "connection: close\r\n"] {
        assert!(head.contains(line), "{head}");
    }
    assert_eq!((answer.status, Some(answer.remote.port())), (StatusCode::OK, url.port()));
}

#[tokio::test]
async fn bodies_without_length_in_chunks_and_compressed() {
    let plain = server(|_| b"HTTP/1.0 200 OK\r\n\r\nhello".to_vec()).await;
    let chunked =
        server(|_| b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n".to_vec())
            .await;
    let gzipped = server(|_| ok("Content-Encoding: gzip\r\n", &gzip(b"hello"))).await;
    for url in [plain, chunked, gzipped] {
        assert_eq!(&get(&url).await.unwrap().body[..], b"hello");
    }
}

#[tokio::test]
async fn answers_may_be_split_anywhere() {
    let body = gzip(b"hello");
    let chunks: Vec<u8> = body.iter().flat_map(|byte| [b"1\r\n".as_slice(), &[*byte], b"\r\n"].concat()).collect();
    let head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = [head.as_slice(), &chunks, b"0\r\n\r\n"].concat();
    for len in (1..answer.len()).step_by(7).chain([2, 3, answer.len() - 1]) {
        let answer = answer.clone();
        let url = server_in_parts(move |_| answer.clone(), len).await;
        assert_eq!(&get(&url).await.unwrap().body[..], b"hello", "{len} bytes at a time");
    }
}

#[tokio::test]
async fn too_much_is_refused_whole_or_compressed() {
    let large = server(|_| ok("", &vec![b'x'; 10 << 20])).await;
    assert!(matches!(get(&large).await, Err(HttpError::TooLong(1_048_576))));
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < 1 << 20);
    let bomb = server(move |_| ok("Content-Encoding: gzip\r\n", &bomb)).await;
    assert!(matches!(get(&bomb).await, Err(HttpError::TooLong(1_048_576))));
    let head = server(|_| format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).into_bytes()).await;
    assert!(matches!(get(&head).await, Err(HttpError::Exchange(_))));
}

#[tokio::test]
async fn nonsense_is_an_error() {
    let garbage = server(|_| b"\x00\x01garbage\r\n\r\n".to_vec()).await;
    assert!(matches!(get(&garbage).await, Err(HttpError::Exchange(_))));
    let silent = server(|_| Vec::new()).await;
    assert!(matches!(get(&silent).await, Err(HttpError::Exchange(_))));
    let cut = server(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".to_vec()).await;
    assert!(matches!(get(&cut).await, Err(HttpError::Exchange(_))));
    for encoding in ["gzip", "br"] {
        let url = server(move |_| ok(&format!("Content-Encoding: {encoding}\r\n"), b"hello")).await;
        assert!(matches!(get(&url).await, Err(HttpError::Encoding(_))));
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = get(&Url::parse(&format!("http://{closed}")).unwrap()).await.unwrap_err().to_string();
    assert!(error.starts_with("could not connect to 127.0.0.1: "), "{error}");
    assert!(matches!(get(&Url::parse("ftp://x").unwrap()).await, Err(HttpError::Url(_))));
}

#[tokio::test]
async fn a_slow_server_ends_with_the_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // A byte now and then keeps the connection alive for ever.
        while stream.write_all(b"H").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let limits = HttpLimits { total: Duration::from_millis(200), ..QUICK };
    let client = HttpClient::new(limits, LocalAddrs::default());
    let error = client.get(&url, Reach::Anywhere, None).await.unwrap_err();
    assert!(matches!(error, HttpError::Timeout(_) | HttpError::Exchange(_)), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_so_far() {
    let url = server(|head| match head.split(' ').nth(1) {
        Some("/announce?x") => redirect("/a?y"),
        Some("/a?y") => ok("", b"here"),
        _ => redirect("/again"),
    })
    .await;
    let first = url.join("?x").unwrap();
    assert_eq!(&get(&first).await.unwrap().body[..], b"here");
    assert!(matches!(get(&url.join("/loop").unwrap()).await, Err(HttpError::Redirects(5))));
    let to_file = server(|_| redirect("file:///etc/passwd")).await;
    assert!(matches!(get(&to_file).await, Err(HttpError::Url(_))));
}

#[tokio::test]
async fn what_comes_from_afar_never_leads_near() {
    let url = server(|_| ok("", b"secret")).await;
    let port = url.port().unwrap();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "10.0.0.1"] {
        let url = Url::parse(&format!("http://{host}:{port}/announce")).unwrap();
        let error = client().get(&url, Reach::Internet, None).await.unwrap_err();
        assert!(matches!(error, HttpError::TooNear(_)), "{host}: {error}");
    }
    // A redirect takes the reach of who sends it: what a server on the internet would be refused above is what a
    // server in the private network is refused here.
    for (from, to, expected) in [
        (Scope::Public, "127.0.0.1", false),
        (Scope::Public, "192.168.0.1", false),
        (Scope::Private, "127.0.0.1", false),
        (Scope::Host, "127.0.0.1", true),
    ] {
        let reached = client().request(&Url::parse(&format!("http://{to}:{port}/")).unwrap(), None, from).await;
        assert_eq!(reached.is_ok(), expected, "{from:?} {to}");
        assert!(expected || matches!(reached, Err(HttpError::TooNear(_))));
    }
}

#[tokio::test]
async fn one_family_only_if_asked() {
    let url = server(|_| ok("", b"")).await;
    let over = |family| {
        let url = url.clone();
        async move { client().get(&url, Reach::Anywhere, Some(family)).await }
    };
    assert!(over(Family::V4).await.is_ok());
    assert!(matches!(over(Family::V6).await, Err(HttpError::NoAddress(_))));
}

#[tokio::test]
async fn requests_come_from_the_address_given() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let local = LocalAddrs { v4: "127.0.0.9".parse().unwrap(), ..LocalAddrs::default() };
    let asked = tokio::spawn(async move { HttpClient::new(QUICK, local).get(&url, Reach::Anywhere, None).await });
    let (stream, from) = listener.accept().await.unwrap();
    assert_eq!(from.ip(), IpAddr::from([127, 0, 0, 9]));
    drop(stream);
    assert!(asked.await.unwrap().is_err());
}

fn tls_config(trusted: &rcgen::Certificate) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth()
}

#[tokio::test]
async fn https_is_for_those_whom_the_certificate_names() {
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(own.key_pair.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://{}/", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(&ok("", b"private")).await;
            let _ = stream.shutdown().await;
        }
    });
    let get = |trusted: &rcgen::Certificate| {
        let client = HttpClient::with_tls(QUICK, LocalAddrs::default(), tls_config(trusted));
        let url = url.clone();
        async move { client.get(&url, Reach::Anywhere, None).await }
    };
    let error = get(&other.cert).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect { .. }), "{error}");
    assert_eq!(&get(&own.cert).await.unwrap().body[..], b"private");
}
