//! Leaks that show only after a long time. These rows are part of `just test-long`.

use manatee::component::Component;
use manatee::device::{CrashPolicy, SwapOptions};

use super::{Row, large};
use crate::case::Case;

pub const ROWS: &[Row] = &[
    large("ten thousand swaps", 64, swaps),
    large("a thousand crashes", 64, crashes),
];

/// Numbers of descriptors, mappings and threads, and memory in KiB.
#[derive(Debug)]
struct Usage {
    descriptors: usize,
    threads: usize,
    mappings: usize,
    memory: u64,
}

impl Usage {
    fn now() -> Self {
        let count = |path| std::fs::read_dir(path).expect("it can be read").count();
        let text = |path| std::fs::read_to_string(path).expect("it can be read");
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            mappings: text("/proc/self/maps").lines().count(),
            memory: crate::child::status("VmRSS:"),
        }
    }

    /// Checks that nothing has grown, except for short-lived resources.
    fn has_not_grown(&self) {
        let now = Self::now();
        let held = now.descriptors <= self.descriptors
            && now.threads <= self.threads + 1
            && now.mappings <= self.mappings + 32
            && now.memory <= self.memory + (8 << 10);
        assert!(held, "from {self:?} to {now:?}");
    }
}

/// Loads a component that saves nothing, and so can take over from any other.
fn twin(case: &Case) -> Component {
    case.hostile().load().expect("it loads")
}

fn swaps(case: &Case) {
    let victim = case.victim(&case.hostile());
    let successors = [twin(case), twin(case)];
    let options = || SwapOptions {
        probation: std::time::Duration::ZERO,
    };
    let swap = |round: usize| {
        let swapped = victim.device.swap(&successors[round % 2], options());
        swapped.expect("the components can replace each other");
    };
    (0..200).for_each(swap);
    let before = Usage::now();
    (0..10_000).for_each(swap);
    before.has_not_grown();
    victim.runs();
}

/// A fresh instance continues from the checkpoint after each.
fn crashes(case: &Case) {
    let hostile = case
        .hostile()
        .fields("(global $round (mut i32) (i32.const 0))")
        .export(
            "write-register",
            // Other calls succeed, so that the device is not taken down.
            "call $changed local.get 3 i64.eqz if unreachable end i32.const 0",
        );
    let victim = case.victim(&hostile);
    let round = |_| {
        (0..200).for_each(|_| victim.write(0, 1));
        victim.write(0, 0);
        assert!(
            victim.device.failure().is_none(),
            "a fresh instance continues"
        );
    };
    (0..20).for_each(round);
    let before = Usage::now();
    (0..1000).for_each(round);
    before.has_not_grown();
    let tree = victim.device.inspect();
    assert_eq!(tree["runtime"]["failures"], 1020, "{tree:#}");
    assert_eq!(
        CrashPolicy::default().recoveries,
        4,
        "one failure alone is forgotten"
    );
}
