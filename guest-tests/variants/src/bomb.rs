//! A component that exhausts a compiler.

use alloc::string::String;
use core::fmt::Write;

const LOCALS: usize = 40_000;
const BRANCHES: usize = 20_000;

/// Returns a component of 700 KB that takes a compiler minutes and gigabytes, as text: the
/// values of many locals meet at many branches.
pub fn bomb() -> String {
    let mut text = String::from("(component (core module (func (param i32) (local");
    text += &" i64".repeat(LOCALS);
    text += ")";
    for branch in 0..BRANCHES {
        let (from, to) = (branch * 7919 % LOCALS + 1, branch * 104_729 % LOCALS + 1);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "(block (br_if 0 (local.get 0)) \
             (local.set {to} (i64.add (local.get {from}) (local.get {to}))))"
        );
    }
    text + ")))"
}
