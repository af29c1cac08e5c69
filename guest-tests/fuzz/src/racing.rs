//! A component that makes any calls while the guest rewrites the pages that it sees.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::direct_abi::{component, machine, poke};

/// Runs an input once each way while another thread writes to guest memory.
pub fn run(data: &[u8]) {
    for direct in [true, false] {
        let machine = machine(component(direct), direct, direct);
        let stop = Arc::new(AtomicBool::new(false));
        let writer = std::thread::spawn({
            let memory = machine.memory.try_clone().expect("a descriptor");
            let stop = stop.clone();
            let bytes = data.to_vec();
            move || {
                let mut round = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let page = round % 16 * 0x1000;
                    let _ = memory.write_all_at(&bytes, page);
                    let _ = memory.write_all_at(&[0xf0; 64], page + round % 4096);
                    round += 1;
                }
            }
        });
        for image in data.chunks(0x80).take(16) {
            poke(&machine, image);
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("it only writes");
        let _ = machine.device.inspect();
    }
}
