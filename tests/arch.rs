//! The house rules, read off the source: who imports whom, what the core may not touch, how long things get.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "arch/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may import. `src/lib.rs` shows the same table to people.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("metainfo", &["types"]),
    ("wire", &["types"]),
    ("updates", &["types", "metainfo"]),
    ("engine", &["types", "metainfo", "wire"]),
    ("vfs", &["types", "metainfo"]),
    ("transports", &["types"]),
    ("discovery", &["types"]),
    ("cache", &["types"]),
    ("index", &["types", "metainfo"]),
    ("node", &["types", "metainfo", "wire", "updates", "engine", "vfs", "transports", "discovery", "cache", "index"]),
    ("control", &["types", "vfs", "node"]),
    ("fuse", &["types", "vfs", "node"]),
    (
        "cli",
        &[
            "types",
            "metainfo",
            "wire",
            "updates",
            "engine",
            "vfs",
            "transports",
            "discovery",
            "cache",
            "index",
            "node",
            "control",
            "fuse",
        ],
    ),
];

/// Rooms that do no input or output, know no runtime, and are told the time.
const PURE: &[&str] = &["types", "metainfo", "updates", "wire", "engine", "vfs"];
/// What they may not name. Addresses are values: they are in `core::net`.
const IMPURE: &[&str] = &["tokio", "std::fs", "std::net", "std::process", "std::env", "std::thread::sleep"];
const CLOCKS: &[&str] = &["Instant::now", "SystemTime"];

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;

/// One source file, without its tests.
struct File {
    /// Relative to `src`.
    path: PathBuf,
    code: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), code: source::without_tests(&source::code_only(text)).0 }
    }

    /// The directory below `src`; `None` for `lib.rs` and `main.rs`.
    fn room(&self) -> Option<&str> {
        let mut parts = self.path.iter();
        let first = parts.next()?.to_str()?;
        parts.next().is_some().then_some(first)
    }

    /// How many `super`s lead from this file's module to the crate's root.
    fn depth(&self) -> usize {
        let parts = self.path.iter().count();
        if self.path.ends_with("mod.rs") { parts - 1 } else { parts }
    }

    /// The rooms that this file names, other than its own.
    fn imports(&self) -> BTreeSet<String> {
        let root = |path: &Vec<String>| {
            let supers = path.iter().take_while(|segment| *segment == "super").count();
            match path.first()?.as_str() {
                "crate" | "knot" => path.get(1).cloned(),
                _ if supers >= self.depth() => path.get(supers).cloned(),
                _ => None,
            }
        };
        let named = source::paths(&self.code).iter().filter_map(root).collect::<BTreeSet<_>>();
        named.into_iter().filter(|name| Some(name.as_str()) != self.room()).collect()
    }
}

fn allowed(room: &str) -> Option<&'static [&'static str]> {
    MAY_IMPORT.iter().find(|(name, _)| *name == room).map(|(_, allowed)| *allowed)
}

fn import_violations(file: &File) -> Vec<String> {
    let Some(room) = file.room() else { return Vec::new() };
    let Some(allowed) = allowed(room) else {
        return vec![format!("{}: room {room:?} is not in the table", file.path.display())];
    };
    let forbidden = file.imports().into_iter().filter(|import| !allowed.contains(&import.as_str()));
    forbidden.map(|import| format!("{}: {room} may not import {import}", file.path.display())).collect()
}

fn purity_violations(file: &File) -> Vec<String> {
    if !file.room().is_some_and(|room| PURE.contains(&room)) {
        return Vec::new();
    }
    let paths = source::paths(&file.code).into_iter().map(|path| path.join("::"));
    let is_impure = |path: &String| {
        let starts = |ban: &&str| path == *ban || path.starts_with(&format!("{ban}::"));
        let names = |ban: &&str| format!("::{path}::").contains(&format!("::{ban}::"));
        IMPURE.iter().any(starts) || CLOCKS.iter().any(names)
    };
    paths.filter(is_impure).map(|path| format!("{}: pure rooms may not use {path}", file.path.display())).collect()
}

fn length_violations(file: &File) -> Vec<String> {
    let path = file.path.display();
    let lines = file.code.trim_end().lines().count();
    let long_file = (lines > MAX_FILE_LINES)
        .then(|| format!("{path}: {lines} lines without tests, expected at most {MAX_FILE_LINES}"));
    let long = source::functions(&file.code).into_iter().filter(|(_, lines)| lines.len() > MAX_FUNCTION_LINES);
    let long_functions = long.map(|(name, lines)| {
        format!("{path}: fn {name} has {} lines, expected at most {MAX_FUNCTION_LINES}", lines.len())
    });
    long_file.into_iter().chain(long_functions).collect()
}

/// Every file of `src` that is compiled outside tests.
fn production_files() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut texts = BTreeMap::new();
    collect(&src, &src, &mut texts);
    assert!(texts.len() > 10, "expected the sources in {src:?}, found {} files", texts.len());
    let mut test_modules = Vec::new();
    for (path, text) in &texts {
        let dir = match path.file_name().and_then(|name| name.to_str()) {
            Some("mod.rs" | "lib.rs" | "main.rs") => path.parent().unwrap().to_owned(),
            _ => path.with_extension(""),
        };
        let modules = source::without_tests(&source::code_only(text)).1;
        test_modules.extend(modules.into_iter().map(|name| dir.join(name)));
    }
    let is_test = |path: &PathBuf| test_modules.iter().any(|module| path.with_extension("").starts_with(module));
    texts
        .iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| File::new(path.to_str().unwrap(), text))
        .collect()
}

