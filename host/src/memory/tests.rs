//! Guest memory for tests.
