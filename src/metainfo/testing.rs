//! Content in memory, for tests.
