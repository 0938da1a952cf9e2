//! The test vector of `schema/metainfo.md`.
