//! A function as a guest sees it.

mod config;
mod msix;

use super::msix::{Due, Message, TableOwner};
use super::{Function, Identity};

const IDENTITY: Identity = Identity {
    vendor_id: 0x1414,
    device_id: 0x00ba,
    subsystem_vendor_id: 0x1414,
    subsystem_id: 0x00b9,
    revision_id: 3,
    class_code: 0x02_0000,
};

const COMMAND: u64 = 0x04;
const MSIX_CONTROL: u64 = 0x82;
const MEMORY_AND_MASTER: u16 = 0b110;
const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

fn function(vectors: u16) -> Function {
    Function::new(IDENTITY, &[(0, 0x1_0000)], vectors).unwrap()
}

fn config<const N: usize>(function: &Function, offset: u64) -> [u8; N] {
    let mut data = [0xaa; N];
    function.config_read(offset, &mut data);
    data
}

fn config_u16(function: &Function, offset: u64) -> u16 {
    u16::from_le_bytes(config(function, offset))
}

fn config_u32(function: &Function, offset: u64) -> u32 {
    u32::from_le_bytes(config(function, offset))
}

fn control(function: &mut Function, value: u16) -> Vec<Message> {
    messages(function.config_write(MSIX_CONTROL, &value.to_le_bytes()))
}

fn messages(due: Vec<Due>) -> Vec<Message> {
    due.into_iter().map(|due| due.message).collect()
}

/// Returns a bus master with MSI-X enabled whose vectors are all masked.
fn running(vectors: u16) -> Function {
    let mut function = function(vectors);
    assert!(
        function
            .config_write(COMMAND, &MEMORY_AND_MASTER.to_le_bytes())
            .is_empty()
    );
    assert!(control(&mut function, ENABLE).is_empty());
    function
}

fn message(vector: u16) -> Message {
    Message {
        address: 0xfee0_0000 + 0x1000 * u64::from(vector),
        data: 0x40 + u32::from(vector),
    }
}

fn program(function: &mut Function, vector: u16, masked: bool) -> Vec<Message> {
    let Message { address, data } = message(vector);
    let base = 16 * u64::from(vector);
    let mut due = function.msix_write(base, &address.to_le_bytes());
    due.extend(function.msix_write(base + 8, &data.to_le_bytes()));
    let mut due = messages(due);
    due.extend(mask(function, vector, masked));
    due
}

fn mask(function: &mut Function, vector: u16, masked: bool) -> Vec<Message> {
    let place = 16 * u64::from(vector) + 12;
    messages(function.msix_write(place, &u32::from(masked).to_le_bytes()))
}

fn pending(function: &Function) -> Vec<u64> {
    let listed = function.inspect()["msix"]["pending"].clone();
    listed
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_u64().unwrap())
        .collect()
}
