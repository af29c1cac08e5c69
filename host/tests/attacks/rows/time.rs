//! Components that take too long, or keep others from running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use manatee::device::Limits;
use manatee::endpoint::Null;

use super::{Row, row};
use crate::case::Case;
use crate::hostile::{ANSWER, OWN, for_ever, rounds};

pub const ROWS: &[Row] = &[
    row("functions that never return", endless),
    row("recursion without end", recursion),
    row("imports called for ever", import_storm),
    row("service that always says there is more", always_more),
    row("slow service that always says there is more", slow_and_more),
    row("slow register read wide", slow_wide_read),
    row("slow imports in one call", slow_imports),
];

fn endless(case: &Case) {
    type Act = fn(&crate::case::Victim);
    let name_and_call: [(&str, Act); 6] = [
        ("write-register", |victim| victim.poke()),
        ("read-register", |victim| _ = victim.read(0)),
        ("reset", |victim| victim.device.reset()),
        ("save", |victim| _ = victim.device.save()),
        ("inspect", |victim| _ = victim.device.inspect()),
        ("link-changed", |victim| victim.device.set_link(0, false)),
    ];
    for (name, attack) in name_and_call {
        let victim = case.victim(&case.hostile().export(name, for_ever("") + " unreachable"));
        attack(&victim);
        // A reset continues with a fresh instance.
        if name == "reset" {
            assert_eq!(victim.device.inspect()["runtime"]["restarts"], 1);
        } else {
            victim.is_ended(&["interrupt", "deadline", "time"]);
        }
    }
    for name in ["describe", "configure"] {
        case.refusal(&case.hostile().export(name, for_ever("") + " unreachable"));
    }
}

fn recursion(case: &Case) {
    let hostile = case
        .hostile()
        .fields("(func $down (param i64 i64 i64) local.get 0 local.get 1 local.get 2 call $down)")
        .export(
            "write-register",
            "i64.const 0 i64.const 0 i64.const 0 call $down i32.const 0",
        );
    let victim = case.victim(&hostile);
    victim.poke();
    victim.is_ended(&["stack"]);
    // Deep in the recursion, the host still has a stack of its own.
    let hostile = case
        .hostile()
        .fields(format!(
            "(func $down (param i32)
               i64.const 0 i32.const 4096 i32.const {ANSWER} call $read
               i32.const 4 i32.const {OWN} i32.const 100 call $log
               local.get 0 i32.const 1 i32.add call $down)"
        ))
        .export("write-register", "i32.const 0 call $down i32.const 0");
    let victim = case.victim(&hostile);
    victim.poke();
    victim.is_ended(&["stack", "interrupt", "deadline", "time"]);
}

fn import_storm(case: &Case) {
    let calls = [
        format!("i64.const 0 i32.const 0x100000 i32.const {ANSWER} call $read"),
        format!("i64.const 0 i32.const {OWN} i32.const 0x10000 i32.const {ANSWER} call $write"),
        format!("i32.const {OWN} i32.const 65 call $raise"),
        "call $changed".to_owned(),
        "i64.const 9 call $attempt".to_owned(),
        "i32.const 0 i32.const 0 call $cancel-receive".to_owned(),
        "i32.const 0 i32.const 0 call $cancel-transmit".to_owned(),
        format!(
            "i32.const 0 i32.const 0 i32.const {OWN} i32.const 0 i32.const {OWN} i32.const 0
             i32.const {ANSWER} call $transmit"
        ),
        format!(
            "i32.const 0x80000 i32.const {OWN} i32.const 1 i32.const {ANSWER} call $map-window
             i32.const 0x80000 call $unmap-window"
        ),
    ];
    for call in calls {
        let body = format!("{} i32.const 0", for_ever(&call));
        // A read of 1 MiB needs room.
        let hostile = case.hostile().memory(64).export("write-register", body);
        let hostile = hostile.realloc("i32.const 0x200000");
        let victim = case.victim(&hostile);
        victim.poke();
        victim.is_ended(&["interrupt", "deadline", "time"]);
    }
}

