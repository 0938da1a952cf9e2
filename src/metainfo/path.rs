//! Paths inside a torrent.

use std::fmt;

/// Bytes of the longest path.
pub const MAX_PATH_LEN: usize = 4096;
/// Names that a path may have.
pub const MAX_COMPONENTS: usize = 100;
/// Bytes of the longest name: what Linux filesystems hold.
pub const MAX_COMPONENT_LEN: usize = 255;

/// A relative path below the torrent's root: 1 to 100 names joined by `/`, none of them empty, `.` or `..`.
///
/// Ordered by its bytes, which is the order of entries in a native metainfo.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreePath(Box<str>);

impl TreePath {
    /// The path that `text` spells.
    ///
    /// # Errors
    /// When it could name something outside the torrent, or nothing that a filesystem can hold.
    pub fn new(text: &str) -> Result<Self, PathError> {
        let refuse = |problem| PathError { shown: shorten(text), problem };
        if text.len() > MAX_PATH_LEN {
            return Err(refuse(PathProblem::Long(text.len())));
        }
        let components = text.split('/').count();
        if components > MAX_COMPONENTS {
            return Err(refuse(PathProblem::Deep(components)));
        }
        match text.split('/').find_map(component_problem) {
            Some(problem) => Err(refuse(problem)),
            None => Ok(Self(text.into())),
        }
    }

    /// The path of names that have been made fit: within all limits, and none of them special.
    pub(super) fn of_names(names: &[String]) -> Self {
        debug_assert!(Self::new(&names.join("/")).is_ok());
        Self(names.join("/").into())
    }

    /// The path, names joined by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last name.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The directory that holds it; `None` at the root.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// Every directory above it, outermost first.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }

    /// The same path with `~number` at the end of its name, which is cut where it would become too long.
    pub(super) fn numbered(&self, number: u32) -> Self {
        let suffix = format!("~{number}");
        let (parent, name) = self.0.rsplit_once('/').map_or((None, &*self.0), |(parent, name)| (Some(parent), name));
        let room = match parent {
            Some(parent) => MAX_COMPONENT_LEN.min(MAX_PATH_LEN.saturating_sub(parent.len() + 1)),
            None => MAX_COMPONENT_LEN,
        };
        let keep = name.floor_char_boundary(room.saturating_sub(suffix.len()).min(name.len()));
        let name = format!("{}{suffix}", &name[..keep]);
        Self(parent.map_or(name.clone(), |parent| format!("{parent}/{name}")).into())
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A path that a torrent must not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a path inside the torrent, got {shown:?}: {problem}")]
pub struct PathError {
    shown: String,
    problem: PathProblem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum PathProblem {
    #[error("it has {0} bytes, more than {MAX_PATH_LEN}")]
    Long(usize),
    #[error("it has {0} names, more than {MAX_COMPONENTS}")]
    Deep(usize),
    #[error("one of its names is empty")]
    Empty,
    #[error("one of its names is \".\" or \"..\"")]
    Dots,
    #[error("one of its names holds a zero byte")]
    Zero,
    #[error("one of its names has {0} bytes, more than {MAX_COMPONENT_LEN}")]
    LongName(usize),
}

fn component_problem(name: &str) -> Option<PathProblem> {
    match name {
        "" => Some(PathProblem::Empty),
        "." | ".." => Some(PathProblem::Dots),
        _ if name.contains('\0') => Some(PathProblem::Zero),
        _ if name.len() > MAX_COMPONENT_LEN => Some(PathProblem::LongName(name.len())),
        _ => None,
    }
}

/// The beginning of a hostile text, for an error message.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awkward_but_harmless_names_are_paths() {
        for text in ["a", "a/b", "…", "a b/\n/~", "..a/b..", " ", &"x".repeat(255), "a\\b", "c:d"] {
            assert_eq!(TreePath::new(text).unwrap().as_str(), text);
        }
        assert!(TreePath::new(&vec!["d"; MAX_COMPONENTS].join("/")).is_ok());
    }

    #[test]
    fn hostile_paths_are_refused() {
        let deep = vec!["d"; 10_000].join("/");
        let just_too_deep = vec!["d"; MAX_COMPONENTS + 1].join("/");
        let long = vec!["x".repeat(200); 21].join("/");
        for text in [
            "",
            "/",
            "/etc",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/./b",
            "a\0b",
            &"x".repeat(256),
            &deep,
            &just_too_deep,
            &long,
        ] {
            let message = TreePath::new(text).unwrap_err().to_string();
            assert!(message.len() < 400, "an error message repeats a hostile path: {message}");
        }
    }

    #[test]
    fn numbered_names_stay_within_the_limits() {
        assert_eq!(TreePath::new("a/b").unwrap().numbered(2).as_str(), "a/b~2");
        let long = TreePath::new(&"é".repeat(127)).unwrap().numbered(10);
        assert_eq!(long.as_str(), format!("{}~10", "é".repeat(126)));
        assert!(TreePath::new(long.as_str()).is_ok());
    }

    #[test]
    fn ancestors_are_outermost_first() {
        let path = TreePath::new("a/b/c").unwrap();
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!((path.parent(), path.file_name()), (Some("a/b"), "c"));
    }
}
