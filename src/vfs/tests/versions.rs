//! Versions one after the other, against a model: what the kernel knows, and what programs have open.

use std::collections::HashMap;

use proptest::sample::Index;

use super::*;
use crate::types::{FileRoot, InfoHash, InfoSig};

/// A file of a model: what it is full of, and how long it is.
type Tree = BTreeMap<String, Leaf>;

#[derive(Clone, Debug, PartialEq)]
enum Leaf {
    File { fill: u8, length: u64, executable: bool },
    Directory,
    Symlink(String),
}

/// Content whose files are each full of one byte.
struct Filled {
    fills: Vec<u8>,
    open: Mutex<BTreeSet<ReaderId>>,
}

impl Content for Filled {
    fn open(&self, _: FileIndex) -> ReaderId {
        let mut open = self.open.lock().unwrap();
        let reader = ReaderId(open.last().map_or(1, |last| last.0 + 1));
        open.insert(reader);
        reader
    }

    fn close(&self, reader: ReaderId) {
        assert!(self.open.lock().unwrap().remove(&reader));
    }

    fn read_cached(&self, reader: ReaderId, file: FileIndex, _: u64, len: u32) -> Option<Bytes> {
        assert!(self.open.lock().unwrap().contains(&reader));
        Some(vec![self.fills[file.0 as usize]; len as usize].into())
    }

    fn read(&self, _: ReaderId, _: FileIndex, _: u64, _: u32, _: ReadReply) {
        panic!("everything is here")
    }

    fn cached_bytes(&self, _: FileIndex) -> u64 {
        1 << 30
    }
}

struct Fills<'a>(&'a [u8]);

impl Source for Fills<'_> {
    fn read_at(&self, file: FileIndex, _: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(self.0[file.0 as usize]);
        Ok(())
    }

    fn check_unchanged(&self, _: FileIndex) -> io::Result<()> {
        Ok(())
    }
}

fn version(tree: &Tree, algorithm: HashAlgorithm, seq: u64) -> Version {
    let (mut entries, mut fills) = (Vec::new(), Vec::new());
    for (path, leaf) in tree {
        let (kind, fill) = match leaf {
            Leaf::Directory => (EntryKind::Directory, 0),
            Leaf::Symlink(target) => (EntryKind::Symlink { target: target.clone() }, 0),
            Leaf::File { fill, length, executable } => {
                (EntryKind::File { length: *length, root: None, executable: *executable }, *fill)
            }
        };
        entries.push(Entry { path: TreePath::new(path).unwrap(), kind });
        fills.push(fill);
    }
    let options = CreateOptions {
        name: "t".into(),
        algorithm,
        piece_length: None,
        created_at: Some(seq as i64),
        peers: Vec::new(),
        version: None,
    };
    let metainfo = create(&options, entries, &Fills(&fills), &|_| ControlFlow::Continue(())).unwrap();
    let release = Release { origin: InfoSig([7; 64]), seq, signed_at: Some(1000 + seq as i64) };
    Version {
        metainfo: Arc::new(metainfo),
        content: Arc::new(Filled { fills, open: Mutex::default() }),
        release: Some(release),
    }
}

/// Every path of a tree, with the directories above its leaves.
fn all_paths(tree: &Tree) -> BTreeMap<String, Leaf> {
    let mut paths = tree.clone();
    for path in tree.keys() {
        for (at, _) in path.match_indices('/') {
            paths.insert(path[..at].to_owned(), Leaf::Directory);
        }
    }
    paths
}

/// Adds, unless something else is in the way.
fn add(tree: &mut Tree, path: &str, leaf: Leaf) {
    let is_below = |other: &str| other.starts_with(&format!("{path}/"));
    let above = |other: &String| path.starts_with(&format!("{other}/"));
    tree.retain(|other, _| !is_below(other) && !above(other));
    tree.insert(path.to_owned(), leaf);
}

