//! What a torrent is: its identity, its files, and how their bytes are verified.
//!
//! A [`Metainfo`] is an immutable value that has been checked in full: whoever holds one may rely on its InfoHash,
//! its signature, its paths and its hash trees. `schema/metainfo.md` describes the bytes. The room is pure: content
//! to hash comes from a [`Source`], and nothing here opens a file or looks at a clock.

mod bencode;
mod create;
mod create_torrent;
mod create_v2;
mod decode;
mod encode;
mod entry;
mod error;
mod file_tree;
mod foreign;
mod hash_range;
mod hasher;
mod hints;
mod hybrid;
mod keys;
mod layout;
mod leaves;
mod model;
mod names;
mod native;
mod pass;
mod path;
mod piece_layers;
mod torrent;
mod tree;

pub use create::{CreateError, CreateOptions, DatasetVersion, create, default_piece_length};
pub use create_torrent::{TorrentOptions, create_torrent};
pub use entry::{Entry, EntryKind};
pub use error::MetainfoError;
pub use hash_range::HashRange;
pub use hasher::PieceHasher;
pub use hints::Hints;
pub use hybrid::PieceCheck;
pub use keys::{KeyError, SecretKey, is_signature, is_signature_of};
pub use layout::{Layout, LayoutError, Part, Run};
pub use leaves::{LeafError, LeafRequest};
pub use model::{
    Form, MAX_FILES, MAX_METAINFO_LEN, MAX_PIECE_LENGTH, MAX_PIECES, MAX_TORRENT_LEN, MIN_PIECE_LENGTH, Metainfo,
};
pub use names::raw_name;
pub use pass::{Cancelled, OnProgress, Source, verify_source};
pub use path::{MAX_COMPONENT_LEN, MAX_COMPONENTS, MAX_PATH_LEN, PathError, TreePath};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
