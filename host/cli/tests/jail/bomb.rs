//! Components that exhaust the compiler.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::harness;
use crate::process::Served;

fn bomb() -> Vec<u8> {
    wat::parse_str(manatee_variants::bomb()).unwrap()
}

/// Returns whether a refusal names one of the bounds.
fn names_a_bound(refusal: &str) -> bool {
    let bounds = ["1 GiB of memory", "60 s of processor time"];
    refusal.contains("bomb.wasm takes more than ")
        && bounds.iter().any(|bound| refusal.contains(bound))
}

#[test]
fn a_bomb_is_refused_by_name_and_nobody_notices() {
    let served = Served::start(&[]);
    let path = served.dir().join("bomb.wasm");
    std::fs::write(&path, bomb()).unwrap();
    let over = AtomicBool::new(false);
    let (refused, reads) = thread::scope(|scope| {
        let reader = scope.spawn(|| read_until(&served.socket(), &over));
        let refused = served.swap("bomb.wasm", &File::open(&path).unwrap());
        over.store(true, Ordering::Relaxed);
        (refused.unwrap_err(), reader.join().unwrap())
    });
    assert!(names_a_bound(&refused), "{refused}");
    assert!(reads > 1000, "a VMM had only {reads} answers meanwhile");
    // It is remembered now, under any name.
    let again = served.swap("another.wasm", &File::open(&path).unwrap());
    let again = again.unwrap_err();
    assert!(
        again.contains("another.wasm") && again.contains("as before"),
        "{again}"
    );
    // Others are still compiled.
    std::fs::write(&path, manatee_variants::NEXT).unwrap();
    served
        .swap("next.wasm", &File::open(&path).unwrap())
        .unwrap();
}

/// Attaches, and reads a register until `over`. Returns how often.
fn read_until(socket: &Path, over: &AtomicBool) -> usize {
    let mut vmm = vfio_user::Client::new(socket).unwrap();
    let mut reads = 0;
    while !over.load(Ordering::Relaxed) {
        let mut id = [0; 4];
        vmm.region_read(harness::CONFIG, 0, &mut id).unwrap();
        assert_eq!(u32::from_le_bytes(id), 0x00ba_1414);
        reads += 1;
    }
    reads
}

#[test]
fn a_bomb_can_be_described_neither_checked_nor_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.wasm");
    std::fs::write(&path, bomb()).unwrap();
    let output = harness::command()
        .arg("describe")
        .arg(&path)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(names_a_bound(&words), "{words}");
    let output = harness::serve(&dir.path().join("socket"))
        .arg("--component")
        .arg(&path)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(names_a_bound(&words), "{words}");
    assert!(!dir.path().join("socket").exists());
}
