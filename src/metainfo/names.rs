//! Names in foreign torrents, which may be any bytes, as names that can be shown.
//!
//! A name that is UTF-8 is shown as it is. In one that is not, each byte that is not part of a character is shown as
//! `%` and two upper-case hex digits, and `%` itself as `%25`; so are `/` and zero bytes in any name. What then could
//! be mistaken for such a name, since it reads `%E4` and the like without being URL-encoded UTF-8, has its `%` shown
//! as `%25` as well. So no two names look the same, and [`raw_name`] gives back what was meant; and `%41` or
//! `%E4%BD%A0.txt` in UTF-8 names stay what they are.
//!
//! Only what no filesystem takes is lost: names above 255 bytes are cut before their extension; empty names, `.` and
//! `..` are left out of paths, as ordinary clients do. Where that makes paths equal, they are numbered.

use super::TreePath;
use super::path::{MAX_COMPONENT_LEN, MAX_COMPONENTS, MAX_PATH_LEN};

/// Bytes of the longest extension, dot included, that survives where a name is cut.
const MAX_EXTENSION: usize = 16;
/// What a path without any usable name is called.
const NAMELESS: &str = "_";

/// Whether `byte` may be the meaning of an escape.
fn is_escapable(byte: u8) -> bool {
    byte >= 0x80 || matches!(byte, 0 | b'/' | b'%')
}

/// Whether bytes cannot be shown as they are.
fn needs_escapes(raw: &[u8]) -> bool {
    str::from_utf8(raw).is_err() || raw.contains(&0) || raw.contains(&b'/')
}

/// The byte that the escape at the start of `text` means.
fn escape_at(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    match text {
        [b'%', high, low, ..] => Some(digit(*high)? * 16 + digit(*low)?).filter(|byte| is_escapable(*byte)),
        _ => None,
    }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.first() {
        let (byte, len) = escape_at(rest).map_or((*first, 1), |byte| (byte, 3));
        raw.push(byte);
        rest = &rest[len..];
    }
    raw
}

/// Whether `text` reads as the escaped form of another name. Escaping keeps that property, which is what makes the
/// rule reversible: such a text is escaped once more than it looks.
fn reads_as_escaped(text: &[u8]) -> bool {
    let mut escapes = false;
    for at in text.iter().enumerate().filter(|(_, byte)| **byte == b'%').map(|(at, _)| at) {
        let rest = &text[at + 1..];
        let again = rest.chunks_exact(2).take_while(|pair| pair == b"25").count();
        let meaning = rest.get(2 * again..2 * again + 2).and_then(|pair| escape_at(&[b'%', pair[0], pair[1]]));
        if meaning.is_some() && again > 0 {
            return true;
        }
        escapes |= meaning.is_some();
    }
    escapes && needs_escapes(&unescape(text))
}

fn push_escape(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(DIGITS[usize::from(byte >> 4)].into());
    out.push(DIGITS[usize::from(byte & 15)].into());
}

/// How a name is shown: see the module.
pub(super) fn shown_name(raw: &[u8]) -> String {
    if !needs_escapes(raw) && !reads_as_escaped(raw) {
        return String::from_utf8_lossy(raw).into_owned();
    }
    let mut out = String::with_capacity(raw.len() * 2);
    for chunk in raw.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\0' | '/' | '%' => push_escape(&mut out, character as u8),
                _ => out.push(character),
            }
        }
        chunk.invalid().iter().for_each(|byte| push_escape(&mut out, *byte));
    }
    out
}

/// The name that is shown as `shown`, unless it was cut or numbered.
pub fn raw_name(shown: &str) -> Vec<u8> {
    match reads_as_escaped(shown.as_bytes()) {
        true => unescape(shown.as_bytes()),
        false => shown.as_bytes().to_vec(),
    }
}

/// Whether it names a file or directory, and not nothing, or one that is there already.
pub(super) fn is_name(raw: &[u8]) -> bool {
    !matches!(raw, b"" | b"." | b"..")
}

/// One name of a path, fit for a filesystem; `None` if it names nothing.
pub(super) fn file_name(raw: &[u8]) -> Option<String> {
    if !is_name(raw) {
        return None;
    }
    Some(match str::from_utf8(raw) {
        Ok(text) => cut(&shown_name(cut(text).as_bytes())),
        Err(_) => cut(&shown_name(&raw[..raw.len().min(MAX_COMPONENT_LEN)])),
    })
}

