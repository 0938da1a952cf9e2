//! Simulated swarms: the engine's promises as properties.

mod protocol;
mod reading;
mod swarms;
