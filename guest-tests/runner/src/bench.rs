//! A device in wasm, with the testbed around it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use device_kit::bindings::manatee::device::packet_endpoint::HashTypes;
use device_kit::platform::{RxFlags, TxStatus};
use manatee_conformance::bench::{Bench, Steering, Transmitted};
use manatee_conformance::failure::{Failure, Outcome};

use crate::bindings::manatee::device::device;
use crate::bindings::manatee::testbed::control;

/// The device's only BAR that a driver uses.
const BAR: u8 = 0;
/// The most calls of `service` that remaining work may need.
const MAX_SERVICE: usize = 1 << 16;

/// The bench, for one requirement.
#[derive(Debug, Default)]
pub struct WasmBench {
    /// Whether the device still had work left after that.
    endless: bool,
    /// The selected queue of a port.
    queue: u32,
}

impl WasmBench {
    /// Checks that the device kept to its contract with the host.
    ///
    /// # Errors
    ///
    /// A text that says what it did instead.
    pub fn check(&self) -> Outcome {
        if self.endless {
            return Err(Failure::new(format!(
                "the device still had work left after {MAX_SERVICE} calls of `service`"
            )));
        }
        let offences = control::take_offences();
        if offences.is_empty() {
            return Ok(());
        }
        let text = format!(
            "the device breaks the rules of its world: {}",
            offences.join("; ")
        );
        Err(Failure::new(text))
    }

    fn finish(&mut self, mut work_left: bool) {
        for _ in 0..MAX_SERVICE {
            if !work_left {
                return;
            }
            work_left = device::service();
        }
        self.endless |= work_left;
    }
}

impl Bench for WasmBench {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        device::read_register(BAR, offset, width)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let work_left = device::write_register(BAR, offset, width, value);
        self.finish(work_left);
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        data.copy_from_slice(&control::peek(address, data.len() as u32));
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        control::poke(address, data);
    }

    fn revoke_memory(&mut self, address: u64, length: u64) {
        control::revoke_memory(address, length);
    }

    fn give_memory_back(&mut self) {
        control::give_memory_back();
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        control::take_interrupts()
    }

    fn take_transmitted(&mut self, port: u32) -> Vec<Transmitted> {
        let packets = control::take_transmitted(port, self.queue).into_iter();
        packets
            .map(|packet| Transmitted {
                frame: packet.frame,
                segments: packet.segments,
                offloads: packet.offloads,
                l4_offset: packet.l4_offset,
                segment_size: packet.segment_size,
                vlan_tci: packet.vlan_tci,
            })
            .collect()
    }

    fn plan_transmits(&mut self, port: u32, statuses: &[TxStatus]) {
        control::plan_transmits(port, self.queue, statuses);
    }

    fn on_queue(&mut self, queue: u32) {
        self.queue = queue;
    }

    fn finish_transmit(&mut self, port: u32, statuses: &[TxStatus]) {
        let ended = control::finish_transmits(port, self.queue, statuses);
        assert_eq!(ended.len(), statuses.len(), "pending transmits to finish");
        let work_left = device::transmitted(port, self.queue, &ended);
        self.finish(work_left);
    }

    fn receive(&mut self, port: u32, frames: &[(&[u8], RxFlags)]) -> usize {
        let frames: Vec<_> = frames
            .iter()
            .map(|(frame, flags)| control::Arrival {
                frame: frame.to_vec(),
                flags: *flags,
            })
            .collect();
        let packets = control::arrive(port, self.queue, &frames);
        if !packets.is_empty() {
            let work_left = device::received(port, self.queue, &packets);
            self.finish(work_left);
        }
        packets.len()
    }

    fn posted_buffers(&mut self, port: u32) -> usize {
        control::posted_buffers(port, self.queue) as usize
    }

    fn limit_buffers(&mut self, port: u32, most: usize) {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        control::limit_buffers(port, self.queue, most);
    }

    fn pending_transmits(&mut self, port: u32) -> usize {
        control::pending_transmits(port, self.queue) as usize
    }

    fn steering(&mut self, port: u32) -> Option<Steering> {
        let steering = control::get_steering(port)?;
        Some(Steering {
            hash_types: HashTypes::from_bits_retain(steering.hash_types.bits()),
            key: steering.key,
            table: steering.table,
            default_queue: steering.default_queue,
        })
    }

    fn set_link(&mut self, port: u32, up: bool) {
        device::link_changed(port, crate::device::link(up));
    }

    fn reset(&mut self) {
        device::reset();
    }

    fn inspect(&mut self) -> String {
        String::from_utf8_lossy(&device::inspect()).into_owned()
    }
}
