//! The peer that a web seed is, as the engine sees it.

use std::ops::ControlFlow;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::metainfo::{CreateOptions, Entry, EntryKind, Source, TreePath, create};
use crate::types::{BLOCK_LEN, BlockSpan, FileIndex, HashAlgorithm, PieceIndex};
use crate::wire::{self, Decoder, Frame, Message};

struct Zeros;

impl Source for Zeros {
    fn read_at(&self, _: FileIndex, _: u64, buf: &mut [u8]) -> std::io::Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn check_unchanged(&self, _: FileIndex) -> std::io::Result<()> {
        Ok(())
    }
}

/// A file of 8 blocks of zeros.
fn metainfo() -> Arc<Metainfo> {
    let options = CreateOptions {
        name: "f".into(),
        algorithm: HashAlgorithm::Sha1,
        piece_length: Some(BLOCK_LEN),
        created_at: None,
        peers: Vec::new(),
        version: None,
    };
    let kind = EntryKind::File { length: 8 * u64::from(BLOCK_LEN), root: None, executable: false };
    let entry = Entry { path: TreePath::new("f").unwrap(), kind };
    Arc::new(create(&options, vec![entry], &Zeros, &|_| ControlFlow::Continue(())).unwrap())
}

fn block(at: u32) -> BlockSpan {
    BlockSpan { piece: PieceIndex(at), begin: 0, len: BLOCK_LEN }
}

/// The engine's end of a stream.
struct Engine {
    stream: DuplexStream,
    decoder: Decoder,
}

impl Engine {
    fn connect(url: &str, warnings: &Arc<Warnings>) -> Self {
        let (near, far) = tokio::io::duplex(STREAM_BUFFER);
        let seed = Seed {
            metainfo: metainfo(),
            base: url.to_owned(),
            reach: Reach::Anywhere,
            http: HttpClient::new(LIMITS, LocalAddrs::default()),
            health: Arc::default(),
            warnings: warnings.clone(),
        };
        tokio::spawn(serve(seed, far));
        Self { stream: near, decoder: Decoder::new() }
    }

    async fn say(&mut self, message: Message) {
        let mut bytes = bytes::BytesMut::new();
        wire::encode(&message, &mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next frame; `None` at the end of the stream. Payloads are zeros and left out.
    async fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                let Frame::Piece { span, data } = frame else { return Some(frame) };
                assert!(data.len() == span.len as usize && data.iter().all(|byte| *byte == 0));
                return piece(span.piece.0);
            }
            let read = timeout(Duration::from_secs(60), self.stream.read_buf(self.decoder.buffer())).await.unwrap();
            if read.unwrap() == 0 {
                return None;
            }
        }
    }

    async fn greeted(&mut self) {
        assert_eq!(self.hear().await, Some(Frame::Message(Message::HaveAll)));
        assert!(matches!(self.hear().await, Some(Frame::Message(Message::Extended { id: 0, .. }))));
        assert_eq!(self.hear().await, Some(Frame::Message(Message::Unchoke)));
    }
}

/// A server that tells of each request's range and answers with what it is given for it.
async fn server() -> (String, mpsc::Receiver<String>, mpsc::Sender<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/f", listener.local_addr().unwrap());
    let (ask, asked) = mpsc::channel(16);
    let (answer, mut answers) = mpsc::channel::<Vec<u8>>(16);
    tokio::spawn(async move {
        'connections: while let Ok((mut stream, _)) = listener.accept().await {
            loop {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { continue 'connections };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                let range = head.split("range: bytes=").nth(1).unwrap().lines().next().unwrap().to_owned();
                ask.send(range).await.unwrap();
                let Some(answer) = answers.recv().await else { return };
                let _ = stream.write_all(&answer).await;
            }
        }
    });
    (url, asked, answer)
}

fn part(first: u64, end: u64) -> Vec<u8> {
    let (len, last) = (end - first, end - 1);
    let range = format!("Content-Range: bytes {first}-{last}/{}", 8 * BLOCK_LEN);
    let head = format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {len}\r\n{range}\r\n\r\n");
    [head.into_bytes(), vec![0; len as usize]].concat()
}

fn piece(at: u32) -> Option<Frame> {
    Some(Frame::Piece { span: block(at), data: bytes::Bytes::new() })
}

fn reject(span: BlockSpan) -> Option<Frame> {
    Some(Frame::Message(Message::Reject(span)))
}