#[derive(Clone, Debug)]
enum Change {
    Put(String, Leaf),
    Remove(Index),
    Rename(Index, String),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn leaf() -> impl Strategy<Value = Leaf> {
    prop_oneof![
        6 => (1..4u8, prop::sample::select(vec![0, 5, 5, 5, 20_000u64]), prop::bool::weighted(0.1))
            // Two files without bytes are filled with the same.
            .prop_map(|(fill, length, executable)| Leaf::File { fill: fill * u8::from(length > 0), length, executable }),
        1 => Just(Leaf::Directory),
        1 => prop::sample::select(vec!["a", "b"]).prop_map(|target| Leaf::Symlink(target.to_owned())),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    /// Shows another version; `true`: what begins is taken back first.
    Switch(Vec<Change>, bool),
    /// Walks a path of the current version, or of one that is no more.
    Walk(String),
    OpenAt(Index),
    Close(Index),
    Forget(Index),
    /// Lists an open directory in the form that tells the kernel of inodes.
    ListPlus(Index, usize),
    LookBelow(Index, String),
}

fn step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        3 => (path(), leaf()).prop_map(|(path, leaf)| Change::Put(path, leaf)),
        1 => any::<Index>().prop_map(Change::Remove),
        1 => (any::<Index>(), path()).prop_map(|(at, path)| Change::Rename(at, path)),
    ];
    prop_oneof![
        3 => (prop::collection::vec(change, 0..4), prop::bool::weighted(0.1)).prop_map(|(changes, back)| Step::Switch(changes, back)),
        6 => path().prop_map(Step::Walk),
        3 => any::<Index>().prop_map(Step::OpenAt),
        2 => any::<Index>().prop_map(Step::Close),
        3 => any::<Index>().prop_map(Step::Forget),
        2 => (any::<Index>(), 0..5usize).prop_map(|(at, room)| Step::ListPlus(at, room)),
        3 => (any::<Index>(), path()).prop_map(|(at, path)| Step::LookBelow(at, path)),
    ]
}

/// What a number stands for, from the moment that it was first told.
#[derive(Clone, Debug, PartialEq)]
struct Identity {
    path: String,
    leaf: Leaf,
    /// Of a directory: all that is below it.
    below: Tree,
}

fn identity(tree: &Tree, path: &str) -> Option<Identity> {
    let leaf = all_paths(tree).remove(path)?;
    let prefix = format!("{path}/");
    let below = all_paths(tree).into_iter().filter(|(other, _)| other.starts_with(&prefix)).collect();
    Some(Identity { path: path.to_owned(), leaf, below })
}

struct World {
    vfs: Arc<Vfs>,
    seq: u64,
    tree: Tree,
    algorithm: HashAlgorithm,
    /// What the kernel knows, how often.
    known: BTreeMap<Ino, u64>,
    /// Every number that was ever told.
    told: HashMap<Ino, Identity>,
    open: Vec<(Handle, Ino, Identity)>,
}

impl World {
    fn new(tree: Tree, algorithm: HashAlgorithm) -> Self {
        let vfs = Arc::new(Vfs::new(version(&tree, algorithm, 1), None, OWNER).unwrap());
        Self { vfs, seq: 1, tree, algorithm, known: BTreeMap::new(), told: HashMap::new(), open: Vec::new() }
    }

    fn know(&mut self, ino: Ino, identity: &Identity) {
        *self.known.entry(ino).or_default() += 1;
        let first = self.told.entry(ino).or_insert_with(|| identity.clone());
        assert_eq!(first, identity, "an inode never changes");
    }

    fn look(&mut self, parent: Ino, name: &str, expected: Option<&Identity>) -> Option<Ino> {
        let found = self.vfs.lookup(parent, name.as_bytes()).unwrap();
        assert_eq!(found.attr.is_some(), expected.is_some(), "{name}");
        let (attr, identity) = (found.attr?, expected?);
        self.check_attr(&attr, identity);
        self.know(attr.ino, identity);
        Some(attr.ino)
    }

    fn check_attr(&self, attr: &Attr, identity: &Identity) {
        match &identity.leaf {
            Leaf::Directory => assert_eq!(attr.kind, FileKind::Directory),
            Leaf::Symlink(target) => assert_eq!((attr.kind, attr.size), (FileKind::Symlink, target.len() as u64)),
            Leaf::File { length, executable, .. } => {
                assert_eq!((attr.kind, attr.size, attr.mode & 0o111 != 0), (FileKind::File, *length, *executable));
            }
        }
    }

