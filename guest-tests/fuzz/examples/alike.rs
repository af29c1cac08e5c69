//! Nothing. Built together with the targets, it has cargo choose the features of all
//! dependencies as for tests, so that they are shared with those.

fn main() {}
