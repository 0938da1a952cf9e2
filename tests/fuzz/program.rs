//! One fuzz target: the one that the program is named after.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| knot_fuzz::run(env!("CARGO_BIN_NAME"), input));
