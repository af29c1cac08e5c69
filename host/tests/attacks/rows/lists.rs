//! Lists that a component passes to the host.

use std::time::Duration;

use manatee::device::Limits;
use manatee::endpoint::Loopback;

use super::{Row, large, row};
use crate::case::Case;
use crate::hostile::{ANSWER, Hostile, OWN};

pub const ROWS: &[Row] = &[
    row("lists that end beyond memory", beyond_memory),
    row("lists that are misaligned", misaligned),
    row("answers that are to go nowhere", answers_nowhere),
    row("lists that lie over their own answers", over_answers),
    // The component's own 64 MiB, and the host's copies.
    large("transmit of millions of packets", 112, millions_of_packets),
    large(
        "transmit of millions of segments",
        112,
        millions_of_segments,
    ),
    large("posting millions of buffers", 112, millions_of_buffers),
    row("window of millions of pages", millions_of_pages),
    row("millions of vectors", millions_of_vectors),
    row("write of 64 MiB", long_write),
    row("log line of 64 MiB", long_line),
    row("read of 4 GiB", long_read),
    row("every list of 4 GiB", four_gibibytes),
];

/// Calls of the imports with list parameters; `LIST` stands for address and count.
const IMPORTS: [(&str, u32, &str); 8] = [
    ("write", 1, "i64.const 0 LIST i32.const 1280 call $write"),
    ("log", 1, "i32.const 2 LIST call $log"),
    ("raise", 2, "LIST call $raise"),
    (
        "map-window",
        8,
        "i32.const 65536 LIST i32.const 1280 call $map-window",
    ),
    (
        "transmit, packets",
        4,
        "i32.const 0 i32.const 0 LIST i32.const 16384 i32.const 0 i32.const 1280 call $transmit",
    ),
    (
        "transmit, segments",
        8,
        "i32.const 0 i32.const 0 i32.const 16384 i32.const 1 LIST i32.const 1280 call $transmit",
    ),
    (
        "post-receive, buffers",
        4,
        "i32.const 0 i32.const 0 LIST i32.const 16384 i32.const 0 call $post-receive drop",
    ),
    (
        "post-receive, segments",
        8,
        "i32.const 0 i32.const 0 i32.const 16384 i32.const 1 LIST call $post-receive drop",
    ),
];

/// The end of linear memory: a component has 16 pages by default.
const END: u32 = 16 << 16;

fn with_list(call: &str, address: u32, count: u32) -> String {
    let list = format!("i32.const {} i32.const {}", address as i32, count as i32);
    format!("{} i32.const 0", call.replace("LIST", &list))
}

/// Checks that each of the calls ends the instance.
fn all_end(case: &Case, lists: impl Fn(u32) -> Vec<(u32, u32)>) {
    for (import, align, call) in IMPORTS {
        for (address, count) in lists(align) {
            let body = with_list(call, address, count);
            let victim = case.victim(&case.hostile().export("write-register", body));
            victim.poke();
            assert!(
                victim.device.failure().is_some(),
                "{import} took {count} items at {address:#x}"
            );
            victim.is_ended(&[]);
        }
    }
}

fn beyond_memory(case: &Case) {
    all_end(case, |align| {
        vec![
            (END - align, 17),
            (END, 1),
            (END + 8, 1),
            (0xffff_fff8, 1),
            (0xffff_fff8, 2),
            (0xffff_fff8, 16),
        ]
    });
}

fn misaligned(case: &Case) {
    all_end(case, |align| {
        (1..align).map(|more| (OWN + 512 + more, 1)).collect()
    });
}

fn four_gibibytes(case: &Case) {
    all_end(case, |_| {
        vec![
            (0, u32::MAX),
            (8, 0x1000_0000),
            (8, 0x2000_0000),
            (8, 0x8000_0000),
        ]
    });
}

fn answers_nowhere(case: &Case) {
    let calls = [
        ("read", 4, "i64.const 0 i32.const 4 TO call $read"),
        (
            "write",
            1,
            "i64.const 0 i32.const 16384 i32.const 4 TO call $write",
        ),
        (
            "map-window",
            1,
            "i32.const 65536 i32.const 16384 i32.const 0 TO call $map-window",
        ),
        (
            "transmit",
            8,
            "i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 0 TO call $transmit",
        ),
    ];
    for (import, align, call) in calls {
        let mut places = vec![END - align / 2, END, 0xffff_fff8];
        if align > 1 {
            places.push(OWN + 1);
        } else {
            places[0] = END - 1;
        }
        for to in places {
            let to_text = format!("i32.const {}", to as i32);
            let body = format!("{} i32.const 0", call.replace("TO", &to_text));
            let victim = case.victim(&case.hostile().export("write-register", body));
            victim.poke();
            assert!(
                victim.device.failure().is_some(),
                "{import} answered at {to:#x}"
            );
            victim.is_ended(&[]);
        }
    }
}

/// The host reads parameters before it writes the answer over them.
fn over_answers(case: &Case) {
    // A packet of one segment of 64 bytes at address 0x1000, whose answer overwrites it.
    let body = format!(
        "i32.const {OWN} i32.const 5 i32.store
         i32.const {} i32.const 1 i32.store
         i32.const {} i32.const 0x1000 i32.store
         i32.const {} i32.const 64 i32.store
         i32.const 0 i32.const 0 i32.const {OWN} i32.const 1
         i32.const {} i32.const 1 i32.const {OWN} call $transmit
         i32.const 0",
        OWN + 4,
        OWN + 16,
        OWN + 24,
        OWN + 16,
    );
    let victim = case.victim(&case.hostile().export("write-register", body));
    victim.poke();
    victim.runs();
    let tree = victim.device.inspect();
    assert_eq!(tree["ports"]["0"]["endpoint"], "loopback", "{tree:#}");
}

