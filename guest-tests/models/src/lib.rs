//! Models of the host's two lock-free protocols.
//!
//! Each test includes the file of the host that has the protocol, with loom's atomics in
//! place of the standard library's: loom tries every order of the threads' steps, and
//! every value that a load may return. For each protocol there is a test that removes a
//! barrier, and shows that the model detects it.
