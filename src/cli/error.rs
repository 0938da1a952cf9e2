//! What a command fails with: shown once, with everything that led to it, and turned into an exit code.

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::control::ControlError;
use crate::metainfo::{CreateError, KeyError, MetainfoError};
use crate::node::api::{ApiError, ErrorKind};
use crate::node::lifecycle::LifecycleError;
use crate::node::tree::TreeError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// A node refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A node was not there, or is not any more.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No node could be started.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// A metainfo file is no good.
    #[error("cannot use the metainfo {path:?}")]
    Metainfo { path: PathBuf, source: MetainfoError },
    /// No metainfo could be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Something in the tree cannot be part of a torrent.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A key file is no good.
    #[error("cannot use the key {path:?}")]
    Key { path: PathBuf, source: KeyError },
    /// A file could not be read or written.
    #[error("cannot {verb} {path:?}")]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    /// Something that has no better place.
    #[error("{0}")]
    Failure(String),
    /// The system gave no threads or timers.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    /// stdout is closed: whoever read it has had enough.
    #[error("nobody reads the output any more")]
    OutputClosed,
    /// Ctrl-C, or another request to end.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    pub(super) fn file(verb: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { verb, path: path.to_owned(), source }
    }

    pub(super) fn runtime(source: io::Error) -> Self {
        Self::Runtime(source)
    }

    /// The exit code that scripts see.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Interrupted => 130,
            _ => match self.kind() {
                ErrorKind::Failure => 1,
                ErrorKind::Usage => 2,
                ErrorKind::NotFound => 3,
                ErrorKind::Verification => 4,
            },
        }
    }

    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage(_) => ErrorKind::Usage,
            Self::Api(error) | Self::Control(ControlError::Api(error)) => error.kind,
            Self::Lifecycle(error) => error.kind(),
            Self::Metainfo {
                source: MetainfoError::InfoHash { .. } | MetainfoError::Signature { .. } | MetainfoError::Root { .. },
                ..
            } => ErrorKind::Verification,
            _ => ErrorKind::Failure,
        }
    }

    /// Shows the error on stderr, unless there is nothing to say.
    pub(super) fn report(&self) {
        if matches!(self, Self::OutputClosed) {
            return;
        }
        // With stderr closed there is nobody left to tell.
        let _ = writeln!(io::stderr(), "knot: {}", self.chain());
    }

    /// The error and its causes, on one line as far as they are.
    pub(super) fn chain(&self) -> String {
        let mut chain = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !chain.ends_with(&text) {
                chain.push_str(": ");
                chain.push_str(&text);
            }
            source = error.source();
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = CliError::file("read", Path::new("a b"), missing());
        assert_eq!(error.chain(), "cannot read \"a b\": no such file");
        let control = ControlError::NoNode { socket: "/s".into(), source: missing() };
        assert_eq!(CliError::from(control).chain(), "no node answers at \"/s\": no such file");
        let api = ApiError { kind: ErrorKind::NotFound, message: "nobody".into() };
        let error = CliError::from(ControlError::Api(api));
        assert_eq!((error.chain().as_str(), error.exit_code()), ("nobody", 3));
    }
}
