//! Components that use as many resources as they can get.

use manatee::device::Limits;
use manatee::endpoint::Loopback;

use super::{Row, large, row};
use crate::case::Case;
use crate::hostile::{ANSWER, OWN, for_ever};

pub const ROWS: &[Row] = &[
    // The limit of 64 MiB.
    large("memory grown and filled for ever", 112, grows_memory),
    row("tables grown for ever", grows_tables),
    row("a state of 1 MiB after each call", changes),
    row(
        "a state of 1 MiB and one byte after each call",
        changes_too_much,
    ),
    row("names of a million entries announced", attempts),
    row("buffers posted for ever", posts),
    large("a thousand resets after failures", 96, resets),
];

fn grows_memory(case: &Case) {
    let body = "(local $at i32)
        (loop $more
          i32.const 1 memory.grow local.tee $at i32.const -1 i32.ne
          if local.get $at i32.const 16 i32.shl i32.const 7 i32.const 65536 memory.fill br $more end)
        i32.const 0";
    let read = "memory.size i64.extend_i32_u";
    let hostile = case
        .hostile()
        .export("write-register", body)
        .export("read-register", read);
    let limits = Limits {
        memory: 64 << 20,
        // Filling takes its time on a busy machine.
        deadline: std::time::Duration::from_secs(20),
        ..case.limits()
    };
    let victim = case.try_victim(&hostile, limits, Box::new(Loopback::new()));
    let victim = victim.expect("the component is accepted");
    victim.poke();
    victim.runs();
    assert_eq!(victim.read(0), 1024, "pages of 64 KiB");
}

fn grows_tables(case: &Case) {
    let body = "(loop $more
          ref.null func i32.const 1000 table.grow $t i32.const -1 i32.ne br_if $more)
        i32.const 0";
    let hostile = case
        .hostile()
        .fields("(table $t 1 funcref)")
        .export("write-register", body)
        .export("read-register", "table.size $t i64.extend_i32_u");
    let victim = case.victim(&hostile);
    victim.poke();
    victim.runs();
    let size = victim.read(0);
    assert!(size <= 10_000, "a table of {size}");
}

fn saves(case: &Case, bytes: u32) -> crate::case::Victim {
    let hostile = case
        .hostile()
        .memory(64)
        .fields(format!(
            "(func $list i32.const {OWN} i32.const 0x100000 i32.store
               i32.const {} i32.const {bytes} i32.store)",
            OWN + 4
        ))
        .export("save", format!("call $list i32.const {OWN}"))
        .export("write-register", "call $changed i32.const 0");
    case.victim(&hostile)
}

fn changes(case: &Case) {
    let victim = saves(case, 1 << 20);
    for _ in 0..2000 {
        victim.poke();
    }
    victim.runs();
    let tree = victim.device.inspect();
    assert_eq!(tree["runtime"]["checkpoint_bytes"], 1 << 20, "{tree:#}");
}

/// A state that is refused is not copied each time, and the device continues without.
fn changes_too_much(case: &Case) {
    let victim = saves(case, (1 << 20) + 1);
    for _ in 0..2000 {
        victim.poke();
    }
    let tree = victim.device.inspect();
    assert!(tree["runtime"]["checkpoint_bytes"].is_null(), "{tree:#}");
}

/// A million WQEs are announced in a call that fails: only one id is kept.
fn attempts(case: &Case) {
    let body = "(local $round i32)
        call $changed
        global.get $armed if
          (loop $more local.get $round i64.extend_i32_u call $attempt
            local.get $round i32.const 1 i32.add local.tee $round
            i32.const 100000 i32.lt_u br_if $more)
          unreachable
        end
        i32.const 1 global.set $armed
        i32.const 0";
    let hostile = case
        .hostile()
        .fields("(global $armed (mut i32) (i32.const 0))")
        .export("write-register", body);
    let victim = case.victim(&hostile);
    for _ in 0..64 {
        victim.poke();
    }
    let tree = victim.device.inspect();
    assert!(tree["runtime"]["failures"].as_u64() > Some(0), "{tree:#}");
}

/// A queue accepts as many buffers as it has room for, and returns their number.
fn posts(case: &Case) {
    let (buffer, segment) = (OWN, OWN + 32);
    let body = format!(
        "i32.const 0 i32.const 0 i32.const {buffer} i32.const 1
         i32.const {segment} i32.const 1 call $post-receive
         global.get $taken i32.add global.set $taken i32.const 0"
    );
    let hostile = case
        .hostile()
        .fields(format!(
            "(global $taken (mut i32) (i32.const 0))
             (data (i32.const {buffer}) \"\\09\\00\\00\\00\\01\\00\")
             (data (i32.const {segment}) \"\\00\\20\\00\\00\\00\\00\\00\\00\\00\\08\")"
        ))
        .export("write-register", body)
        .export("read-register", "global.get $taken i64.extend_i32_u");
    let victim = case.victim(&hostile);
    for _ in 0..5000 {
        victim.poke();
    }
    victim.runs();
    assert_eq!(victim.read(0), 4096);
    let tree = victim.device.inspect();
    assert_eq!(tree["ports"]["0"]["posted_buffers"], 4096, "{tree:#}");
    // All in one call, until the call is ended.
    let body = format!(
        "{} i32.const 0",
        for_ever(&format!(
            "i32.const 0 i32.const 0 i32.const {buffer} i32.const 1
             i32.const {segment} i32.const 1 call $post-receive drop
             i64.const 0 i32.const 64 i32.const {ANSWER} call $read"
        ))
    );
    let hostile = case
        .hostile()
        .fields(format!(
            "(data (i32.const {buffer}) \"\\09\\00\\00\\00\\01\\00\")
             (data (i32.const {segment}) \"\\00\\20\\00\\00\\00\\00\\00\\00\\00\\08\")"
        ))
        .export("write-register", body);
    let victim = case.victim(&hostile);
    victim.poke();
    victim.is_ended(&["interrupt", "deadline", "time"]);
    let tree = victim.device.inspect();
    assert_eq!(tree["ports"]["0"]["posted_buffers"], 0, "{tree:#}");
}

/// The numbers of descriptors, mappings and threads do not grow.
fn resets(case: &Case) {
    let victim = case.victim(&case.hostile().export("write-register", "unreachable"));
    let count = |path| std::fs::read_dir(path).expect("it can be read").count();
    let maps = || {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("it can be read");
        maps.lines().count()
    };
    let round = || {
        victim.poke();
        assert!(victim.device.failure().is_some());
        victim.device.reset();
        victim.be_master();
        assert!(victim.device.failure().is_none());
    };
    (0..10).for_each(|_| round());
    let before = (count("/proc/self/fd"), maps());
    (0..1000).for_each(|_| round());
    let after = (count("/proc/self/fd"), maps());
    assert_eq!(before.0, after.0, "descriptors");
    assert!(after.1 <= before.1 + 16, "mappings: {before:?} {after:?}");
    victim.runs_after_failures();
}
