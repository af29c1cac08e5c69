//! Attacks while a component is loaded, before it is a device.

use manatee::component::Component;

use super::{Row, large, row};
use crate::case::{Case, has_one_of, is_clean};
use crate::hostile::{ANSWER, OWN, for_ever};

pub const ROWS: &[Row] = &[
    row("start function that loops", start_loops),
    row("start function that traps", start_traps),
    row("start function that calls every import", start_imports),
    row("start function that grows and fills memory", start_grows),
    row("memory larger than the limit", large_memory),
    row("bytes changed anywhere", changed_bytes),
    row("truncated anywhere", truncated),
    // The library compiles in the caller's process; the command does so in a child with limits
    // of its own.
    large("a hundred thousand functions", 1536, many_functions),
];

fn start_loops(case: &Case) {
    let hostile = case
        .hostile()
        .fields(format!("(func $begin {}) (start $begin)", for_ever("")));
    is_refused(&case.refusal(&hostile), &["interrupt", "deadline"]);
}

fn start_traps(case: &Case) {
    let hostile = case
        .hostile()
        .fields("(func $begin unreachable) (start $begin)");
    is_refused(&case.refusal(&hostile), &["unreachable"]);
}

/// The component is refused, or its calls had no effect: there is no device yet.
fn start_imports(case: &Case) {
    let calls = [
        "i32.const 0 i32.const 0 call $raise".to_owned(),
        "call $changed".to_owned(),
        format!("i32.const 0 i32.const {OWN} i32.const 100 call $log"),
        format!("i64.const 0 i32.const {OWN} i32.const 64 i32.const {ANSWER} call $write"),
        format!("i64.const 0 i32.const 64 i32.const {ANSWER} call $read"),
        format!("i32.const {OWN} i32.const {OWN} i32.const 0 i32.const {ANSWER} call $map-window"),
        "i32.const 0 call $unmap-window".to_owned(),
        "i32.const 0 i32.const 0 call $cancel-receive".to_owned(),
        "i32.const 0 i32.const 0 call $cancel-transmit".to_owned(),
        "i64.const 7 call $attempt".to_owned(),
    ];
    for one in calls {
        let hostile = case
            .hostile()
            .fields(format!("(func $begin {one}) (start $begin)"));
        match hostile.load() {
            Ok(component) => {
                if let Err(error) = component.describe() {
                    is_refused(&error.to_string(), &[]);
                }
            }
            Err(error) => is_refused(&error.to_string(), &[]),
        }
    }
}

/// An instance's limits apply to its start function too.
fn start_grows(case: &Case) {
    let hostile = case.hostile().fields(
        "(func $begin (loop $more i32.const 16384 memory.grow i32.const -1 i32.ne br_if $more)
           i32.const 0x200 memory.grow drop)
         (start $begin)",
    );
    let component = hostile.load().expect("the component loads");
    component.describe().expect("it describes itself");
}

fn large_memory(case: &Case) {
    let hostile = case.hostile().memory(65536);
    is_refused(&case.refusal(&hostile), &["memory"]);
}

/// Checks that the refusal is one bounded line with one of these words.
fn is_refused(error: &str, words: &[&str]) {
    has_one_of(error, words);
    // A backtrace follows a trap; only the first line is logged.
    is_clean(error.lines().next().unwrap_or_default());
    assert!(error.len() < 16 << 10, "a message of {} bytes", error.len());
}

fn changed_bytes(case: &Case) {
    let good = case.hostile().bytes();
    let mut random = Random(1);
    for _ in 0..600 {
        let mut bytes = good.clone();
        for _ in 0..random.below(4) + 1 {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        match Component::from_bytes(&bytes, "changed.wasm") {
            Ok(component) => drop(component.describe()),
            Err(error) => is_refused(&error.to_string(), &["changed.wasm", "component"]),
        }
    }
}

fn truncated(case: &Case) {
    let good = case.hostile().bytes();
    for length in (0..good.len()).step_by(17) {
        let error = Component::from_bytes(&good[..length], "truncated.wasm");
        let error = error
            .expect_err("a truncated component is refused")
            .to_string();
        is_refused(&error, &["truncated.wasm"]);
    }
}

fn many_functions(case: &Case) {
    let functions = "(func)".repeat(100_000);
    match case.hostile().fields(functions).load() {
        Ok(component) => drop(component.describe()),
        Err(error) => is_refused(&error.to_string(), &[]),
    }
}

/// A pseudo-random sequence, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }
}
