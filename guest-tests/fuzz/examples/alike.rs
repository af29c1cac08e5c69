//! Does nothing. Built together with the targets, it makes cargo choose the same
//! features of dependencies as for tests, so that both share them.

fn main() {}