    /// Walks from the root; what is found is what the tree says.
    fn walk(&mut self, path: &str) -> Option<Ino> {
        let mut at = Ino::ROOT;
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let expected = identity(&self.tree, &path[..end]);
            if at != Ino::ROOT && self.vfs.attr(at).unwrap().kind != FileKind::Directory {
                assert_eq!(look(&self.vfs, at, b"a"), Err(FsError::NotADirectory));
                return None;
            }
            let name = path[..end].rsplit('/').next().unwrap();
            at = self.look(at, name, expected.as_ref())?;
        }
        Some(at)
    }

    fn open(&mut self, ino: Ino, identity: Identity) {
        let handle = match &identity.leaf {
            Leaf::Directory => self.vfs.open_dir(ino).unwrap().handle,
            Leaf::File { .. } => self.vfs.open(ino).unwrap().handle,
            Leaf::Symlink(target) => return assert_eq!(self.vfs.read_link(ino).as_ref(), Ok(target)),
        };
        self.open.push((handle, ino, identity));
    }

    /// What is open is as it was when it was opened.
    fn check_open(&self) {
        for (handle, ino, identity) in &self.open {
            match &identity.leaf {
                Leaf::File { fill, length, .. } => {
                    let bytes = self.vfs.read_cached(*handle, 0, 100).unwrap().unwrap();
                    assert_eq!(bytes, vec![*fill; 100.min(*length as usize)]);
                }
                _ => {
                    let lines = list_open(&self.vfs, *handle, 0).unwrap();
                    let names: Vec<_> = lines[2..].iter().map(|line| line.name.clone()).collect();
                    assert_eq!((lines[0].ino, names), (*ino, names_in(identity)));
                }
            }
        }
    }

    fn switch(&mut self, changes: Vec<Change>, taken_back: bool) {
        let before = self.tree.clone();
        let mut tree = before.clone();
        for change in changes {
            let nth = |tree: &Tree, at: Index| tree.keys().nth(at.index(tree.len())).cloned().unwrap();
            match change {
                Change::Put(path, leaf) => add(&mut tree, &path, leaf),
                Change::Remove(at) => drop(tree.remove(&nth(&tree, at))),
                Change::Rename(at, path) => {
                    let leaf = tree.remove(&nth(&tree, at)).unwrap();
                    add(&mut tree, &path, leaf);
                }
            }
            if tree.is_empty() {
                tree = before.clone();
            }
        }
        self.seq += 1;
        let next = version(&tree, self.algorithm, self.seq);
        let vfs = Arc::clone(&self.vfs);
        let Some(switch) = vfs.switch(next).unwrap() else { return assert_eq!(before, tree) };
        let changed: BTreeSet<String> = switch.names().map(str::to_owned).collect();
        // While the kernel is made to forget, everything is as it was; what changes is not to be remembered.
        let roots =
            |tree: &Tree| all_paths(tree).into_keys().filter(|path| !path.contains('/')).collect::<BTreeSet<_>>();
        for name in roots(&before).union(&roots(&tree)) {
            let differs = identity(&before, name) != identity(&tree, name);
            // Without roots, the same bytes in another torrent cannot be told to be the same.
            assert!(changed.contains(name) >= differs, "{name} changes");
            assert!(self.algorithm == HashAlgorithm::Sha1 || changed.contains(name) == differs, "{name} stays");
            let found = self.vfs.lookup(Ino::ROOT, name.as_bytes()).unwrap();
            assert_eq!(found.name_valid_for == Duration::ZERO, changed.contains(name));
            assert_eq!(found.attr.is_some(), identity(&before, name).is_some());
            if let (Some(attr), Some(identity)) = (found.attr, identity(&before, name)) {
                self.know(attr.ino, &identity);
                self.check_below(attr.ino, &identity);
            }
        }
        match taken_back {
            true => drop(switch),
            false => {
                switch.finish();
                self.tree = tree;
            }
        }
    }

    /// All that is below a directory is what it was when the directory was told.
    fn check_below(&mut self, ino: Ino, identity: &Identity) {
        let mut inodes = HashMap::from([(identity.path.clone(), ino)]);
        for (path, _) in identity.below.clone() {
            let (parent, name) = path.rsplit_once('/').unwrap();
            let below = Identity {
                below: within(&identity.below, &path),
                leaf: identity.below[&path].clone(),
                path: path.clone(),
            };
            let found = self.look(inodes[parent], name, Some(&below)).unwrap();
            inodes.insert(path, found);
        }
    }

    fn list_plus(&mut self, at: Index, room: usize) {
        let directories: Vec<_> =
            self.open.iter().filter(|(_, _, identity)| identity.leaf == Leaf::Directory).cloned().collect();
        let Some((handle, _, directory)) = (!directories.is_empty()).then(|| at.get(&directories)) else { return };
        let mut told = Vec::new();
        let mut left = room;
        self.vfs
            .read_dir_plus(*handle, 0, |line, attr| {
                if left == 0 {
                    return true;
                }
                left -= 1;
                if line.name != "." && line.name != ".." {
                    told.push((line.ino, line.name.to_owned(), attr));
                }
                false
            })
            .unwrap();
        for (ino, name, attr) in told {
            let path = if directory.path.is_empty() { name } else { format!("{}/{name}", directory.path) };
            let line = Identity {
                below: within(&directory.below, &path),
                leaf: directory.below[&path].clone(),
                path: path.clone(),
            };
            match attr {
                Some(attr) => self.check_attr(&attr, &line),
                None => assert!(!path.contains('/'), "only the root's lines may be of no use"),
            }
            self.know(ino, &line);
        }
    }

    fn known_directories(&self) -> Vec<(Ino, Identity)> {
        let all = self.known.keys().map(|ino| (*ino, self.told[ino].clone()));
        all.filter(|(_, identity)| identity.leaf == Leaf::Directory).collect()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Switch(changes, taken_back) => self.switch(changes, taken_back),
            Step::Walk(path) => drop(self.walk(&path)),
            Step::OpenAt(at) => {
                let known: Vec<_> = self.known.keys().copied().chain([Ino::ROOT]).collect();
                let ino = *at.get(&known);
                let root = || Identity { path: String::new(), leaf: Leaf::Directory, below: all_paths(&self.tree) };
                let identity = self.told.get(&ino).cloned().unwrap_or_else(root);
                self.open(ino, identity);
            }
            Step::Close(at) if !self.open.is_empty() => {
                let (handle, ..) = self.open.swap_remove(at.index(self.open.len()));
                self.vfs.close(handle);
            }
            Step::Forget(at) if !self.known.is_empty() => {
                let ino = *self.known.keys().nth(at.index(self.known.len())).unwrap();
                let count = self.known.remove(&ino).unwrap();
                self.vfs.forget((count > 1).then_some((ino, count - 1)));
                assert!(self.vfs.attr(ino).is_ok(), "still known once");
                self.vfs.forget([(ino, 1)]);
            }
            Step::ListPlus(at, room) => self.list_plus(at, room),
            Step::LookBelow(at, path) => {
                let directories = self.known_directories();
                if directories.is_empty() {
                    return;
                }
                let (ino, directory) = at.get(&directories).clone();
                let name = path.split('/').next().unwrap();
                let path = format!("{}/{name}", directory.path);
                let below = directory.below.get(&path).map(|leaf| Identity {
                    below: within(&directory.below, &path),
                    leaf: leaf.clone(),
                    path: path.clone(),
                });
                self.look(ino, name, below.as_ref());
            }
            Step::Close(_) | Step::Forget(_) => {}
        }
    }
}

