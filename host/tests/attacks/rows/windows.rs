//! Windows of guest memory, and lists in them.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use manatee::device::SwapOptions;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::{Row, row};
use crate::case::{Case, MEMORY, Victim};
use crate::hostile::{ANSWER, ARENA, Hostile, OWN};

pub const ROWS: &[Row] = &[
    row("windows that can't be", impossible),
    row("windows over what the host reads next", over_own_lists),
    row("windows laid for ever", many),
    row("accesses to a window whose memory is gone", gone),
    row("lists in a window whose memory is gone", lists_gone),
    row("a file that shrinks under a window", shrunk),
    row("lists in a window that changes", racing),
    row("lists that meet the arena", in_the_arena),
    row("results that meet the arena", results_in_the_arena),
    row("arenas that can't be", impossible_arenas),
    row("a window that is filled in a rehearsal", rehearsal),
    row("a window without bus mastering", no_master),
    row("memory that comes and goes under windows", comes_and_goes),
    row("stores to a window that is read", read_only),
    row("a window of no known access", no_such_access),
];

/// The offset at which windows are laid, within 1 MiB.
const WINDOW: u32 = ARENA;
/// The guest page that is mapped there.
const PAGE: u64 = 0x3000;

/// Returns a component that lays a window at the first `write-register`, and runs `body` at later
/// ones. The result of `map-window` can be read at offset 0.
fn with_window(case: &Case, body: &str) -> Hostile {
    let map = format!("i32.const {ANSWER} call $map-window");
    mapped_by(case, &map, body)
}