/// Returns code that fills 60 MiB from 1 MiB on with copies of the first 16 bytes there.
fn copies() -> String {
    let (begin, end) = (1_u32 << 20, 61_u32 << 20);
    let (mut text, mut length) = (String::new(), 16);
    while begin + length < end {
        let now = length.min(end - begin - length);
        text.push_str(&format!(
            "i32.const {} i32.const {begin} i32.const {now} memory.copy\n",
            begin + length
        ));
        length += now;
    }
    text
}

/// Fills memory with records of these words, and calls the host with them.
fn millions(case: &Case, words: [u32; 4], call: &str) {
    let mut body = String::new();
    for (index, word) in words.iter().enumerate() {
        body.push_str(&format!(
            "i32.const {} i32.const {word} i32.store\n",
            (1 << 20) + 4 * index
        ));
    }
    let body = format!("{body} {} {call} i32.const 0", copies());
    let hostile = case.hostile().memory(1024).export("write-register", body);
    is_bounded(case, &hostile);
}

/// Checks that the instance was ended with a message that names the bound, or got an error that
/// the contract has for this. The row's own bound covers the host's allocations.
fn is_bounded(case: &Case, hostile: &Hostile) {
    let limits = Limits {
        // Filling memory takes its time on a busy machine.
        deadline: Duration::from_secs(60),
        ..case.limits()
    };
    let victim = case.try_victim(hostile, limits, Box::new(Loopback::new()));
    let victim = victim.expect("the component is accepted");
    victim.poke();
    if victim.device.failure().is_none() {
        return victim.runs();
    }
    let words = [
        "at most",
        "more than",
        "limit",
        "too many",
        "too long",
        "there are",
    ];
    let text = victim.is_ended(&words);
    assert!(
        text.contains(|c: char| c.is_ascii_digit()),
        "the message names no bound: {text}"
    );
}

/// Records of 16 bytes in 60 MiB.
const RECORDS: u32 = 60 << 16;

fn millions_of_packets(case: &Case) {
    let list = format!("i32.const 0x100000 i32.const {RECORDS}");
    let call = format!("i32.const 0 i32.const 0 {list} {list} i32.const {ANSWER} call $transmit");
    millions(case, [1, 1, 64, 0], &call);
}

fn millions_of_segments(case: &Case) {
    let list = format!("i32.const 0x100000 i32.const {RECORDS}");
    let one = "i32.const 0x100000 i32.const 61";
    let call = format!("i32.const 0 i32.const 0 {one} {list} i32.const {ANSWER} call $transmit");
    millions(case, [1, 0xffff, 64, 0], &call);
}

fn millions_of_buffers(case: &Case) {
    let buffers = format!("i32.const 0x100000 i32.const {RECORDS}");
    let call = format!("i32.const 0 i32.const 0 {buffers} {buffers} call $post-receive drop");
    millions(case, [1, 1, 1, 1], &call);
}

/// Checks a call whose list is longer than a device can have.
fn many(case: &Case, call: &str) {
    let body = format!("{call} i32.const 0");
    let hostile = case.hostile().memory(1024).export("write-register", body);
    is_bounded(case, &hostile);
}

fn millions_of_pages(case: &Case) {
    let call = format!(
        "i32.const 65536 i32.const 65536 i32.const {} i32.const {ANSWER} call $map-window",
        62 << 17
    );
    many(case, &call);
}

fn millions_of_vectors(case: &Case) {
    let call = format!("i32.const 65536 i32.const {} call $raise", 62 << 19);
    many(case, &call);
}

/// The contract has an error for this one, so the instance continues.
fn long_write(case: &Case) {
    let body = format!(
        "i64.const 0 i32.const 65536 i32.const {} i32.const {ANSWER} call $write
         i32.const 0",
        62 << 20
    );
    let read = format!("i32.const {ANSWER} i32.load16_u i64.extend_i32_u");
    let hostile = case.hostile().memory(1024);
    let victim = case.victim(
        &hostile
            .export("write-register", body)
            .export("read-register", read),
    );
    victim.poke();
    // The error `too long`.
    assert_eq!(victim.read(0) & 0xffff, 0x0101);
    victim.runs();
}

/// A line is cut, whatever its length.
fn long_line(case: &Case) {
    let body = format!(
        "i32.const 1 i32.const 65536 i32.const {} call $log i32.const 0",
        62 << 20
    );
    let lines = crate::lines::Lines::capture();
    let victim = case.victim(&case.hostile().memory(1024).export("write-register", body));
    victim.poke();
    assert!(
        lines.text().len() < 16 << 10,
        "{} bytes",
        lines.text().len()
    );
}

fn long_read(case: &Case) {
    let read = format!("i32.const {ANSWER} i32.load i64.extend_i32_u");
    for length in [0x10_0001_u32, 0x8000_0000, u32::MAX] {
        let body = format!(
            "i64.const 0 i32.const {} i32.const {ANSWER} call $read i32.const 0",
            length as i32
        );
        let victim = case.victim(
            &case
                .hostile()
                .export("write-register", body)
                .export("read-register", &read[..]),
        );
        victim.poke();
        // The case `error`, and 4 bytes later the error.
        assert_eq!(victim.read(0) & 0xff, 1);
        victim.runs();
    }
}
