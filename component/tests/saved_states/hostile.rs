//! States with the right checksum and any content are refused or survived.

use device_kit::Adapter;
use device_kit::platform::{
    HandedOver, Observations, RegisterWrite, RxFlags, RxPacket, TxCompletion, TxStatus,
};
use mana_wire::registers::DOORBELLS;
use manatee_conformance::native::World;
use manatee_device::Device;
use manatee_device::state::FORMAT;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{fresh, released};

/// A change of a state's bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    /// A number in place of another.
    Number(Index, u64),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<Index>().prop_map(Change::Remove),
        (any::<Index>(), any::<u64>()).prop_map(|(at, number)| Change::Number(at, number)),
    ]
}

fn changed(mut state: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = state.len().max(1);
        match change {
            Change::Set(at, byte) => {
                if let Some(place) = state.get_mut(at.index(length)) {
                    *place = *byte;
                }
            }
            Change::Insert(at, byte) => state.insert(at.index(length), *byte),
            Change::Remove(at) => {
                if state.len() > 1 {
                    state.remove(at.index(length));
                }
            }
            Change::Number(at, number) => {
                let number: Vec<u8> = std::iter::once(0x1b).chain(number.to_be_bytes()).collect();
                let at = at.index(length);
                state.splice(at..(at + 1).min(length), number);
            }
        }
    }
    state
}

/// Does some of everything that a driver and a host can do.
fn use_it(device: &mut Device<World>) {
    let ids = [1, 2, 3, 4, 5, 9];
    for offset in [0, 0x400, 0x800, 0xff8] {
        for (round, id) in ids.iter().enumerate() {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_content_is_refused_or_survived(
        changes in proptest::collection::vec(change(), 1..8),
        recovers in any::<bool>(),
    ) {
        let (_, state) = released().remove(0);
        let content = FORMAT.open(&state).expect("a state").to_vec();
        let state = FORMAT.seal(&changed(content, &changes));
        let mut device = fresh(2);
        let restored = if recovers {
            device.recover(&state, &observations())
        } else {
            device.restore(&state)
        };
        match restored {
            Ok(()) => use_it(&mut device),
            Err(_) => prop_assert_eq!(device.platform().windows, 0),
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(fresh(2).restore(&bytes).is_err());
        prop_assert!(fresh(2).restore(&FORMAT.seal(&bytes)).is_err());
    }
}
