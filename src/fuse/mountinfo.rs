//! The mounts of this machine, as `/proc/self/mountinfo` lists them (proc_pid_mountinfo(5)). Reading it asks no
//! filesystem anything, so that it never waits for one that is broken.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountEntry {
    /// `major:minor`: names the filesystem in `/sys/class/bdi`.
    pub(super) device: String,
    /// Where it is mounted.
    pub(super) mountpoint: PathBuf,
    /// Filesystem type with its subtype, such as `fuse.knot`.
    pub(super) fs_type: String,
    /// What it says is mounted.
    pub(super) source: String,
}

/// The mounts at `mountpoint`, each lying on the one before; only the last is seen. None where it is not a mount
/// point.
pub(super) fn mounts_at(mountpoint: &Path) -> io::Result<Vec<MountEntry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).filter(|entry| entry.mountpoint == mountpoint).collect())
}

fn parse(table: &[u8]) -> impl Iterator<Item = MountEntry> + '_ {
    table.split(|&byte| byte == b'\n').filter_map(parse_line)
}

/// `36 35 98:0 /root /mount/point options [tags]… - type source super-options`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let mountpoint = fields.nth(1)?;
    let mut fields = fields.skip_while(|field| field != b"-").skip(1);
    let (fs_type, source) = (fields.next()?, fields.next()?);
    Some(MountEntry {
        device: String::from_utf8_lossy(device).into_owned(),
        mountpoint: OsString::from_vec(unescape(mountpoint)).into(),
        fs_type: String::from_utf8_lossy(fs_type).into_owned(),
        source: String::from_utf8_lossy(&unescape(source)).into_owned(),
    })
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        match digits {
            Some(digits) => {
                let code = digits.iter().fold(0u16, |code, digit| code * 8 + u16::from(digit - b'0'));
                plain.push(code as u8);
                rest = &tail[3..];
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        90 22 0:51 / /mnt/two\\040words\\012and\\134more rw - fuse.knot knot:a\\040b rw,user_id=0\n\
        91 22 0:52 /sub /mnt/x rw,nosuid shared:7 master:2 - fuse.sshfs host: rw\n\
        92 91 0:53 / /mnt/x ro - fuse.knot knot:x ro\n\
        broken line\n";

    #[test]
    fn names_are_unescaped() {
        let entry = parse(TABLE).nth(1).unwrap();
        assert_eq!(entry.mountpoint, Path::new("/mnt/two words\nand\\more"));
        assert_eq!((entry.device.as_str(), entry.source.as_str()), ("0:51", "knot:a b"));
    }

    #[test]
    fn the_topmost_mount_comes_last() {
        let found: Vec<_> = parse(TABLE).filter(|entry| entry.mountpoint == Path::new("/mnt/x")).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].fs_type.as_str(), found[1].device.as_str()), ("fuse.knot", "0:53"));
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\9\\04"), b"a\\9\\04");
        assert_eq!(unescape(b"\\"), b"\\");
    }

    #[test]
    fn the_root_of_this_machine_is_a_mount_point() {
        assert!(!mounts_at(Path::new("/")).unwrap().is_empty());
        assert_eq!(mounts_at(Path::new("/no/such/place")).unwrap(), []);
    }
}
