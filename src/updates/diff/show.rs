//! A diff for people.

use std::fmt;

use bytesize::ByteSize;

use super::Diff;

/// Lines of each kind that are shown; more are counted.
const SHOWN: usize = 10;

impl fmt::Display for Diff {
    /// One line of totals, then some of each kind, or (`{:#}`) all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        list(f, "added", &self.added, |added| format!("+ {:?} ({})", added.path, size(added.length)))?;
        list(f, "changed", &self.changed, |changed| {
            format!("~ {:?} ({}, was {})", changed.path, size(changed.length), size(changed.old_length))
        })?;
        list(f, "perhaps changed", &self.unclear, |changed| {
            format!("? {:?} ({})", changed.path, size(changed.length))
        })?;
        list(f, "removed", &self.removed, |removed| format!("- {:?} ({})", removed.path, size(removed.length)))?;
        list(f, "renamed", &self.renamed, |renamed| format!("> {:?} -> {:?}", renamed.from, renamed.to))
    }
}

impl Diff {
    /// The totals, on one line.
    pub fn summary(&self) -> String {
        let counts = [
            ("added", self.added.len()),
            ("changed", self.changed.len()),
            ("perhaps changed", self.unclear.len()),
            ("removed", self.removed.len()),
            ("renamed", self.renamed.len()),
        ];
        let counts = counts.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{count} {kind}"));
        let counts = counts.collect::<Vec<_>>().join(", ");
        format!(
            "{}; whoever has the old version fetches at most {} of {} ({:.1} % is reused)",
            if counts.is_empty() { "nothing changed" } else { &counts },
            size(self.transfer_bytes),
            size(self.total_bytes),
            self.reused_percent()
        )
    }
}

fn list<T>(f: &mut fmt::Formatter<'_>, kind: &str, all: &[T], line: impl Fn(&T) -> String) -> fmt::Result {
    let shown = if f.alternate() { all.len() } else { SHOWN };
    for one in all.iter().take(shown) {
        write!(f, "\n  {}", line(one))?;
    }
    match all.len().saturating_sub(shown) {
        0 => Ok(()),
        more => write!(f, "\n  … {more} more {kind}"),
    }
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}
