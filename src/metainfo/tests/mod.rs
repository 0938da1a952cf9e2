//! What the room promises, against independent truth.

mod create;
mod hashing;
mod hostile;
mod vector;