fn mapped_by(case: &Case, map: &str, body: &str) -> Hostile {
    case.hostile()
        .arena()
        .fields(format!(
            "(global $laid (mut i32) (i32.const 0))
             (data (i32.const {OWN}) \"\\00\\30\\00\\00\\00\\00\\00\\00\")"
        ))
        .export(
            "write-register",
            format!(
                "(local $round i32)
                 global.get $laid i32.eqz if
                   i32.const 1 global.set $laid
                   i32.const {WINDOW} i32.const {OWN} i32.const 1 {map}
                 else {body} end
                 i32.const 0"
            ),
        )
        .export("read-register", format!("i32.const {ANSWER} i64.load16_u"))
}

/// As [`with_window`], with this access, for versions of the contract that have access modes.
fn with_access(case: &Case, access: u32, body: &str) -> Hostile {
    let map = format!("i32.const {access} i32.const {ANSWER} call $map-window-with-access");
    mapped_by(case, &map, body)
}

/// Lays the window. Returns whether the host did; it need not support windows.
fn lay(victim: &Victim) -> bool {
    victim.poke();
    match victim.read(0) {
        0 => true,
        // The error `unsupported`.
        1 => false,
        other => panic!("map-window answered {other:#x}"),
    }
}

fn impossible(case: &Case) {
    let page = |address: u64| {
        let bytes = address.to_le_bytes();
        bytes
            .iter()
            .map(|b| format!("\\{b:02x}"))
            .collect::<String>()
    };
    // The offset, and the page's address.
    let windows: [(u32, u64); 10] = [
        (WINDOW + 1, PAGE),
        (WINDOW + 2048, PAGE),
        (0x10_0000, PAGE),
        (0xf_f000 + 0x1000, PAGE),
        (0xffff_f000, PAGE),
        (WINDOW, PAGE + 1),
        (WINDOW, MEMORY),
        (WINDOW, u64::MAX),
        (WINDOW, u64::MAX - 4095),
        (WINDOW, 1 << 52),
    ];
    for (offset, address) in windows {
        let hostile = case
            .hostile()
            .arena()
            .fields(format!("(data (i32.const {OWN}) \"{}\")", page(address)))
            .export(
                "write-register",
                format!(
                    "i32.const {} i32.const {OWN} i32.const 1 i32.const {ANSWER} call $map-window
                     i32.const 0",
                    offset as i32
                ),
            )
            .export("read-register", format!("i32.const {ANSWER} i64.load16_u"));
        let victim = case.victim(&hostile);
        victim.poke();
        // The error `unsupported`, or `invalid`.
        let answer = victim.read(0);
        assert!(matches!(answer, 0x001 | 0x101), "{offset:#x} {answer:#x}");
        victim.runs();
    }
}

/// The window covers lists, answers, the description, and page 0.
fn over_own_lists(case: &Case) {
    for offset in [0, 4096, OWN & !4095, 65536] {
        let hostile = case
            .hostile()
            .arena()
            .fields(format!(
                "(data (i32.const {OWN}) \"\\00\\30\\00\\00\\00\\00\\00\\00\")"
            ))
            .export(
                "write-register",
                format!(
                    "i32.const {offset} i32.const {OWN} i32.const 1 i32.const {ANSWER} call $map-window
                     i32.const 1 i32.const {offset} i32.const 64 call $log
                     i32.const 0"
                ),
            );
        let victim = case.victim(&hostile);
        for _ in 0..3 {
            victim.poke();
        }
        // At most the instance failed.
        if victim.device.failure().is_some() {
            victim.is_ended(&[]);
        }
        // No answer was written to guest memory.
        victim.device.reset();
    }
}

fn many(case: &Case) {
    let hostile = case
        .hostile()
        .memory(4096)
        .arena_at(0x10_0000, 0xff0_0000)
        .fields(format!(
            "(data (i32.const {OWN}) \"\\00\\30\\00\\00\\00\\00\\00\\00\")
             (global $laid (mut i64) (i64.const 0))"
        ))
        .export(
            "write-register",
            format!(
                "(local $at i32)
                 i32.const 0x100000 local.set $at
                 (loop $more
                   local.get $at i32.const {OWN} i32.const 1 i32.const {ANSWER} call $map-window
                   i32.const {ANSWER} i32.load8_u i32.eqz if
                     global.get $laid i64.const 1 i64.add global.set $laid
                     local.get $at i32.const 8192 i32.add local.tee $at
                     i32.const 0xfff0000 i32.lt_u br_if $more
                   end)
                 i32.const 0"
            ),
        )
        .export("read-register", "global.get $laid");
    let limits = manatee::device::Limits {
        deadline: std::time::Duration::from_secs(20),
        ..case.limits()
    };
    let endpoint = Box::new(manatee::endpoint::Loopback::new());
    let victim = case.try_victim(&hostile, limits, endpoint);
    let victim = victim.expect("the component is accepted");
    victim.poke();
    let laid = victim.read(0);
    assert!(laid <= 2048, "{laid} windows");
    victim.runs();
    victim.device.reset();
}

/// Loads, stores, and the instructions that native code carries out.
const ACCESSES: [&str; 9] = [
    "i32.const 0x80000 i64.load drop",
    "i32.const 0x80ff8 i64.const -1 i64.store",
    "i32.const 0x80000 i32.const 7 i32.const 64 memory.fill",
    "i32.const 0x80000 i32.const 7 i32.const 200 memory.fill",
    "i32.const 0x80000 i32.const 7 i32.const 4096 memory.fill",
    "i32.const 0x7f000 i32.const 7 i32.const 12288 memory.fill",
    "i32.const 0x80000 i32.const 0x20000 i32.const 4096 memory.copy",
    "i32.const 0x20000 i32.const 0x80000 i32.const 4096 memory.copy",
    "i32.const 0x80000 i32.const 0x80800 i32.const 2048 memory.copy",
];

fn gone(case: &Case) {
    for access in ACCESSES {
        let victim = case.victim(&with_window(case, access));
        lay(&victim);
        let unmapped = victim.device.unmap_memory(0, MEMORY);
        unmapped.expect("memory can be taken away");
        victim
            .memory
            .write_all_at(&[0x55; 64], PAGE)
            .expect("the VMM's own page");
        victim.poke();
        victim.poke();
        // Nothing reached guest memory, and the process still runs.
        assert_eq!(victim.guest(PAGE, 64), [0x55; 64], "{access}");
        victim.share_memory();
        victim.device.reset();
        victim.be_master();
        assert!(victim.device.failure().is_none());
    }
}

/// Every import that takes or returns a list.
const LISTS: [&str; 11] = [
    "i64.const 0 i32.const 0x80000 i32.const 4096 i32.const 1280 call $write",
    "i32.const 1 i32.const 0x80000 i32.const 1024 call $log",
    "i32.const 0x80000 i32.const 64 call $raise",
    "i32.const 0x90000 i32.const 0x80000 i32.const 16 i32.const 1280 call $map-window",
    "i32.const 0 i32.const 0 i32.const 0x80000 i32.const 64 i32.const 0x20000 i32.const 0 i32.const 1280 call $transmit",
    "i32.const 0 i32.const 0 i32.const 0x20000 i32.const 1 i32.const 0x80000 i32.const 64 i32.const 1280 call $transmit",
    "i32.const 0 i32.const 0 i32.const 0x80000 i32.const 64 i32.const 0x20000 i32.const 0 call $post-receive drop",
    "i32.const 0 i32.const 0 i32.const 0x20000 i32.const 1 i32.const 0x80000 i32.const 64 call $post-receive drop",
    "i64.const 0 i32.const 64 i32.const 0x80000 call $read",
    "i32.const 0 i32.const 0 i32.const 0x20000 i32.const 0 i32.const 0x20000 i32.const 0 i32.const 0x80000 call $transmit",
    "i64.const 0 i32.const 0x20000 i32.const 4 i32.const 0x80ffe call $write",
];

fn lists_gone(case: &Case) {
    for list in LISTS {
        let victim = case.victim(&with_window(case, list));
        lay(&victim);
        let unmapped = victim.device.unmap_memory(0, MEMORY);
        unmapped.expect("memory can be taken away");
        victim.poke();
        victim.poke();
        if victim.device.failure().is_some() {
            victim.is_ended(&[]);
        }
        victim.share_memory();
        victim.device.reset();
    }
}

/// The owner of a shared file can shrink it. That ends the device that uses it.
fn shrunk(case: &Case) {
    manatee::memory::install_fault_handler().expect("there is a handler");
    let copies = [
        "i64.const 0x3000 i32.const 64 i32.const 1280 call $read",
        "i64.const 0x3000 i32.const 16384 i32.const 64 i32.const 1280 call $write",
    ];
    for access in ACCESSES.into_iter().chain(copies) {
        let victim = case.victim(&with_window(case, access));
        let laid = lay(&victim);
        victim.memory.set_len(0).expect("it can be made shorter");
        victim.poke();
        victim.poke();
        let touches = laid || access.contains("call");
        assert_eq!(victim.device.failure().is_some(), touches, "{access}");
        // With mapped memory it works again.
        victim
            .device
            .unmap_memory(0, MEMORY)
            .expect("memory can be taken away");
        victim
            .memory
            .set_len(MEMORY)
            .expect("it can be made longer");
        victim.share_memory();
        victim.device.reset();
        victim.be_master();
        victim.runs_after_failures();
    }
}

/// A VMM's thread, or a guest's processor, writes to the page continuously.
fn racing(case: &Case) {
    // The text sometimes ends in the middle of a character.
    let log = "i32.const 4 i32.const 0x80c00 i32.const 1024 call $log";
    let looped = |call: &str| crate::hostile::rounds(3000, call);
    for list in LISTS.into_iter().chain([log]) {
        let victim = case.victim(&with_window(case, &looped(list)));
        lay(&victim);
        let stop = Arc::new(AtomicBool::new(false));
        let writer = thread::spawn({
            let (stop, memory) = (stop.clone(), map(&victim));
            move || {
                let mut round = 0_u8;
                while !stop.load(Ordering::SeqCst) {
                    round = round.wrapping_add(1);
                    let byte = if round & 1 == 0 { b'a' } else { 0xf0 };
                    memory.fill(byte);
                }
            }
        });
        victim.poke();
        stop.store(true, Ordering::SeqCst);
        writer.join().expect("the writer did not fail");
        if victim.device.failure().is_some() {
            victim.is_ended(&[]);
        }
    }
}

/// A second mapping of the guest's page.
struct Mapped(MmapRegion);

impl Mapped {
    fn fill(&self, byte: u8) {
        let slice = self.0.as_volatile_slice();
        for at in [0, 8, 1024, 3072, 4094, 4095] {
            slice.write_obj(byte, at).expect("it is inside the page");
        }
    }
}

fn map(victim: &Victim) -> Mapped {
    let file = victim.memory.try_clone().expect("a descriptor");
    let offset = FileOffset::new(file, PAGE);
    Mapped(MmapRegion::from_file(offset, 4096).expect("it can be mapped"))
}

/// The host never reads lists in the arena, whether a window is laid there or not.
fn in_the_arena(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    if !case.direct {
        // Through the component model there is no arena, and linear memory never holds guest pages:
        // these are ordinary lists.
        let across = "i64.const 0 i32.const 0x7ffff i32.const 2 i32.const 1280 call $write";
        let victim = case.victim(&with_window(case, across));
        assert!(!lay(&victim));
        victim.poke();
        return victim.runs();
    }
    let across = [
        // One that begins in the heap, and ends in the arena.
        "i64.const 0 i32.const 0x7ffff i32.const 2 i32.const 1280 call $write",
        // One that begins in the arena, and ends in the heap after it.
        "i64.const 0 i32.const 0x9ffff i32.const 2 i32.const 1280 call $write",
        // One that contains the arena.
        "i32.const 1 i32.const 0x70000 i32.const 0x40000 call $log",
    ];
    for list in LISTS.into_iter().chain(across) {
        for laid in [false, true] {
            let victim = case.victim(&with_window(case, list));
            if laid {
                lay(&victim);
            } else {
                // The first write lays it; an unmapped page has no window.
                victim
                    .device
                    .unmap_memory(0, MEMORY)
                    .expect("memory can be taken away");
                victim.poke();
            }
            victim.poke();
            victim.is_ended(&["arena"]);
        }
    }
    // After the arena there is heap again.
    let beyond = "i64.const 0 i32.const 0xa0000 i32.const 64 i32.const 1280 call $write";
    let victim = case.victim(&with_window(case, beyond));
    lay(&victim);
    victim.poke();
    victim.runs();
}

fn results_in_the_arena(case: &Case) {
    if !case.version.has_arenas || !case.direct {
        return;
    }
    for address in [ARENA, ARENA - 4, ARENA + 0x1_fffc] {
        let address = format!("i32.const {address}");
        let victim = case.victim(&case.hostile().arena().export("save", &address[..]));
        victim.device.save().expect_err("there is no state");
        victim.is_ended(&["arena"]);
        let victim = case.victim(&case.hostile().arena().export("inspect", &address[..]));
        victim.device.inspect();
        victim.is_ended(&["arena"]);
    }
    // The host does not write there either.
    let hostile = case
        .hostile()
        .arena()
        .fields("(global $armed (mut i32) (i32.const 0))")
        .realloc(format!(
            "global.get $armed if (result i32) i32.const {ARENA} else i32.const 65536 end"
        ))
        .export(
            "write-register",
            format!(
                "i32.const 1 global.set $armed
                 i64.const 0 i32.const 64 i32.const {ANSWER} call $read i32.const 0"
            ),
        );
    let victim = case.victim(&hostile);
    victim.poke();
    victim.is_ended(&["arena"]);
}

/// An arena is reserved once, and must be inside memory.
fn impossible_arenas(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    let arenas: [(u32, u32); 8] = [
        (ARENA + 1, 0x1_0000),
        (ARENA, 0x1_0001),
        (ARENA, 0),
        (0x10_0000, 0x1_0000),
        (0xf_0000, 0x2_0000),
        (0xffff_0000, 0x1_0000),
        (0xffff_0000, 0xffff_0000),
        (0, 0xffff_0000),
    ];
    for (offset, length) in arenas {
        let reserve = format!(
            "i32.const {} i32.const {} i32.const {ANSWER} call $reserve-arena i32.const 0",
            offset as i32, length as i32
        );
        let hostile = case
            .hostile()
            .fields("(data (i32.const 1600) \"\\00\\01\")")
            .export("configure", "i32.const 1600")
            .export("write-register", reserve)
            .export("read-register", format!("i32.const {ANSWER} i64.load16_u"));
        let victim = case.victim(&hostile);
        victim.poke();
        if victim.device.failure().is_some() {
            victim.is_ended(&[]);
        } else {
            assert_eq!(victim.read(0) & 1, 1, "an arena at {offset:#x}+{length:#x}");
            victim.runs();
        }
    }
    // A second one.
    let again = format!(
        "i32.const 0xb0000 i32.const 0x10000 i32.const {ANSWER} call $reserve-arena i32.const 0"
    );
    let hostile = case
        .hostile()
        .arena()
        .export("write-register", again)
        .export("read-register", format!("i32.const {ANSWER} i64.load16_u"));
    let victim = case.victim(&hostile);
    victim.poke();
    assert!(victim.device.failure().is_some() || victim.read(0) & 1 == 1);
}

/// A candidate may read. Its writes, by any instruction, stay private.
fn rehearsal(case: &Case) {
    for access in ACCESSES {
        let victim = case.victim(&case.hostile());
        victim
            .memory
            .write_all_at(&[0x55; 4096], PAGE)
            .expect("the guest's page");
        let body = format!(
            "i32.const {WINDOW} i32.const {OWN} i32.const 1 i32.const {ANSWER} call $map-window
             {access} unreachable"
        );
        let candidate = case
            .hostile()
            .arena()
            .fields(format!(
                "(data (i32.const {OWN}) \"\\00\\30\\00\\00\\00\\00\\00\\00\")"
            ))
            .export("restore", body);
        let candidate = candidate.load().expect("it loads");
        let swapped = victim.device.swap(&candidate, SwapOptions::default());
        let error = swapped.expect_err("it traps").to_string();
        assert!(error.contains("unreachable"), "{access}: {error}");
        let unchanged = victim.guest(PAGE, 4096) == [0x55; 4096];
        assert!(unchanged, "{access} reached the guest's page");
        victim.runs();
    }
}

/// Without bus mastering nothing is read or written; with it the device continues.
fn no_master(case: &Case) {
    let read = "i32.const 0x80000 i64.load i32.const 0x20000 i32.const 0 drop drop drop";
    let store = format!("i32.const {WINDOW} i64.const -1 i64.store {read}");
    // The window was laid before bus mastering was turned off.
    let victim = case.victim(&with_window(case, &store));
    lay(&victim);
    victim.device.config_write(4, &2_u16.to_le_bytes());
    victim.poke();
    assert_eq!(
        victim.guest(PAGE, 8),
        [0; 8],
        "it wrote without bus mastering"
    );
    victim.be_master();
    victim.poke();
    victim.runs();
    // The window was laid while it was off.
    let victim = case.victim(&with_window(case, &store));
    victim.device.config_write(4, &2_u16.to_le_bytes());
    lay(&victim);
    victim.poke();
    assert_eq!(
        victim.guest(PAGE, 8),
        [0; 8],
        "it wrote without bus mastering"
    );
}

/// Guest memory that the VMM repeatedly unmaps and maps is no failure of the component.
fn comes_and_goes(case: &Case) {
    let store = format!("i32.const {WINDOW} i64.const -1 i64.store");
    let victim = case.victim(&with_window(case, &store));
    let laid = lay(&victim);
    for _ in 0..40 {
        let unmapped = victim.device.unmap_memory(0, MEMORY);
        unmapped.expect("memory can be taken away");
        victim.poke();
        victim.share_memory();
    }
    victim.runs();
    victim.poke();
    let expected = if laid { [0xff; 8] } else { [0; 8] };
    assert_eq!(victim.guest(PAGE, 8), expected);
}

fn read_only(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    let fill = format!("i32.const {WINDOW} i32.const 0xaa i32.const 4096 memory.fill");
    let victim = case.victim(&with_access(case, 1, &fill));
    // Otherwise the following checks would prove nothing.
    let laid = case.direct && cfg!(target_arch = "x86_64");
    assert_eq!(lay(&victim), laid);
    let guest = || {
        let mut page = vec![0; 4096];
        victim.memory.read_exact_at(&mut page, PAGE).unwrap();
        page
    };
    let before = guest();
    victim.poke();
    assert_eq!(guest(), before);
    victim.runs();
}

fn no_such_access(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    for access in [2, u32::MAX] {
        let victim = case.victim(&with_access(case, access, ""));
        victim.poke();
        victim.is_ended(&[]);
    }
}
