//! Torrents byte by byte, of shapes that no program here would make.

use sha1::{Digest, Sha1};

/// The names of its path, and its content.
pub type File<'a> = (Vec<&'a [u8]>, Vec<u8>);

fn bytes(value: &[u8]) -> Vec<u8> {
    [format!("{}:", value.len()).as_bytes(), value].concat()
}

/// A v1 torrent named `data` of files by their raw names, in this order.
pub fn v1(piece_length: usize, files: &[File<'_>]) -> Vec<u8> {
    let mut info = b"d5:filesl".to_vec();
    for (path, content) in files {
        info.extend(format!("d6:lengthi{}e4:pathl", content.len()).into_bytes());
        path.iter().for_each(|name| info.extend(bytes(name)));
        info.extend(b"ee");
    }
    info.extend(format!("e4:name4:data12:piece lengthi{piece_length}e6:pieces").into_bytes());
    let line: Vec<u8> = files.iter().flat_map(|(_, content)| content).copied().collect();
    let hashes: Vec<u8> = line.chunks(piece_length).flat_map(|piece| Sha1::digest(piece).to_vec()).collect();
    info.extend(bytes(&hashes));
    [b"d4:info".as_slice(), &info, b"ee"].concat()
}
