//! A component's own description.

use super::{Row, row};
use crate::case::{Case, has_one_of, is_clean};
use crate::description::{Described, List};

pub const ROWS: &[Row] = &[
    row("describe with names of 480 MiB", long_names),
    row("describe with formats in 480 MiB", long_formats),
    row("describe with doorbells in 480 MiB", long_doorbells),
    row("describe with BARs in 480 MiB", long_bars),
    row("describe with a few thousand doorbells", many_doorbells),
    row("describe with lists beyond memory", beyond_memory),
    row("describe no PCI function", no_function),
    row("describe with odd texts", odd_texts),
];

/// 500 MiB of zero pages, in which a list of that many bytes fits.
const PAGES: u32 = 8000;
const BYTES: u32 = 480 << 20;

fn refused(case: &Case, pages: u32, change: impl FnOnce(&mut Described)) -> String {
    let hostile = case.hostile().memory(pages).describe(change);
    let text = case.refusal(&hostile);
    is_clean(text.lines().next().unwrap_or_default());
    assert!(text.len() < 8 << 10, "a message of {} bytes", text.len());
    text
}

/// Checks that a list longer than a device can have is refused, and that the message names
/// the bound.
fn too_long(case: &Case, change: impl FnOnce(&mut Described)) {
    let text = refused(case, PAGES, change);
    has_one_of(
        &text,
        &["at most", "more than", "limit", "too many", "too long"],
    );
    assert!(
        text.contains(|c: char| c.is_ascii_digit()),
        "no bound: {text}"
    );
}

fn long_names(case: &Case) {
    too_long(case, |d| d.name.claim(65536, BYTES));
    too_long(case, |d| d.build.claim(65536, BYTES));
    too_long(case, |d| d.name.claim(65536, 65536));
    too_long(case, |d| {
        d.name.claim(65536, BYTES);
        d.build.claim(65536, BYTES);
        d.reads.claim(65536, BYTES / 4);
        d.doorbells.claim(65536, BYTES / 32);
    });
}

fn long_formats(case: &Case) {
    too_long(case, |d| d.reads.claim(65536, BYTES / 4));
    too_long(case, |d| d.reads.claim(65536, 100_000));
}

fn long_doorbells(case: &Case) {
    too_long(case, |d| d.doorbells.claim(65536, BYTES / 32));
}

fn long_bars(case: &Case) {
    too_long(case, |d| d.bars.claim(65536, BYTES / 16));
    too_long(case, |d| {
        d.bars = List::Items((0..7).map(|_| (0, 4096)).collect());
    });
}

fn many_doorbells(case: &Case) {
    too_long(case, |d| {
        d.doorbells.claim(65536, 4096);
    });
}

fn beyond_memory(case: &Case) {
    let end = 16 << 16;
    for (address, count) in [(end, 1), (end - 8, 64), (u32::MAX - 7, 8), (8, u32::MAX)] {
        refused(case, 16, |d| d.name.claim(address, count));
        refused(case, 16, |d| d.bars.claim(address, count));
        refused(case, 16, |d| d.reads.claim(address, count));
        refused(case, 16, |d| d.doorbells.claim(address, count));
    }
    refused(case, 16, |d| d.bars.claim(65537, 1));
}

fn no_function(case: &Case) {
    let bars: [&[(u8, u64)]; 8] = [
        &[(0, 0)],
        &[(0, 4095)],
        &[(0, 0x3000)],
        &[(0, 1 << 63), (2, 1 << 63)],
        &[(1, 4096)],
        &[(6, 4096)],
        &[(255, 4096)],
        &[(0, 4096), (0, 4096)],
    ];
    for bars in bars {
        let text = refused(case, 16, |d| d.bars = List::Items(bars.to_vec()));
        has_one_of(&text, &["BAR", "bar"]);
    }
    for vectors in [0, 2049, u16::MAX] {
        let text = refused(case, 16, |d| d.msix_vectors = vectors);
        has_one_of(&text, &["2048"]);
    }
    refused(case, 16, |d| d.max_ports = 0);
}

/// Checks that odd texts are either refused, or accepted and shown cleaned.
fn odd_texts(case: &Case) {
    let texts: [&[u8]; 6] = [
        b"two\nlines",
        b"\x1b[2J\x1b]0;owned\x07",
        b"\xff\xfe\xfd\x80",
        "\u{202e}gpj.exe\u{2066}\u{200f}".as_bytes(),
        "\u{85}\u{9b}31m".as_bytes(),
        b"",
    ];
    for text in texts {
        let hostile = case.hostile().describe(|d| {
            d.name = List::Items(text.to_vec());
            d.build = List::Items(text.to_vec());
        });
        let endpoint = Box::new(manatee::endpoint::Null::new());
        match case.try_victim(&hostile, case.limits(), endpoint) {
            Ok(victim) => {
                let tree = victim.device.inspect();
                for key in ["name", "version"] {
                    let shown = tree["component"][key].as_str().expect("a text");
                    if !shown.is_empty() {
                        is_clean(shown);
                    }
                }
                victim.runs();
            }
            Err(error) => is_clean(error.lines().next().unwrap_or_default()),
        }
    }
}
