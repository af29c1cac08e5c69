//! Saved states with the right checksum and any content are refused or survived.

use device_kit::Adapter;
use device_kit::platform::{
    Features, HandedOver, Observations, RegisterWrite, RxFlags, RxPacket, TxCompletion, TxStatus,
};
use mana_wire::registers::DOORBELLS;
use manatee_conformance::native::{World, configured};
use manatee_device::Device;
use manatee_device::state::FORMAT;

/// Queue pairs of each port.
const QUEUES: u16 = 4;

/// Restores or recovers from an input, and uses the device.
pub fn run(data: &[u8]) {
    let Some((how, content)) = data.split_first() else {
        return;
    };
    let state = FORMAT.seal(content);
    let mut device = fresh();
    let restored = match how % 2 {
        0 => device.restore(&state),
        _ => device.recover(&state, &observations()),
    };
    match restored {
        Ok(()) => use_it(&mut device),
        Err(_) => assert_eq!(device.platform().windows, 0),
    }
}

/// Returns a valid state's content, from which inputs are derived.
pub fn seed() -> Vec<u8> {
    let mut seed = vec![0];
    let state = include_bytes!("../../../component/tests/states/0.1.0.state");
    seed.extend(FORMAT.open(state).unwrap_or_default());
    seed
}

fn fresh() -> Device<World> {
    let world = World {
        with_windows: true,
        offered: Features::all(),
        ..World::with_ports(2, QUEUES)
    };
    configured(world)
}

/// Does some of everything that a driver and a host can do.
fn use_it(device: &mut Device<World>) {
    for offset in [0, 0x400, 0x800, 0xff8] {
        for (round, id) in [1_u64, 2, 3, 4, 5, 9].into_iter().enumerate() {
            let value = id | (round as u64 * 0x40) << 32 | 1 << 63;
            device.write_register(0, DOORBELLS + offset, 8, value);
        }
    }
    for port in 0..2 {
        let packet = RxPacket {
            id: 32,
            length: 60,
            vlan_tci: 0,
            flags: RxFlags::empty(),
            hash: 0,
        };
        device.received(port, 0, &[packet]);
        let done = TxCompletion {
            id: 32,
            status: TxStatus::Sent,
        };
        device.transmitted(port, 0, &[done]);
        device.link_changed(port, port == 0);
    }
    for _ in 0..100 {
        if !device.service() {
            break;
        }
    }
    let _ = device.inspect();
    let _ = device.save();
    device.reset();
    assert_eq!(device.platform().windows, 0, "windows that a reset leaves");
}

fn observations() -> Observations {
    let write = |offset, value| RegisterWrite {
        bar: 0,
        offset: DOORBELLS + offset,
        value,
    };
    Observations {
        doorbells: [
            write(0, 2 | 0x60 << 32),
            write(0x400, 2 | 0xffff_ffe1 << 32),
            write(0x800, 2 | 0x7fff_ffff << 32),
            write(0xff8, 1 | 0x10 << 32),
        ]
        .into(),
        transmitted: [HandedOver {
            port: 0,
            queue: 0,
            id: 0x40,
        }]
        .into(),
        skip: [1 << 60 | 2 << 32].into(),
    }
}
