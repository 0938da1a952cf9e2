//! Answers of servers that do not keep to what they are asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::{HttpLimits, LocalAddrs};
use super::*;

const FILE: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";

/// A server that answers each request with what `answer` makes of the range asked for, and keeps the connection;
/// its URL, and how many connections it was asked over.
async fn server(answer: impl Fn(Range<u64>) -> Vec<u8> + Send + Sync + 'static) -> (Url, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (answer, connections) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    let counter = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                    let range = head.split("range: bytes=").nth(1).unwrap().lines().next().unwrap();
                    let (first, last) = range.split_once('-').unwrap();
                    let range = first.parse().unwrap()..last.parse::<u64>().unwrap() + 1;
                    let _ = stream.write_all(&answer(range)).await;
                }
            });
        }
    });
    (Url::parse(&format!("http://{addr}/f")).unwrap(), connections)
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn part(range: Range<u64>) -> Vec<u8> {
    let header = format!("Content-Range: bytes {}-{}/26\r\n", range.start, range.end - 1);
    answer("206 Partial Content", &header, &FILE[range.start as usize..range.end as usize])
}

fn client() -> RangeClient {
    RangeClient::new(HttpClient::new(HttpLimits::default(), LocalAddrs::default()))
}

async fn get(client: &mut RangeClient, url: &Url, range: Range<u64>) -> Result<Vec<u8>, RangeError> {
    client.get(url, Reach::Anywhere, range, 26).await?;
    let mut got = Vec::new();
    while let Some(bytes) = client.read().await? {
        got.extend_from_slice(&bytes);
    }
    Ok(got)
}

#[tokio::test]
async fn parts_come_over_one_connection() {
    let (url, connections) = server(part).await;
    let mut client = client();
    for range in [0..1, 3..9, 25..26, 0..26] {
        let got = get(&mut client, &url, range.clone()).await.unwrap();
        assert_eq!(got, FILE[range.start as usize..range.end as usize]);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    // What is given up takes its connection along, and is not mistaken for what comes next.
    client.get(&url, Reach::Anywhere, 0..9, 26).await.unwrap();
    assert_eq!(get(&mut client, &url, 9..12).await.unwrap(), b"jkl");
}

#[tokio::test]
async fn a_server_that_sends_the_whole_file_is_read_on() {
    let (url, connections) = server(|_| answer("200 OK", "", FILE)).await;
    let mut client = client();
    for (range, requests) in [(3..9, 1), (9..12, 1), (20..22, 1), (4..26, 2)] {
        let got = get(&mut client, &url, range.clone()).await.unwrap();
        assert_eq!(got, FILE[range.start as usize..range.end as usize], "{range:?}");
        assert_eq!(connections.load(Ordering::SeqCst), requests, "{range:?}");
    }
}

#[tokio::test]
async fn anything_else_is_an_error_that_says_what_came() {
    let of_range = |range: &str| answer("206 Partial Content", &format!("Content-Range: {range}\r\n"), b"abc");
    let range = "Content-Range: bytes 0-2/26\r\n";
    for (sent, expected, is_about_file) in [
        (answer("404 Not Found", "", b"no"), "404", true),
        (answer("410 Gone", "", b""), "410", true),
        (answer("416 Range Not Satisfiable", "Content-Range: bytes */3\r\n", b""), "416", true),
        (answer("429 Too Many Requests", "Retry-After: 7\r\n", b""), "429", false),
        (answer("503 Service Unavailable", "", b""), "503", false),
        (answer("206 Partial Content", "", b"abc"), "got \"\"", true),
        (of_range("bytes 1-3/26"), "bytes 1-3/26", true),
        (of_range("bytes 0-1/26"), "bytes 0-1/26", true),
        (of_range("bytes 0-2/27"), "expected a file of 26 bytes, got 27 bytes", true),
        (of_range("bytes 0-18446744073709551615/*"), "18446744073709551615", true),
        (of_range("lines 0-2/26"), "lines", true),
        (answer("200 OK", "Content-Type: text/html\r\n", b"<html>"), "got 6 bytes (text/html)", true),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc".to_vec(), "unknown length", true),
        (answer("206 Partial Content", &format!("{range}Content-Encoding: gzip\r\n"), b"abc"), "\"gzip\"", true),
        (answer("302 Found", "Location: /f\r\n", b""), "redirects", false),
        (b"nonsense\r\n\r\n".to_vec(), "exchange", false),
    ] {
        let (url, _) = server(move |_| sent.clone()).await;
        let error = get(&mut client(), &url, 0..3).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(error.is_about_file(), is_about_file, "{error}");
        assert_eq!(error.retry_after().map(|after| after.as_secs()), (expected == "429").then_some(7));
    }
}

#[tokio::test]
async fn more_than_was_announced_is_not_read_and_less_is_noticed() {
    let chunked = |body: &str| {
        let head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-2/26\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{body}0\r\n\r\n").into_bytes()
    };
    let (long, short) = (chunked("2\r\nab\r\n4\r\ncdef\r\n"), chunked("2\r\nab\r\n"));
    let (url, _) = server(move |_| long.clone()).await;
    assert_eq!(get(&mut client(), &url, 0..3).await.unwrap(), b"abc");
    let (url, _) = server(move |_| short.clone()).await;
    let error = get(&mut client(), &url, 0..3).await.unwrap_err();
    assert!(matches!(error, RangeError::Ended { missing: 1 }), "{error}");
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced() {
    let (url, connections) = server(part).await;
    let mut client = client();
    get(&mut client, &url, 0..3).await.unwrap();
    // As if the server had closed it.
    client.kept[0].1._task.abort();
    assert_eq!(get(&mut client, &url, 3..6).await.unwrap(), b"def");
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}
