//! Many replacements and crashes, in a confined process that must not grow.
//!
//! With `MANATEE_LONG` set, as `just test-long` sets it, there are 10,000 and 1,000 of them.

use std::fs::{self, File};
use std::path::Path;

use vfio_user::Client;

use crate::harness;
use crate::process::Served;
use manatee_kit::hostile::{Hostile, VERSIONS};

/// Returns the number of rounds of a soak.
fn rounds(usual: usize, long: usize) -> usize {
    match std::env::var_os("MANATEE_LONG") {
        Some(_) => long,
        None => usual,
    }
}

/// A process' resource usage, as reported by the kernel.
#[derive(Clone, Copy, Debug)]
struct Usage {
    /// The size of the table of descriptors, which grows by powers of two.
    descriptors: u64,
    threads: u64,
    /// Mapped addresses, in KiB.
    mapped: u64,
    resident: u64,
}

fn usage_of(served: &Served) -> Usage {
    let status = fs::read_to_string(format!("/proc/{}/status", served.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let value = line.split_whitespace().nth(1).unwrap();
        value.parse().unwrap()
    };
    Usage {
        descriptors: field("FDSize:"),
        threads: field("Threads:"),
        mapped: field("VmSize:"),
        resident: field("VmRSS:"),
    }
}

/// Repeats an action, and checks that usage does not grow after the first tenth.
fn grows_by_nothing(served: &Served, count: usize, mut act: impl FnMut(usize)) {
    let warm = count / 10;
    (0..warm).for_each(&mut act);
    let before = usage_of(served);
    (warm..count).for_each(&mut act);
    let after = usage_of(served);
    let said = format!("{count} rounds: {before:?}, then {after:?}");
    assert!(after.descriptors <= before.descriptors.max(256), "{said}");
    assert!(after.threads <= before.threads + 4, "{said}");
    // An instance that is being dropped still has 4 GiB of addresses.
    assert!(after.mapped < before.mapped + (12 << 20), "{said}");
    assert!(after.resident < before.resident + (16 << 10), "{said}");
}

fn write(path: &Path, bytes: &[u8]) -> File {
    fs::write(path, bytes).unwrap();
    File::open(path).unwrap()
}

#[test]
fn replacements_leave_nothing_behind() {
    let served = Served::start(&[]);
    served.discard_log();
    let files = [
        write(&served.dir().join("next.wasm"), manatee_variants::NEXT),
        write(&served.dir().join("own.wasm"), manatee_component::BYTES),
    ];
    let _vmm = Client::new(&served.socket()).unwrap();
    grows_by_nothing(&served, rounds(200, 10_000), |round| {
        served.swap("next.wasm", &files[round % 2]).unwrap();
    });
}

#[test]
fn crashes_leave_nothing_behind() {
    /// The number of calls after which earlier failures are forgotten.
    const TRUSTED_AFTER: usize = 128;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crashes.wasm");
    // The change makes the host take a checkpoint for a fresh instance.
    let body = "call $changed local.get 3 i64.eqz if unreachable end i32.const 0";
    let crashing = Hostile::new(VERSIONS[1]).export("write-register", body);
    fs::write(&path, crashing.bytes()).unwrap();
    let served = Served::start(&["--component", path.to_str().unwrap()]);
    served.discard_log();
    let mut vmm = Client::new(&served.socket()).unwrap();
    // Enable memory space and bus mastering.
    vmm.region_write(harness::CONFIG, 4, &[6, 0]).unwrap();
    vmm.region_write(0, 0x40, &[1, 0, 0, 0]).unwrap();
    grows_by_nothing(&served, rounds(50, 1_000), |_| {
        vmm.region_write(0, 0x40, &[0; 4]).unwrap();
        for _ in 0..TRUSTED_AFTER + 1 {
            vmm.region_read(0, 0, &mut [0; 4]).unwrap();
        }
    });
    let mut control = manatee_control::Client::connect(&served.control()).unwrap();
    let shown = control.inspect(Some("runtime/*".into())).unwrap();
    let failures = shown["runtime"]["failures"].as_u64().unwrap();
    assert_eq!(failures as usize, rounds(50, 1_000), "{shown:#}");
    assert_eq!(shown["runtime"]["state"], "running", "{shown:#}");
}
