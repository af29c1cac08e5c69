//! The native device under a random guest, once with windows and once with copies.

use arbitrary::{Result, Unstructured};
use device_kit::Adapter;
use device_kit::platform::{Features, RxFlags, RxPacket, TxCompletion, TxStatus};
use manatee_conformance::native::{World, configured};
use manatee_device::Device;

use crate::guest;

/// Ports of the device.
const PORTS: u32 = 2;
/// Queue pairs of each port.
const QUEUES: u16 = 4;

/// Runs an input both ways, and checks that a reset leaves nothing behind.
pub fn run(data: &[u8]) {
    for with_windows in [true, false] {
        let mut device = device(with_windows);
        guest::prepare(|address, bytes| {
            let _ = device.platform().memory.write(address, bytes);
        });
        let mut input = Unstructured::new(data);
        // The end of the input is the end of the program.
        while !input.is_empty() && step(&mut device, &mut input).is_ok() {}
        device.reset();
        assert_eq!(device.platform().windows, 0, "windows that a reset leaves");
        let _ = device.inspect();
    }
}

fn device(with_windows: bool) -> Device<World> {
    let world = World {
        with_windows,
        offered: Features::all(),
        ..World::with_ports(PORTS, QUEUES)
    };
    configured(world)
}

fn step(device: &mut Device<World>, input: &mut Unstructured<'_>) -> Result<()> {
    match input.int_in_range(0..=9)? {
        0 | 1 => {
            let (offset, width, value) = (
                guest::offset(input)?,
                guest::width(input)?,
                input.arbitrary()?,
            );
            device.write_register(0, offset, width, value);
            device.read_register(0, offset, width);
        }
        2..=4 => {
            let (offset, value) = guest::doorbell(input)?;
            device.write_register(0, offset, 8, value);
        }
        5 => {
            let address = guest::address(input)?;
            let length = input.int_in_range(0..=256)?;
            let bytes = input.bytes(usize::min(length, input.len()))?;
            let _ = device.platform().memory.write(address, bytes);
        }
        6 => {
            let packet = RxPacket {
                id: input.arbitrary()?,
                length: input.arbitrary()?,
                vlan_tci: input.arbitrary()?,
                flags: RxFlags::from_bits_truncate(input.arbitrary()?),
                hash: input.arbitrary()?,
            };
            let (port, queue) = (input.int_in_range(0..=PORTS)?, input.int_in_range(0..=4)?);
            device.received(port, queue, &[packet]);
        }
        7 => {
            let done = TxCompletion {
                id: input.arbitrary()?,
                status: TxStatus::Sent,
            };
            let (port, queue) = (input.int_in_range(0..=PORTS)?, input.int_in_range(0..=4)?);
            device.transmitted(port, queue, &[done]);
        }
        8 => device.link_changed(input.int_in_range(0..=PORTS)?, input.arbitrary()?),
        _ => {
            for _ in 0..16 {
                if !device.service() {
                    break;
                }
            }
            if input.ratio(1, 4)? {
                let state = device.save();
                assert!(state.len() <= device_kit::envelope::MAX_SIZE);
            }
        }
    }
    Ok(())
}
