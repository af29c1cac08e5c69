//! What a component can make the host log and show.

use super::{Row, row};
use crate::case::{Case, Victim, is_clean};
use crate::hostile::{OWN, for_ever};
use crate::lines::Lines;

pub const ROWS: &[Row] = &[
    row("logs for ever in a call", for_ever_in_a_call),
    row("logs at each of ten thousand calls", at_each_call),
    row("log lines of odd bytes", odd_bytes),
    row("function named as a log line", forged_name),
    row("function with a name of 90,000 bytes", long_name),
    row("fails at each call and after each reset", fails_for_ever),
    row("refuses a state in a million words", long_objection),
];

/// The limit of everything that a component causes to be logged.
const MOST_BYTES: usize = 96 << 10;

fn is_bounded(lines: &Lines) {
    let text = lines.text();
    assert!(text.len() < MOST_BYTES, "{} bytes were logged", text.len());
    for line in text.lines() {
        is_clean(line);
        // Each line begins with the time, so none is forged.
        assert!(line.starts_with("20"), "{line:?}");
    }
}

fn for_ever_in_a_call(case: &Case) {
    let line = format!("i32.const 2 i32.const {OWN} i32.const 1000 call $log");
    let body = format!("{} i32.const 0", for_ever(&line));
    let lines = Lines::capture();
    let victim = case.victim(&case.hostile().export("write-register", body));
    victim.poke();
    victim.is_ended(&["interrupt", "deadline", "time"]);
    let tree = victim.device.inspect();
    assert!(
        tree["runtime"]["log_lines_dropped"].as_u64() > Some(0),
        "{tree:#}"
    );
    is_bounded(&lines);
}

fn at_each_call(case: &Case) {
    let mut body = String::new();
    for level in 0..5 {
        body.push_str(&format!(
            "i32.const {level} i32.const {OWN} i32.const 200 call $log\n"
        ));
    }
    let text = "(data (i32.const 16384) \"the same again\")";
    let hostile = case.hostile().fields(text);
    let hostile = hostile.export("write-register", body + "i32.const 0");
    let lines = Lines::capture();
    let victim = case.victim(&hostile);
    for _ in 0..10_000 {
        victim.poke();
    }
    victim.runs();
    let tree = victim.device.inspect();
    assert!(
        tree["runtime"]["log_lines_dropped"].as_u64() > Some(40_000),
        "{tree:#}"
    );
    is_bounded(&lines);
}

fn odd_bytes(case: &Case) {
    let texts = [
        "one\\0a20 ERROR two",
        "one\\0d20 ERROR two",
        "\\1b[2J\\1b]0;owned\\07",
        "\\ff\\fe\\80\\80\\c3",
        "\\e2\\80\\ae desrever \\e2\\81\\a6 \\e2\\80\\8f \\e2\\80\\a8 \\e2\\80\\a9",
        "\\c2\\85 \\c2\\9b31m",
        "\\00\\00\\00\\00",
    ];
    let lines = Lines::capture();
    for text in texts {
        let hostile = case
            .hostile()
            .fields(format!("(data (i32.const {OWN}) \"{text}\")"))
            .export(
                "write-register",
                format!("i32.const 1 i32.const {OWN} i32.const 40 call $log i32.const 0"),
            );
        let victim = case.victim(&hostile);
        victim.poke();
        victim.runs();
    }
    is_bounded(&lines);
}

fn named(case: &Case, name: &str) -> Victim {
    let hostile = case
        .hostile()
        .fields(format!("(func $f (@name \"{name}\") unreachable)"))
        .export("write-register", "call $f i32.const 0");
    case.victim(&hostile)
}

fn forged_name(case: &Case) {
    for name in [
        "f\\0a2026-01-01T00:00:00Z ERROR all is lost",
        "f\\0d\\1b[2J",
        "f\\e2\\80\\ae\\e2\\80\\a8",
        "f - g!h\\0a 0: 0x0 - x!y",
    ] {
        let victim = named(case, name);
        victim.poke();
        let text = victim.is_ended(&["unreachable"]);
        is_clean(&text);
        let tree = victim.device.inspect();
        let shown = tree["runtime"]["failure"].as_str().expect("a text");
        assert!(
            !shown.contains("\nERROR") && !shown.contains("\n2026"),
            "{shown}"
        );
        assert!(
            !shown.contains(['\u{1b}', '\u{202e}', '\u{2028}', '\r']),
            "{shown:?}"
        );
    }
}

fn long_name(case: &Case) {
    let lines = Lines::capture();
    let victim = named(case, &"n".repeat(90_000));
    victim.poke();
    victim.is_ended(&["unreachable"]);
    let failure = victim.device.failure().expect("it failed");
    assert!(
        failure.reason.len() < 16 << 10,
        "{} bytes",
        failure.reason.len()
    );
    let tree = victim.device.inspect().to_string();
    assert!(tree.len() < 64 << 10, "{} bytes", tree.len());
    is_bounded(&lines);
}

fn fails_for_ever(case: &Case) {
    let lines = Lines::capture();
    let victim = case.victim(&case.hostile().export("write-register", "unreachable"));
    for _ in 0..3000 {
        victim.poke();
        victim.device.reset();
        victim.be_master();
    }
    is_bounded(&lines);
}

fn long_objection(case: &Case) {
    // `malformed`, and a list of 4 MiB.
    let hostile = case
        .hostile()
        .memory(128)
        .fields(format!(
            "(func $objection
               i32.const {OWN} i32.const 1 i32.store
               i32.const {} i32.const 2 i32.store
               i32.const {} i32.const 0x100000 i32.store
               i32.const {} i32.const 0x400000 i32.store
               i32.const 0x100000 i32.const 10 i32.const 0x400000 memory.fill)",
            OWN + 4,
            OWN + 8,
            OWN + 12
        ))
        .export("recover", format!("call $objection i32.const {OWN}"))
        .export("restore", format!("call $objection i32.const {OWN}"));
    let good = case.victim(&case.hostile());
    let state = good.device.save().expect("an empty state");
    let lines = Lines::capture();
    let victim = case.victim(&hostile);
    let error = victim.device.restore(&state).expect_err("it objects");
    let error = error.to_string();
    is_clean(error.lines().next().unwrap_or_default());
    assert!(error.len() < 8 << 10, "a message of {} bytes", error.len());
    is_bounded(&lines);
}