fn within(tree: &Tree, path: &str) -> Tree {
    let prefix = format!("{path}/");
    tree.iter()
        .filter(|(other, _)| other.starts_with(&prefix))
        .map(|(path, leaf)| (path.clone(), leaf.clone()))
        .collect()
}

fn names_in(directory: &Identity) -> Vec<String> {
    let prefix = if directory.path.is_empty() { String::new() } else { format!("{}/", directory.path) };
    let names = directory.below.keys().filter_map(|path| path.strip_prefix(&prefix));
    names.filter(|name| !name.contains('/')).map(str::to_owned).collect()
}

proptest! {
    #[test]
    fn any_sequence_of_versions_is_shown_one_after_the_other(
        first in prop::collection::vec((path(), leaf()), 1..8),
        steps in prop::collection::vec(step(), 1..40),
        algorithm in prop::sample::select(vec![HashAlgorithm::Sha1, HashAlgorithm::Blake3]),
    ) {
        let mut tree = Tree::new();
        first.into_iter().for_each(|(path, leaf)| add(&mut tree, &path, leaf));
        let mut world = World::new(tree, algorithm);
        for step in steps {
            let (before, numbers) = (world.tree.clone(), numbers(&mut world));
            world.step(step);
            world.check_open();
            // Whatever happens, every path of the current version is found, and nothing else.
            let now = numbers_of(&mut world);
            for (path, ino) in now {
                let is_same = identity(&before, &path) == identity(&world.tree, &path);
                let may_stay = numbers.get(&path) == Some(&ino);
                prop_assert!(!may_stay || is_same, "{} has changed and kept its number", path);
                let is_leaf = !matches!(world.told[&ino].leaf, Leaf::Directory);
                if is_same && algorithm == HashAlgorithm::Blake3 && (is_leaf || !path.contains('/')) {
                    prop_assert!(may_stay, "{} has not changed, and has another number", path);
                }
            }
        }
        for (handle, ..) in std::mem::take(&mut world.open) {
            world.vfs.close(handle);
        }
        let known = std::mem::take(&mut world.known);
        world.vfs.forget(known);
        prop_assert_eq!((world.vfs.table().known(), world.vfs.table().left_over()), (0, 0));
        let current = world.vfs.current();
        prop_assert_eq!(Arc::strong_count(&current), 2, "only the table has the current view, and this test");
    }
}