/// Runs a device that never runs out of work, and checks that another thread gets its turns.
fn serves_others(case: &Case, service: &str, deadline: Duration) {
    let hostile = case
        .hostile()
        .fields("(global $turns (mut i64) (i64.const 0))")
        .export("write-register", "i32.const 1")
        .export(
            "service",
            format!(
                "(local $round i32) {service}
                 global.get $turns i64.const 1 i64.add global.set $turns i32.const 1"
            ),
        )
        .export("read-register", "global.get $turns");
    let limits = Limits {
        deadline,
        ..case.limits()
    };
    let victim = case.try_victim(&hostile, limits, Box::new(Null::new()));
    let victim = victim.expect("the component is accepted");
    victim.poke();
    // A second thread looks at configuration space, as a VMM does.
    let done = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let (device, done) = (victim.device.clone(), done.clone());
        move || {
            for _ in 0..20 {
                let mut id = [0; 4];
                device.config_read(0, &mut id);
                assert_eq!(u32::from_le_bytes(id), 0x00ba_1414);
            }
            done.store(true, Ordering::SeqCst);
        }
    });
    let begun = Instant::now();
    while !done.load(Ordering::SeqCst) {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "others get no turn"
        );
        thread::yield_now();
    }
    reader.join().expect("the reader read");
    // Its own work continues too.
    let before = victim.read(0);
    while before != u64::MAX && victim.read(0) == before {
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "its work is left undone"
        );
        thread::yield_now();
    }
    // Dropping the device ends its thread.
    victim.device.reset();
    drop(victim);
}

fn always_more(case: &Case) {
    serves_others(case, "", Duration::from_millis(200));
}

fn slow_and_more(case: &Case) {
    // Each takes about half of the deadline, as `spin_for` measures.
    let spin = spin_for(case, Duration::from_millis(100));
    serves_others(case, &spin, Duration::from_millis(200));
}

/// Returns a loop that takes about this long on this machine.
fn spin_for(case: &Case, time: Duration) -> String {
    const TRIED: u32 = 4_000_000;
    let hostile = case.hostile().export(
        "write-register",
        format!("(local $round i32) {} i32.const 0", rounds(TRIED, "")),
    );
    let limits = Limits {
        deadline: Duration::from_secs(60),
        ..case.limits()
    };
    let victim = case.try_victim(&hostile, limits, Box::new(Null::new()));
    let victim = victim.expect("it behaves");
    victim.poke();
    // The shortest of several: a preempted measurement would make the loop too short.
    let once = || {
        let begun = Instant::now();
        victim.poke();
        begun.elapsed().as_secs_f64()
    };
    let taken = (0..8).map(|_| once()).fold(f64::INFINITY, f64::min);
    let count = f64::from(TRIED) * time.as_secs_f64() / taken;
    rounds((count as u32).max(1), "")
}

/// A read of 64 bytes is eight calls with one deadline. At half a deadline each they take
/// four in all, so the read is ended however uneven this machine is.
fn slow_wide_read(case: &Case) {
    let deadline = Duration::from_millis(1000);
    let spin = spin_for(case, deadline / 2);
    let hostile = case.hostile().export(
        "read-register",
        format!("(local $round i32) {spin} i64.const 7"),
    );
    let limits = Limits {
        deadline,
        ..case.limits()
    };
    let victim = case.try_victim(&hostile, limits, Box::new(Null::new()));
    let victim = victim.expect("the component is accepted");
    let mut data = [0; 64];
    victim.device.bar_read(0, 0, &mut data);
    victim.is_ended(&["interrupt", "deadline", "time"]);
    assert_eq!(data[56..], [0xff; 8]);
}

/// Time in imports counts towards the call's deadline: a hundred long reads after a long loop.
fn slow_imports(case: &Case) {
    let read = format!("i64.const 0 i32.const 0x100000 i32.const {ANSWER} call $read");
    let body = format!(
        "(local $round i32) {} i32.const 0",
        rounds(i32::MAX as u32, &read)
    );
    let hostile = case
        .hostile()
        .memory(64)
        .realloc("i32.const 0x200000")
        .export("write-register", body);
    let victim = case.victim(&hostile);
    victim.poke();
    victim.is_ended(&["interrupt", "deadline", "time"]);
}