fn collect(dir: &Path, src: &Path, texts: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, src, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.insert(path.strip_prefix(src).unwrap().to_owned(), fs::read_to_string(&path).unwrap());
        }
    }
}

fn assert_none(check: impl Fn(&File) -> Vec<String>) {
    let violations: Vec<_> = production_files().iter().flat_map(check).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    assert_none(import_violations);
}

#[test]
fn the_core_does_no_io_and_has_no_clock() {
    assert_none(purity_violations);
}

#[test]
fn files_and_functions_stay_short() {
    assert_none(length_violations);
}

/// The table in the documentation of the crate: `//! | rooms | may import |`.
#[test]
fn the_map_shows_this_table() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let mut shown = BTreeMap::new();
    for line in map.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells =
            line.trim_end_matches([' ', '|']).split('|').map(|cell| cell.replace('`', "").trim().to_owned());
        let (rooms, imports) = (cells.next().unwrap(), cells.next().unwrap_or_default());
        for room in rooms.split(", ") {
            let imports: BTreeSet<_> =
                imports.split(", ").filter(|name| *name != "nothing").map(str::to_owned).collect();
            shown.insert(room.to_owned(), imports);
        }
    }
    for (room, allowed) in MAY_IMPORT {
        let allowed: BTreeSet<_> = allowed.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(shown.get(*room), Some(&allowed), "what src/lib.rs says of {room}");
    }
}

#[test]
fn the_table_has_no_circle() {
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for (room, allowed) in MAY_IMPORT {
        assert!(allowed.iter().all(|import| known.contains(import)), "{room} imports a room below it");
        known.insert(room);
    }
}

// What follows shows that the checks above can fail.

#[test]
fn a_forbidden_import_is_seen_however_it_is_spelled() {
    for text in [
        "use crate::engine::Input;",
        "use crate::{types::InfoId, engine};",
        "use crate::{\n    types::{InfoId, PieceIndex},\n    engine::{self, Input},\n};",
        "fn f() -> crate::engine::Input { todo!() }",
        "use super::super::engine::Input;",
        "pub use crate::engine;",
        "const A: char = '\"'; use crate::engine; const B: char = '\"';",
        "const A: &str = r#\"\"#; use crate::engine; const B: &str = \"\";",
        "/* /* */ */ use crate::engine; //",
        "fn f() { S { #[cfg(test)] a: (1, 2), b: crate::engine::new() } }",
        "fn f() { S { a, #[cfg(test)] b: 1 } }\nuse crate::engine;",
        "#[cfg(test)]\nmod tests;\nuse crate::engine;",
    ] {
        let seen = import_violations(&File::new("fuse/deep.rs", text));
        assert_eq!(seen, ["fuse/deep.rs: fuse may not import engine"], "{text}");
    }
    assert_eq!(import_violations(&File::new("fuse/mod.rs", "use super::engine::Input;")).len(), 1);
    assert_eq!(import_violations(&File::new("attic/mod.rs", "")).len(), 1, "an unknown room");
}

#[test]
fn an_allowed_import_is_not_a_violation() {
    for text in [
        "use crate::vfs::Content; use crate::{types::InfoId, node::api::ApiError};",
        "use super::engine::own_module_of_that_name;",
        "use super::super::vfs::Content;",
        "// use crate::engine;\n/* crate::engine */",
        "const A: &str = \"crate::engine\"; const B: &str = r##\"\"#crate::engine\"##;",
        "#[cfg(test)]\nmod tests {\n    use crate::engine::Input;\n}",
        "#[cfg(test)]\nuse crate::engine::Input;\nfn f<'a>(a: &'a str) {}",
        "fn f() { S { #[cfg(test)] a: crate::engine::new(1, 2), b } }",
    ] {
        let seen = import_violations(&File::new("fuse/deep.rs", text));
        assert!(seen.is_empty(), "{text}: {seen:?}");
    }
}

#[test]
fn io_and_clocks_in_the_core_are_seen() {
    for text in [
        "use tokio::sync::mpsc;",
        "use std::{fs, io};",
        "fn f() { std::fs::read(x); }",
        "use std::net::TcpStream;",
        "use std::time::{Duration, SystemTime};",
        "fn f() { let now = Instant::now(); }",
        "fn f() { let now = std::time::Instant::now(); }",
    ] {
        assert_eq!(purity_violations(&File::new("engine/a.rs", text)).len(), 1, "{text}");
        assert_eq!(purity_violations(&File::new("node/a.rs", text)).len(), 0, "{text}");
    }
    let pure = "use std::io::Read; use std::time::{Duration, Instant}; use core::net::SocketAddr; fn tokio_like() {}";
    assert!(purity_violations(&File::new("engine/a.rs", pure)).is_empty());
}

#[test]
fn long_files_and_functions_are_seen() {
    let function =
        |lines: usize| format!("fn f<T>() -> [u8; 2]\nwhere\n    T: Copy,\n{{\n{}}}\n", "    g();\n".repeat(lines));
    assert!(length_violations(&File::new("types/a.rs", &function(65))).is_empty());
    assert_eq!(length_violations(&File::new("types/a.rs", &function(66))).len(), 1);
    assert!(length_violations(&File::new("types/a.rs", &"\nuse x;".repeat(499))).is_empty());
    assert_eq!(length_violations(&File::new("types/a.rs", &"\nuse x;".repeat(501))).len(), 1);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(600));
    assert!(length_violations(&File::new("types/a.rs", &tests)).is_empty());
}
