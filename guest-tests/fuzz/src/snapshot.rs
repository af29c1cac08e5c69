//! The saved state of a whole device, read by the host.

use crate::direct_abi::{Machine, component, machine};

/// Restores a device from an input. It continues, or is at power-on and works.
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

/// Returns a good state, from which inputs are made.
pub fn seed() -> Vec<u8> {
    fresh().device.save().expect("a fresh device can be saved")
}

/// The component takes any state: what is read here is the host's part of it.
fn fresh() -> Machine {
    machine(component(true), true, true)
}
