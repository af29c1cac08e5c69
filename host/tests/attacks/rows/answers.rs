//! What a component returns from its own functions.

use super::{Row, row};
use crate::case::{Case, Victim, has_one_of, is_clean};
use crate::hostile::OWN;

pub const ROWS: &[Row] = &[
    row("results that lie nowhere", nowhere),
    row("cases that do not exist", no_such_case),
    row("port, queue and level that do not exist", no_such_port),
    row("saved state of 480 MiB", long_state),
    row("inspection of 480 MiB", long_inspection),
    row("inspection that is no JSON", no_json),
    row("inspection nested a million deep", deep_json),
    row("inspection of millions of numbers", many_numbers),
    row("inspection with a forged line", forged_json),
];

fn result_of(case: &Case, name: &'static str, address: i32) -> Victim {
    case.victim(&case.hostile().export(name, format!("i32.const {address}")))
}

fn nowhere(case: &Case) {
    for address in [-4, -1, 16 << 16, (16 << 16) - 4, OWN as i32 + 1] {
        let victim = result_of(case, "save", address);
        let error = victim.device.save().expect_err("there is no state");
        is_clean(error.to_string().lines().next().unwrap_or_default());
        victim.is_ended(&[]);
        let victim = result_of(case, "inspect", address);
        let tree = victim.device.inspect();
        assert!(tree["device"]["error"].is_string(), "{tree:#}");
        victim.is_ended(&[]);
        let hostile = case.hostile();
        let hostile = hostile.export("configure", format!("i32.const {address}"));
        // A result of two bytes is not aligned, and may end before the end of memory.
        if !(0..(16 << 16) - 1).contains(&address) {
            case.refusal(&hostile);
        }
        let hostile = case.hostile();
        let hostile = hostile.export("describe", format!("i32.const {address}"));
        case.refusal(&hostile);
    }
}

fn no_such_case(case: &Case) {
    // The first byte is the result's case, success or error, the second the error's.
    for (bytes, words) in [
        ("\\02\\00", &[][..]),
        ("\\01\\ff", &[]),
        ("\\01\\02", &["invalid-mac", "InvalidMac"]),
    ] {
        let hostile = case
            .hostile()
            .fields(format!("(data (i32.const {OWN}) \"{bytes}\")"))
            .export("configure", format!("i32.const {OWN}"));
        has_one_of(&case.refusal(&hostile), words);
    }
    // Any nonzero value is true.
    let hostile = case.hostile().export("write-register", "i32.const -2");
    let hostile = hostile.export("service", "i32.const 0");
    let victim = case.victim(&hostile);
    victim.poke();
    victim.runs();
}

fn no_such_port(case: &Case) {
    let calls = [
        "i32.const 1 i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 1280 call $transmit",
        "i32.const 0 i32.const 70000 i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 1280 call $transmit",
        "i32.const -1 i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 0 call $post-receive drop",
        "i32.const 0 i32.const 70000 i32.const 0 i32.const 0 i32.const 0 i32.const 0 call $post-receive drop",
        "i32.const 5 i32.const 0 i32.const 0 call $log",
        "i32.const -1 i32.const 0 i32.const 0 call $log",
    ];
    for call in calls {
        let body = format!("{call} i32.const 0");
        let victim = case.victim(&case.hostile().export("write-register", body));
        victim.poke();
        victim.is_ended(&[]);
    }
    // Revoking what was never given is no fault.
    for call in ["cancel-receive", "cancel-transmit"] {
        let body = format!("i32.const 99 i32.const 99 call ${call} i32.const 0");
        let victim = case.victim(&case.hostile().export("write-register", body));
        victim.poke();
        victim.runs();
    }
}

/// Makes a device whose memory is zero pages, and whose function returns a list of most of them.
fn long_list(case: &Case, name: &'static str) -> Victim {
    let (pages, bytes) = (8000_u32, 480_u32 << 20);
    let hostile = case
        .hostile()
        .memory(pages)
        .fields(format!(
            "(func $list i32.const {OWN} i32.const 1048576 i32.store
               i32.const {} i32.const {bytes} i32.store)",
            OWN + 4
        ))
        .export(name, format!("call $list i32.const {OWN}"));
    case.victim(&hostile)
}

fn long_state(case: &Case) {
    let victim = long_list(case, "save");
    let error = victim.device.save().expect_err("no state is that long");
    let error = error.to_string();
    is_clean(error.lines().next().unwrap_or_default());
    has_one_of(&error, &["1 MiB", "1048576"]);
}

fn long_inspection(case: &Case) {
    let victim = long_list(case, "inspect");
    let tree = victim.device.inspect();
    let error = tree["device"]["error"].as_str().expect("an error");
    has_one_of(error, &["inspect", "1048576"]);
    assert!(tree.to_string().len() < 64 << 10);
}

/// Makes a device whose inspection is this text, repeated.
fn inspection(case: &Case, text: &str, count: u32) -> Victim {
    let length = text.len() as u32;
    let hostile = case
        .hostile()
        .memory(256)
        .fields(format!(
            "(data (i32.const {}) \"{}\")
             (func $list (local $round i32)
               i32.const {OWN} i32.const 0x100000 i32.store
               i32.const {} i32.const {} i32.store
               (loop $more
                 local.get $round i32.const {length} i32.mul i32.const 0x100000 i32.add
                 i32.const {} i32.const {length} memory.copy
                 local.get $round i32.const 1 i32.add local.tee $round
                 i32.const {count} i32.lt_u br_if $more))",
            OWN + 64,
            text.bytes()
                .map(|byte| format!("\\{byte:02x}"))
                .collect::<String>(),
            OWN + 4,
            length * count,
            OWN + 64,
        ))
        .export("inspect", format!("call $list i32.const {OWN}"));
    case.victim(&hostile)
}

fn no_json(case: &Case) {
    for text in ["\u{fffd}", "{", "\u{1b}[2J", "nul", "{}{}", ""] {
        let victim = inspection(case, text, 1);
        let tree = victim.device.inspect();
        let error = tree["device"]["error"].as_str().expect("an error");
        is_clean(error);
        victim.runs();
    }
}

fn deep_json(case: &Case) {
    let victim = inspection(case, "[", 1_000_000);
    let tree = victim.device.inspect();
    let error = tree["device"]["error"].as_str().expect("an error");
    is_clean(error);
    victim.runs();
    drop(tree);
    let victim = inspection(case, "{\"a\":", 500_000);
    assert!(victim.device.inspect()["device"]["error"].is_string());
}

/// A text within the limit can hold many values. The host must not allocate them before it knows
/// that the text is valid JSON.
fn many_numbers(case: &Case) {
    let victim = inspection(case, "0,0,0,0,0,0,0,0,", 60_000);
    let tree = victim.device.inspect();
    assert!(tree["device"]["error"].is_string());
    victim.runs();
}

fn forged_json(case: &Case) {
    let text = r#"{"a":"b\n2026-01-01 ERROR all is lost\u001b[2J\u202e"}"#;
    let victim = inspection(case, text, 1);
    let tree = victim.device.inspect();
    // Printed as JSON, the text is escaped.
    assert!(!tree.to_string().contains(['\n', '\u{1b}']));
    victim.runs();
}