/// The path of names in a foreign torrent.
pub(super) fn tree_path<'n>(names: impl IntoIterator<Item = &'n [u8]>) -> TreePath {
    let mut usable: Vec<&[u8]> = names.into_iter().filter(|name| is_name(name)).collect();
    if usable.len() > MAX_COMPONENTS {
        usable.drain(MAX_COMPONENTS - 1..usable.len() - 1);
    }
    let mut names: Vec<String> = usable.into_iter().filter_map(file_name).collect();
    if names.is_empty() {
        names.push(NAMELESS.into());
    }
    let mut len = names.iter().map(|name| name.len() + 1).sum::<usize>() - 1;
    while len > MAX_PATH_LEN && names.len() > 1 {
        len -= names.remove(names.len() - 2).len() + 1;
    }
    TreePath::of_names(&names)
}

/// `name` in at most 255 bytes.
fn cut(name: &str) -> String {
    if name.len() <= MAX_COMPONENT_LEN {
        return name.to_owned();
    }
    let extension = name.rfind('.').map_or("", |dot| &name[dot..]);
    let extension = if extension.len() <= MAX_EXTENSION { extension } else { "" };
    let end = name.floor_char_boundary(MAX_COMPONENT_LEN - extension.len());
    format!("{}{extension}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn utf8_is_shown_as_it_is() {
        for name in
            ["film.mkv", "ü", "100%", "%41", "%zz", "%e4", "%E4%BD%A0.txt", "a\\b", "a:b?", "…", "~2", "%25", "�"]
        {
            assert_eq!(shown_name(name.as_bytes()), name);
            assert_eq!(raw_name(name), name.as_bytes());
        }
    }

    #[test]
    fn what_is_not_is_escaped() {
        for (raw, shown) in [
            (&b"\xc4\xe3\xba\xc3.txt"[..], "%C4%E3%BA%C3.txt"),
            (b"a\xff", "a%FF"),
            (b"a%FF", "a%25FF"),
            (b"a%25FF", "a%2525FF"),
            (b"100%\xff", "100%25%FF"),
            (b"a/b", "a%2Fb"),
            (b"a%2Fb", "a%252Fb"),
            (b"\0", "%00"),
            ("ü\u{0}".as_bytes(), "ü%00"),
            (b"%E4%BD\xff", "%25E4%25BD%FF"),
        ] {
            assert_eq!(shown_name(raw), shown);
            assert_eq!(raw_name(shown), raw, "{shown}");
        }
    }

    #[test]
    fn paths_are_made_of_what_is_usable() {
        let path = |names: &[&[u8]]| tree_path(names.iter().copied()).to_string();
        assert_eq!(path(&[b"..", b"a", b"", b".", b"..", b"b"]), "a/b");
        assert_eq!(path(&[b"/etc/passwd"]), "%2Fetc%2Fpasswd");
        assert_eq!(path(&[]), "_");
        assert_eq!(path(&[b".."]), "_");
        assert_eq!(path(&[&b"d"[..]; 300]), ["d"; MAX_COMPONENTS].join("/"));
        let long = path(&[&[b'x'; 255][..], &[b'y'; 255], &[b'z'; 300]]);
        assert_eq!(long.len(), 255 * 3 + 2);
        assert!(path(&[&[b'x'; 255][..]; 50]).len() <= MAX_PATH_LEN);
        assert_eq!(path(&[&[&[b'x'; 300][..], b".mkv"].concat()]), format!("{}.mkv", "x".repeat(251)));
        assert_eq!(path(&["é".repeat(200).as_bytes()]), "é".repeat(127));
        assert!(path(&[&[0xff; 300][..]]).len() <= 255);
    }

    proptest! {
        #[test]
        fn the_rule_is_reversible(raw in prop::collection::vec(prop_oneof![
            prop::sample::select(&b"%25EF4aBD/\0\xe4\xbd\xa0\xff"[..]), any::<u8>(),
        ], 0..24)) {
            let shown = shown_name(&raw);
            prop_assert!(!shown.contains(['/', '\0']));
            prop_assert_eq!(raw_name(&shown), raw);
        }

        #[test]
        fn escapes_of_escapes_are_reversible(raw in "(%|25|%25|E4|BD|A0|FF|2F|a|é){0,12}") {
            prop_assert_eq!(raw_name(&shown_name(raw.as_bytes())), raw.as_bytes());
        }

        #[test]
        fn any_names_make_a_path(names in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..130)) {
            let path = tree_path(names.iter().map(Vec::as_slice));
            prop_assert!(TreePath::new(path.as_str()).is_ok());
        }
    }
}
