//! Simulated swarms and scripted peers: the engine's promises as properties.

mod gossip;
mod hybrid;
mod lab;
mod layers;
mod limits;
mod metadata;
mod ordinary;
mod prefetch;
mod protocol;
mod reading;
mod reserve;
mod swarms;
mod updates;
mod withstand;