fn numbers(world: &mut World) -> BTreeMap<String, Ino> {
    numbers_of(world)
}

/// The number of every path, found by walking.
fn numbers_of(world: &mut World) -> BTreeMap<String, Ino> {
    let paths: Vec<String> = all_paths(&world.tree).into_keys().collect();
    paths.into_iter().map(|path| (path.clone(), world.walk(&path).unwrap())).collect()
}

fn leaf_of(fill: u8) -> Leaf {
    Leaf::File { fill, length: 5, executable: false }
}

fn tree_of<const N: usize>(files: [(&str, u8); N]) -> Tree {
    files.into_iter().map(|(path, fill)| (path.to_owned(), leaf_of(fill))).collect()
}

#[test]
fn an_unchanged_inode_keeps_its_time_and_belongs_to_the_new_version() {
    let first = version(&tree_of([("a", 1), ("b", 1), ("d/x", 1)]), HashAlgorithm::Blake3, 1);
    let old_content = Arc::downgrade(&first.content);
    let vfs = Vfs::new(first, None, OWNER).unwrap();
    let before = [find(&vfs, "a").unwrap(), find(&vfs, "b").unwrap(), find(&vfs, "d/x").unwrap()];
    let directory = find(&vfs, "d").unwrap();
    let second = version(&tree_of([("a", 1), ("b", 2), ("d/x", 1), ("d/y", 1)]), HashAlgorithm::Blake3, 2);
    let switch = vfs.switch(second).unwrap().unwrap();
    assert_eq!(switch.names().collect::<Vec<_>>(), ["b", "d"]);
    switch.finish();
    assert_eq!(find(&vfs, "a").unwrap(), before[0]);
    assert_eq!(find(&vfs, "d/x").unwrap(), before[2]);
    let changed = find(&vfs, "b").unwrap();
    assert_ne!(changed.ino, before[1].ino);
    assert_eq!((before[1].mtime_s, changed.mtime_s, vfs.attr(Ino::ROOT).unwrap().mtime_s), (1, 2, 2));
    assert_eq!(vfs.attr(before[1].ino).unwrap(), before[1], "the kernel still knows it");
    assert!(look(&vfs, directory.ino, b"y").is_err(), "who is in the old directory stays in it");
    assert!(old_content.upgrade().is_some());
    vfs.forget([(before[1].ino, 1), (directory.ino, 2)]);
    assert!(old_content.upgrade().is_none(), "nothing needs the old version any more");
    assert_eq!(vfs.attr(before[1].ino), Err(FsError::NotFound));
}

#[test]
fn the_same_version_only_brings_a_new_release() {
    let tree = tree_of([("a", 1)]);
    let vfs = Vfs::new(version(&tree, HashAlgorithm::Sha1, 1), None, OWNER).unwrap();
    assert_eq!(vfs.xattr(Ino::ROOT, b"user.knot.seq").unwrap(), b"1");
    assert!(vfs.switch(version(&tree, HashAlgorithm::Sha1, 2)).unwrap().is_none());
    assert_eq!(vfs.xattr(Ino::ROOT, b"user.knot.seq").unwrap(), b"2");
    assert_eq!(vfs.xattr(Ino::ROOT, b"user.knot.signed_at").unwrap(), b"1002");
    assert_eq!(vfs.xattr(Ino::ROOT, b"user.knot.origin").unwrap(), "07".repeat(64).into_bytes());
    assert_eq!(vfs.xattr(Ino::ROOT, b"user.knot.infosig"), Err(FsError::NoAttribute));
}

