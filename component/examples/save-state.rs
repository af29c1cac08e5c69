//! Writes the state of a device in the middle of traffic to a file, for
//! `tests/states`, which keeps a state of each released version.
//!
//! ```console
//! $ cargo run -p manatee-device --example save-state -- component/tests/states/0.1.0.state
//! ```

use std::path::PathBuf;

use device_kit::Adapter;
use device_kit::platform::TxStatus;
use manatee_conformance::bench::Workshop;
use manatee_conformance::driver::Driver;
use manatee_conformance::driver::traffic::frame;
use manatee_conformance::native::NativeWorkshop;

fn main() {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: save-state FILE");
        std::process::exit(2);
    };
    let workshop = NativeWorkshop::default();
    let mut bench = workshop.bench(2);
    let mut driver = Driver::new(&mut bench);
    let mut vports = driver.start_and_open_all(2).expect("two vports");
    for vport in &mut vports {
        for _ in 0..3 {
            vport.post_buffer(&mut driver, 2048).expect("a buffer");
        }
        vport.send(&mut driver, &frame(500)).expect("a packet");
    }
    driver.bench.plan_transmits(1, &[TxStatus::Pending]);
    let address = driver.place(&frame(100)).expect("memory");
    let packet = vports[1].packet(&[manatee_conformance::driver::wqe::sge(address, 100)]);
    vports[1].tx.wq.post(&mut driver, &packet);
    let state = bench.device.save();
    if let Err(error) = std::fs::write(&path, &state) {
        eprintln!("error: writing {}: {error}", path.display());
        std::process::exit(1);
    }
    println!("{}: {} bytes", path.display(), state.len());
}
