//! What the room promises, against independent truth.

mod create;
mod create_torrent;
mod hashing;
mod hostile;
mod hybrid;
mod torrent;
mod v2;
mod vector;
