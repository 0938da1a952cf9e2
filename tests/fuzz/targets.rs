//! What is done with bytes of strangers in each fuzz target: they are decoded, and what comes of it is held to what the
//! decoder promises. `tests/fuzz.rs` does it with the corpus, under a stable toolchain; `scripts/fuzz` with a fuzzer.

mod discovered;
mod encrypted;
mod named;
mod wire;

/// A decoder, and what it promises.
pub type Target = fn(&[u8]);

/// The decoders by the names of their targets.
pub const TARGETS: [(&str, Target); 14] = [
    ("handshake", wire::handshake),
    ("wire", wire::frames),
    ("extension_handshake", wire::extension_handshake),
    ("metadata_exchange", wire::metadata_exchange),
    ("pex", wire::pex),
    ("hashes", wire::hashes),
    ("mse_plain", encrypted::anything),
    ("mse_tampered", encrypted::tampered),
    ("http_tracker", discovered::http_tracker),
    ("udp_tracker", discovered::udp_tracker),
    ("lsd", discovered::lsd),
    ("magnet", named::magnet),
    ("metainfo", named::metainfo),
    ("control", named::control),
];

/// Feeds `input` to the target of that name.
pub fn run(target: &str, input: &[u8]) {
    let (_, decode) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of that name");
    decode(input);
}
