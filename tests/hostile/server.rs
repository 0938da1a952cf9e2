//! Trackers that do as they like.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

/// An HTTP server that does this with everyone, after it has read the request.
pub(crate) fn http(ip: &str, answer: impl Fn(&mut TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            thread::spawn(move || {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len > 0) {
                    request.extend(byte);
                }
                answer(&mut stream);
            });
        }
    });
    addr
}

/// An HTTP server that says the same to everyone.
pub(crate) fn says(ip: &str, head: &str, body: &[u8]) -> SocketAddr {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{head}\r\n", body.len());
    let answer = [head.as_bytes(), body].concat();
    http(ip, move |stream| drop(stream.write_all(&answer)))
}

/// Sends something without end, so much at a time.
pub(crate) fn endless(ip: &str, chunk: Vec<u8>, pause: Duration) -> SocketAddr {
    http(ip, move |stream| {
        let mut go_on = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nd8:intervali1800e5:peers9999999:").is_ok();
        while go_on {
            go_on = stream.write_all(&chunk).is_ok();
            thread::sleep(pause);
        }
    })
}

/// A UDP server that answers every datagram with noise, if at all.
pub(crate) fn udp(ip: &str, answer: Option<&'static [u8]>) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    let addr = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer {
                let _ = socket.send_to(answer, from);
            }
        }
    });
    addr
}