#[test]
fn a_listing_of_an_older_root_is_no_look_up() {
    let vfs = Vfs::new(version(&tree_of([("a", 1), ("b", 1)]), HashAlgorithm::Blake3, 1), None, OWNER).unwrap();
    let opened = vfs.open_dir(Ino::ROOT).unwrap();
    assert!(!opened.is_fixed);
    let lines = |vfs: &Vfs| {
        let mut lines = Vec::new();
        vfs.read_dir_plus(opened.handle, 2, |line, attr| {
            lines.push((line.name.to_owned(), attr.is_some()));
            false
        })
        .unwrap();
        lines
    };
    let (linked, unlinked) = (|name: &str| (name.to_owned(), true), |name: &str| (name.to_owned(), false));
    assert_eq!(lines(&vfs), [linked("a"), linked("b")]);
    let next = version(&tree_of([("a", 1), ("c", 1)]), HashAlgorithm::Blake3, 2);
    let switch = vfs.switch(next).unwrap().unwrap();
    assert_eq!(vfs.attr(Ino::ROOT).unwrap().valid_for, Duration::ZERO);
    assert_eq!(lines(&vfs), [unlinked("a"), unlinked("b")]);
    switch.finish();
    assert_eq!(lines(&vfs), [unlinked("a"), unlinked("b")]);
    assert!(vfs.attr(Ino::ROOT).unwrap().valid_for > Duration::ZERO);
}

#[test]
fn while_a_directory_changes_it_has_another_number() {
    let vfs = Vfs::new(version(&tree_of([("d/e/x", 1)]), HashAlgorithm::Blake3, 1), None, OWNER).unwrap();
    let paths = ["d", "d/e", "d/e/x"];
    let before = paths.map(|path| find(&vfs, path).unwrap().ino);
    let switch = vfs.switch(version(&tree_of([("d/e/x", 1), ("d/f", 1)]), HashAlgorithm::Blake3, 2)).unwrap().unwrap();
    let during = paths.map(|path| find(&vfs, path).unwrap().ino);
    switch.finish();
    let after = paths.map(|path| find(&vfs, path).unwrap().ino);
    for at in 0..2 {
        assert!(before[at] != during[at] && during[at] != after[at] && before[at] != after[at]);
    }
    assert_eq!([before[2], during[2]], [after[2]; 2], "the file is the same all along");
}

#[test]
fn files_whose_directory_changes_have_another_name_meanwhile() {
    let vfs = Vfs::new(
        version(&tree_of([("d/x", 1), ("d/y", 1), ("d/z", 1), ("top", 1)]), HashAlgorithm::Blake3, 1),
        None,
        OWNER,
    )
    .unwrap();
    let inodes = ["d/x", "d/y", "d/z", "top"].map(|path| find(&vfs, path).unwrap().ino);
    for ino in [inodes[0], inodes[1], inodes[3]] {
        vfs.close(vfs.open(ino).unwrap().handle);
    }
    let mut leftovers: Vec<String> = Vec::new();
    for seq in 2..5 {
        let next =
            version(&tree_of([("d/x", 1), ("d/y", seq as u8), ("d/z", 1), ("top", 1)]), HashAlgorithm::Blake3, seq);
        let switch = vfs.switch(next).unwrap().unwrap();
        let kept = switch.kept().to_vec();
        assert!(kept.len() == 1 && kept[0].ends_with("/d/x"), "{kept:?}");
        assert_eq!(find(&vfs, &kept[0]).unwrap().ino, inodes[0]);
        let own = kept[0].split('/').nth(1).unwrap().to_owned();
        assert_eq!(switch.leftovers().map(|(_, name)| name).collect::<Vec<_>>(), leftovers);
        leftovers = match seq {
            // Of one that is taken back, the name is still to be forgotten.
            3 => {
                drop(switch);
                vec![own.clone(), leftovers[0].clone()]
            }
            _ => {
                switch.finish();
                vec![own.clone()]
            }
        };
        assert_eq!(find(&vfs, &kept[0]), Err(FsError::NotFound));
        assert!(names(&vfs, ".knot").iter().all(|name| !name.starts_with("coming")));
    }
}

#[test]
fn a_thousand_switches_leave_nothing_behind() {
    let tree = |fill| tree_of([("a", fill), ("d/e/x", fill), ("d/same", 1), ("same", 1)]);
    let vfs = Vfs::new(version(&tree(1), HashAlgorithm::Sha256Merkle, 1), None, OWNER).unwrap();
    for seq in 2..1000 {
        let handle = vfs.open_dir(find(&vfs, "d/e").unwrap().ino).unwrap().handle;
        let known = ["d", "d/e", "d/e/x", "a", "same"].map(|path| find(&vfs, path).unwrap().ino);
        vfs.switch(version(&tree((seq % 200) as u8), HashAlgorithm::Sha256Merkle, seq)).unwrap().unwrap().finish();
        vfs.close(handle);
        vfs.forget(known.map(|ino| (ino, 9)));
    }
    assert_eq!((vfs.table().known(), vfs.table().left_over()), (0, 0));
    assert!(vfs.open_handles().is_empty());
}

