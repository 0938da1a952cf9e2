//! The node's key: what its peer id is made of.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libp2p::identity::{DecodingError, Keypair};
use zeroize::Zeroizing;

/// Longer files hold no key. One takes 68 bytes.
const MAX_LEN: u64 = 4096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    /// The file cannot be read or made.
    #[error("cannot {action} the node's key {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "expected the node's key in {path}, got other bytes ({source}); remove the file to start as a new node",
        path = path.display()
    )]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why it is no key.
        source: DecodingError,
    },
}

/// The key in the file `path`; a new one is made and kept there if the file does not exist.
///
/// The file holds libp2p's encoding of a private key and is readable by its owner only. It appears complete or not
/// at all, and of two processes that make it at once both get the same key.
///
/// # Errors
/// When the file cannot be read or made, or holds no key.
pub(super) fn load_or_create(path: &Path) -> Result<Keypair, IdentityError> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    create(path).map_err(|source| IdentityError::Io { action: "make", path: path.to_owned(), source })?;
    let missing =
        || IdentityError::Io { action: "read", path: path.to_owned(), source: io::ErrorKind::NotFound.into() };
    load(path)?.ok_or_else(missing)
}

fn load(path: &Path) -> Result<Option<Keypair>, IdentityError> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Io { action: "read", path: path.to_owned(), source }),
    };
    let key = Keypair::from_protobuf_encoding(&bytes);
    key.map(Some).map_err(|source| IdentityError::Decode { path: path.to_owned(), source })
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the node's key had mode {mode:o}; set to 600");
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    file.take(MAX_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes a key and puts it at `path`, unless somebody else has put one there meanwhile.
fn create(path: &Path) -> io::Result<()> {
    let bytes = Zeroizing::new(Keypair::generate_ed25519().to_protobuf_encoding().map_err(io::Error::other)?);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let result = write_new(&temporary, &bytes).and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    });
    // Also what a crashed process with the same id has left. Nothing is lost if it stays.
    let _ = fs::remove_file(&temporary);
    result?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        let first = load_or_create(&path).unwrap();
        let again = load_or_create(&path).unwrap();
        assert_eq!(first.public(), again.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn all_who_start_at_once_get_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        // The temporary name is per process, so within this one they take turns to make it and race to read it.
        let keys: Vec<_> = std::thread::scope(|scope| {
            create(&path).unwrap();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| load_or_create(&path).unwrap().public())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
        create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap().public(), keys[0], "a second maker does not replace the key");
    }

    #[test]
    fn loose_modes_are_tightened_and_other_bytes_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        load_or_create(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        fs::write(&path, b"not a key").unwrap();
        let error = load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("remove the file"), "{error}");
        let error = load_or_create(&dir.path().join("missing/identity")).unwrap_err().to_string();
        assert!(error.contains("cannot make"), "{error}");
    }
}