#[tokio::test]
async fn blocks_that_follow_each_other_are_one_request_and_what_is_no_block_is_rejected() {
    let (url, mut asked, answer) = server().await;
    let mut engine = Engine::connect(&url, &Arc::default());
    engine.greeted().await;
    let half = BlockSpan { len: BLOCK_LEN / 2, ..block(1) };
    engine.say(Message::Request(half)).await;
    assert_eq!(engine.hear().await, reject(half));
    engine.say(Message::Request(block(0))).await;
    assert_eq!(asked.recv().await.unwrap(), "0-16383");
    // While that goes on.
    for at in [5, 2, 7, 3] {
        engine.say(Message::Request(block(at))).await;
    }
    engine.say(Message::Cancel(block(7))).await;
    answer.send(part(0, 16384)).await.unwrap();
    let heard = [engine.hear().await, engine.hear().await];
    assert!(heard.contains(&piece(0)) && heard.contains(&reject(block(7))), "{heard:?}");
    assert_eq!(asked.recv().await.unwrap(), "81920-98303");
    answer.send(part(81920, 98304)).await.unwrap();
    assert_eq!(asked.recv().await.unwrap(), "32768-65535");
    answer.send(part(32768, 65536)).await.unwrap();
    assert_eq!([engine.hear().await, engine.hear().await, engine.hear().await], [piece(5), piece(2), piece(3)]);
}

#[tokio::test]
async fn what_nobody_waits_for_is_given_up() {
    let (url, mut asked, answer) = server().await;
    let mut engine = Engine::connect(&url, &Arc::default());
    engine.greeted().await;
    engine.say(Message::Request(block(0))).await;
    asked.recv().await.unwrap();
    engine.say(Message::Cancel(block(0))).await;
    assert_eq!(engine.hear().await, reject(block(0)), "though the server says nothing");
    engine.say(Message::Request(block(6))).await;
    answer.send(part(0, 16384)).await.unwrap();
    assert_eq!(asked.recv().await.unwrap(), "98304-114687");
    answer.send(part(98304, 114_688)).await.unwrap();
    assert_eq!(engine.hear().await, piece(6));
}

#[tokio::test]
async fn a_file_that_is_not_there_is_asked_for_once_and_then_the_connection_ends() {
    let (url, mut asked, answer) = server().await;
    let warnings = Arc::new(Warnings::default());
    let mut engine = Engine::connect(&url, &warnings);
    engine.greeted().await;
    answer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()).await.unwrap();
    for at in 0..8 {
        engine.say(Message::Request(block(at))).await;
        assert_eq!(engine.hear().await, reject(block(at)));
    }
    assert_eq!(engine.hear().await, None);
    asked.recv().await.unwrap();
    assert!(asked.try_recv().is_err());
    assert_eq!(warnings.list(), [format!("web seed {url}: expected status 206 (partial content), got 404 Not Found")]);
}

#[tokio::test]
async fn a_server_that_fails_ends_the_connection() {
    let (url, _asked, answer) = server().await;
    let warnings = Arc::new(Warnings::default());
    let mut engine = Engine::connect(&url, &warnings);
    engine.greeted().await;
    answer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec()).await.unwrap();
    engine.say(Message::Request(block(0))).await;
    assert_eq!(engine.hear().await, None);
    assert!(warnings.list()[0].contains("503"), "{:?}", warnings.list());
}

#[tokio::test]
async fn after_a_failure_nobody_connects_for_a_while() {
    let seeds = WebSeeds::new(LocalAddrs::default(), Arc::default());
    let connect = |url: &str| seeds.connect(TorrentKey(1), SwarmId([0; 20]), metainfo(), url).err();
    assert_eq!(connect("http://w/f"), None);
    assert_eq!(seeds.state(), "1 asked, since peers do not deliver");
    seeds.health(TorrentKey(1), "http://w/f").failed(Instant::now(), Some(Duration::from_secs(60)));
    assert!(connect("http://w/f").unwrap().contains("left alone"));
    assert_eq!(connect("http://w/other"), None);
}

#[test]
fn servers_may_be_near_where_a_request_does_nothing() {
    assert_eq!(reach("http://192.168.1.1/files/"), Ok(Reach::Anywhere));
    assert_eq!(reach("https://w/get?file=1"), Ok(Reach::Internet));
    for url in ["ftp://w/f", "file:///etc/passwd", "w/f", ""] {
        assert!(reach(url).is_err(), "{url}");
    }
}