/// A dataset of which some versions are not here.
struct Known {
    versions: BTreeMap<u64, Version>,
    here: Mutex<BTreeSet<u64>>,
    asked: Mutex<Vec<u64>>,
}

impl Known {
    fn new(trees: &[Tree]) -> Arc<Self> {
        let versions: BTreeMap<u64, Version> =
            (1..).zip(trees).map(|(seq, tree)| (seq, version(tree, HashAlgorithm::Blake3, seq))).collect();
        Arc::new(Self { here: Mutex::new(versions.keys().copied().collect()), versions, asked: Mutex::default() })
    }
}

impl Dataset for Known {
    fn seqs(&self) -> Vec<u64> {
        self.versions.keys().copied().collect()
    }

    fn newest(&self) -> Option<u64> {
        self.here.lock().unwrap().last().copied()
    }

    fn describe(&self, seq: u64) -> Option<VersionInfo> {
        let info_hash: InfoHash = self.versions.get(&seq)?.metainfo.info_hash();
        Some(VersionInfo { info_hash, info_sig: InfoSig([seq as u8; 64]), signed_at: Some(1000 + seq as i64) })
    }

    fn version(&self, seq: u64) -> Option<Version> {
        self.asked.lock().unwrap().push(seq);
        self.here.lock().unwrap().contains(&seq).then(|| self.versions[&seq].clone())
    }

    fn checked_at(&self) -> Option<i64> {
        Some(5)
    }
}

fn names(vfs: &Vfs, path: &str) -> Vec<String> {
    let lines = list(vfs, find(vfs, path).unwrap().ino, 0).unwrap();
    lines.into_iter().skip(2).map(|line| line.name).collect()
}

#[test]
fn every_version_can_be_looked_into() {
    let trees = [tree_of([("a", 1), ("d/x", 1)]), tree_of([("a", 2), ("d/x", 1)]), tree_of([("n", 2)])];
    let dataset = Known::new(&trees);
    dataset.here.lock().unwrap().remove(&3);
    let vfs = Vfs::new(dataset.versions[&2].clone(), Some(dataset.clone()), OWNER).unwrap();
    assert_eq!(names(&vfs, ".knot"), ["current", "status", "versions"]);
    assert_eq!(names(&vfs, ".knot/versions"), ["1", "2", "3"]);
    let link = find(&vfs, ".knot/current").unwrap();
    assert_eq!((vfs.read_link(link.ino).unwrap(), link.size), ("versions/2".to_owned(), 10));
    assert!(dataset.asked.lock().unwrap().is_empty(), "nothing was looked into");

    // What is not here is told of, and asked for.
    let third = find(&vfs, ".knot/versions/3").unwrap();
    assert_eq!((third.kind, third.mtime_s, third.valid_for), (FileKind::Directory, 1003, Duration::ZERO));
    assert_eq!(look(&vfs, third.ino, b"n"), Err(FsError::NotYet));
    assert_eq!(vfs.open_dir(third.ino), Err(FsError::NotYet));
    assert_eq!(vfs.xattr(third.ino, b"user.knot.infosig").unwrap(), "03".repeat(64).into_bytes());
    assert_eq!(vfs.xattr(third.ino, b"user.knot.seq").unwrap(), b"3");
    assert_eq!(vfs.xattr_names(third.ino).unwrap().len(), 4);
    assert_eq!(*dataset.asked.lock().unwrap(), [3, 3]);
    dataset.here.lock().unwrap().insert(3);
    assert_eq!(names(&vfs, ".knot/versions/3"), ["n"]);
    let newer = find(&vfs, ".knot/current").unwrap();
    assert_eq!(
        (vfs.read_link(newer.ino).unwrap(), vfs.read_link(link.ino).unwrap()),
        ("versions/3".into(), "versions/2".into())
    );

    // Files that are the same are the same; directories have one place.
    let of = |path: &str| find(&vfs, path).unwrap().ino;
    assert_eq!(of(".knot/versions/1/d/x"), of("d/x"));
    assert_ne!(of(".knot/versions/1/a"), of("a"));
    assert_eq!(of(".knot/versions/2/a"), of("a"));
    assert_ne!(of(".knot/versions/2/d"), of("d"));
    assert_ne!(of(".knot/versions/2/d"), of(".knot/versions/1/d"));
    assert_eq!(of(".knot/versions/1/d/.."), of(".knot/versions/1"));
    assert_eq!(of(".knot/versions/1/.."), of(".knot/versions"));
    for name in [&b"4"[..], b"01", b"+1", b"-1", b"", b"18446744073709551615", b"x"] {
        let found = vfs.lookup(of(".knot/versions"), name).unwrap();
        assert_eq!(found, Found { attr: None, name_valid_for: Duration::ZERO });
    }
    let report = vfs.open(of(".knot/status")).unwrap().handle;
    let report = String::from_utf8(vfs.read_cached(report, 0, 9999).unwrap().unwrap().to_vec()).unwrap();
    assert!(report.contains("\"seq\":2") && report.contains("\"newest_seq\":3"), "{report}");
}

