//! The saved state of a whole device, as the host decodes it.

use crate::direct_abi::{Machine, component, machine};

/// Restores a device from an input. It continues, or works from power-on.
pub fn run(data: &[u8]) {
    let machine = fresh();
    let restored = machine.device.restore(data);
    let mut id = [0; 4];
    machine.device.config_read(0, &mut id);
    assert_eq!(u32::from_le_bytes(id), 0x00ba_1414);
    if restored.is_ok() {
        machine.device.bar_write(0, 0x1000, &[1; 8]);
        let _ = machine.device.inspect();
    }
    machine.device.reset();
    assert!(machine.device.failure().is_none());
}

/// Returns a valid state, from which inputs are derived.
pub fn seed() -> Vec<u8> {
    fresh().device.save().expect("a fresh device can be saved")
}

/// A component that accepts any state, so that the host's part is tested.
fn fresh() -> Machine {
    machine(component(true), true, true)
}
