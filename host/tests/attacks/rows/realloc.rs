//! Components whose `cabi_realloc` misbehaves.

use super::{Row, row};
use crate::case::Case;
use crate::hostile::{ANSWER, OWN, for_ever};

pub const ROWS: &[Row] = &[
    row("memory for answers that is nowhere", nonsense),
    row("memory for answers by a trap or a loop", traps),
    row("imports called while asked for memory", imports),
    row("memory for answers that grows at each call", grows),
    row("memory for answers by deep recursion", recursion),
    row("memory for answers that holds the description", over_code),
];

/// Returns a call whose result of 64 bytes goes to the address that `cabi_realloc` returns.
fn read() -> String {
    format!("i64.const 0 i32.const 64 i32.const {ANSWER} call $read i32.const 0")
}

/// Returns a body that misbehaves only once armed: `configure` allocates its ports with
/// `cabi_realloc` too.
fn later(body: &str) -> String {
    format!("global.get $armed if (result i32) {body} else i32.const 65536 end")
}

fn reads_with(case: &Case, body: &str) -> crate::case::Victim {
    let arm = format!("i32.const 1 global.set $armed {}", read());
    let hostile = case
        .hostile()
        .fields("(global $armed (mut i32) (i32.const 0))")
        .realloc(later(body))
        .export("write-register", arm);
    let victim = case.victim(&hostile);
    victim.poke();
    victim
}

fn nonsense(case: &Case) {
    for address in [-1, -64, 16 << 16, (16 << 16) - 63, i32::MIN] {
        let victim = reads_with(case, &format!("i32.const {address}"));
        victim.is_ended(&[]);
    }
}

fn traps(case: &Case) {
    reads_with(case, "unreachable").is_ended(&["unreachable"]);
    let endless = format!("{} i32.const 65536", for_ever(""));
    reads_with(case, &endless).is_ended(&["interrupt", "deadline"]);
}

fn imports(case: &Case) {
    for call in [
        format!("i64.const 0 i32.const 64 i32.const {ANSWER} call $read"),
        format!("i32.const 0 i32.const {OWN} i32.const 9 call $log"),
        "call $changed".to_owned(),
        "i32.const 0 call $unmap-window".to_owned(),
        format!("i32.const {OWN} i32.const 0 call $raise"),
    ] {
        reads_with(case, &format!("{call} i32.const 65536")).is_ended(&[]);
    }
}

/// Memory that moves, or whose size changes, before the host writes to it.
fn grows(case: &Case) {
    let fresh = "i32.const 1 memory.grow i32.const 16 i32.shl";
    let victim = reads_with(case, fresh);
    for _ in 0..1000 {
        victim.poke();
    }
    victim.runs();
    let grown =
        "(memory.grow (i32.const 1)) drop memory.size i32.const 16 i32.shl i32.const 32 i32.sub";
    reads_with(case, grown).is_ended(&[]);
}

fn recursion(case: &Case) {
    let body = "local.get 0 local.get 1 local.get 2 local.get 3 call $realloc";
    reads_with(case, body).is_ended(&["stack"]);
}

/// The host read the component's description before; it must not trust what is there now.
fn over_code(case: &Case) {
    let victim = reads_with(case, "i32.const 2048");
    victim.runs();
    assert_eq!(victim.device.bar_size(0), 0x2000);
}