#[test]
fn a_version_stays_as_it_is_while_others_are_shown_and_goes_when_nobody_looks() {
    let trees = [tree_of([("a", 1), ("d/x", 1)]), tree_of([("a", 2), ("d/y", 1)])];
    let dataset = Known::new(&trees);
    let vfs = Vfs::new(dataset.versions[&1].clone(), Some(dataset.clone()), OWNER).unwrap();
    let content = || Arc::strong_count(&dataset.versions[&1].content);
    let paths = [".knot/versions/1", ".knot/versions/1/a", ".knot/versions/1/d", ".knot/versions/1/d/x"];
    let inodes = paths.map(|path| find(&vfs, path).unwrap().ino);
    assert_eq!(dataset.asked.lock().unwrap().len(), 1, "the tree is made once");
    let switch = vfs.switch(dataset.versions[&2].clone()).unwrap().unwrap();
    // What is shown only below `.knot` says nothing of the switch.
    assert_eq!(paths.map(|path| find(&vfs, path).unwrap().ino), inodes);
    switch.finish();
    assert_eq!(paths.map(|path| find(&vfs, path).unwrap().ino), inodes);
    let handle = vfs.open(inodes[1]).unwrap().handle;
    assert_eq!(vfs.read_cached(handle, 0, 10).unwrap().unwrap(), vec![1; 5]);
    assert!(content() > 1);
    vfs.forget(inodes.map(|ino| (ino, 99)));
    assert!(content() > 1, "a file is open");
    assert_eq!(vfs.read_cached(handle, 0, 10).unwrap().unwrap(), vec![1; 5]);
    vfs.close(handle);
    assert_eq!(content(), 1);
    assert_eq!(find(&vfs, ".knot/versions/1").unwrap().ino, inodes[0]);
    assert_ne!(find(&vfs, ".knot/versions/1/d").unwrap().ino, inodes[2]);
}

#[test]
#[allow(clippy::print_stdout)]
fn one_file_of_very_many_changes() {
    let tree = |fill| {
        // A metainfo has room for so many files, but not for the roots of all.
        let file = |at: u64| Leaf::File { fill: 1, length: at % 2, executable: false };
        let mut tree: Tree = (0..100_000).map(|at| (format!("{}/{at}", at % 100), file(at))).collect();
        tree.insert("50/77150".to_owned(), leaf_of(fill));
        tree
    };
    let vfs = Vfs::new(version(&tree(1), HashAlgorithm::Blake3, 1), None, OWNER).unwrap();
    let next = version(&tree(2), HashAlgorithm::Blake3, 2);
    let started = std::time::Instant::now();
    let switch = vfs.switch(next).unwrap().unwrap();
    assert_eq!(switch.names().collect::<Vec<_>>(), ["50"]);
    switch.finish();
    let took = started.elapsed();
    println!("a switch of 100,000 files took {took:?}");
    assert!(took < Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 }), "{took:?}");
}

#[test]
fn two_files_with_one_root_and_another_length_are_not_the_same() {
    // A root alone does not tell them apart, so it must not decide alone.
    let entry = |length| Entry {
        path: TreePath::new("f").unwrap(),
        kind: EntryKind::File { length, root: Some(FileRoot([9; 32])), executable: false },
    };
    let before = super::super::tree::Tree::build(&[entry(32)]).unwrap();
    let after = super::super::tree::Tree::build(&[entry(40_000)]).unwrap();
    assert!(!super::super::view::is_same(&before.nodes()[1].kind, &after.nodes()[1].kind, false));
    assert!(super::super::view::is_same(&before.nodes()[1].kind, &before.nodes()[1].kind, false));
}
