//! Interrupts: masked, pending, delivered.

use proptest::prelude::*;

use super::*;

#[test]
fn unmasked_vector_is_delivered_at_once() {
    let mut function = running(4);
    assert!(program(&mut function, 3, false).is_empty());
    assert_eq!(function.raise(3), Some(message(3)));
    assert_eq!(pending(&function), [0; 0]);
    assert_eq!(function.raise(4), None, "no such vector");
    assert_eq!(function.raise(u16::MAX), None);
    assert_eq!(pending(&function), [0; 0]);
}

#[test]
fn masked_vector_waits_until_it_is_unmasked() {
    let mut function = running(70);
    assert!(program(&mut function, 65, true).is_empty());
    assert_eq!(function.raise(65), None);
    assert_eq!(function.raise(65), None);
    let mut pba = [0; 16];
    function.msix_read(0x1000, &mut pba);
    assert_eq!(pba, (1_u128 << 65).to_le_bytes());
    assert!(function.msix_write(0x1000, &[0xff; 16]).is_empty());
    assert_eq!(pending(&function), [65], "pending bits are read-only");
    assert_eq!(mask(&mut function, 65, false), [message(65)]);
    function.msix_read(0x1000, &mut pba);
    assert_eq!(pba, [0; 16]);
}

#[test]
fn function_mask_enable_and_bus_master_hold_everything_back() {
    let mut function = running(3);
    for vector in 0..3 {
        let _ = program(&mut function, vector, vector == 2);
    }
    let raise_all = |function: &mut Function| {
        for vector in 0..3 {
            assert_eq!(function.raise(vector), None);
        }
        assert_eq!(pending(function), [0, 1, 2]);
    };
    assert!(control(&mut function, ENABLE | MASK_ALL).is_empty());
    raise_all(&mut function);
    assert_eq!(control(&mut function, ENABLE), [message(0), message(1)]);

    assert!(control(&mut function, 0).is_empty());
    raise_all(&mut function);
    assert_eq!(control(&mut function, ENABLE), [message(0), message(1)]);

    assert!(function.config_write(COMMAND, &[0]).is_empty());
    raise_all(&mut function);
    let due = function.config_write(COMMAND, &MEMORY_AND_MASTER.to_le_bytes());
    assert_eq!(messages(due), [message(0), message(1)]);
    assert_eq!(pending(&function), [2]);
}

/// Creates a bus master whose VMM keeps the MSI-X table to itself.
fn with_table_at_vmm(vectors: u16) -> Function {
    let mut function = function(vectors);
    function.set_table_owner(TableOwner::Vmm);
    let due = function.config_write(COMMAND, &MEMORY_AND_MASTER.to_le_bytes());
    assert!(due.is_empty());
    function
}

fn vectors(due: &[Due]) -> Vec<u16> {
    due.iter().map(|due| due.vector).collect()
}

#[test]
fn vmm_that_passes_nothing_on_gets_every_vector() {
    let mut function = with_table_at_vmm(3);
    assert!(function.raise(2).is_some());
    assert!(function.raise(3).is_none(), "no such vector");
    assert_eq!(pending(&function), [0; 0]);
}

#[test]
fn what_a_vmm_with_its_own_table_passes_on_holds_back() {
    let mut function = with_table_at_vmm(3);
    let hold = |function: &mut Function, offset, data: &[u8]| {
        assert!(function.config_write(offset, data).is_empty());
        assert!(function.raise(1).is_none() && function.raise(1).is_none());
        let mut pba = [0; 8];
        function.msix_read(0x1000, &mut pba);
        assert_eq!(pba, [2, 0, 0, 0, 0, 0, 0, 0]);
    };
    hold(&mut function, MSIX_CONTROL, &MASK_ALL.to_le_bytes());
    let due = function.config_write(MSIX_CONTROL, &ENABLE.to_le_bytes());
    assert_eq!(vectors(&due), [1], "once");
    hold(&mut function, MSIX_CONTROL, &[0, 0]);
    let due = function.config_write(MSIX_CONTROL, &ENABLE.to_le_bytes());
    assert_eq!(vectors(&due), [1]);
    hold(&mut function, COMMAND, &[2]);
    let due = function.config_write(COMMAND, &[6]);
    assert_eq!(vectors(&due), [1]);
    // The mask that the guest wrote, and that of another vector.
    let _ = program(&mut function, 1, false);
    let _ = program(&mut function, 2, true);
    assert!(function.raise(1).is_some());
    assert_eq!(mask(&mut function, 1, true), []);
    assert!(function.raise(1).is_none() && function.raise(2).is_none());
    let due = function.msix_write(16 + 12, &[0]);
    assert_eq!(vectors(&due), [1]);
    assert_eq!(pending(&function), [2]);
    function.reset();
    let _ = function.config_write(COMMAND, &[6]);
    assert!(function.raise(2).is_some(), "the mask is cleared");
}

#[test]
fn vmm_raises_what_is_not_masked_without_a_bus_master() {
    let mut function = with_table_at_vmm(2);
    let _ = function.config_write(COMMAND, &[0]);
    assert!(function.raise_for_vmm(0).is_some());
    assert!(function.raise(0).is_none());
    let _ = control(&mut function, MASK_ALL);
    assert!(function.raise_for_vmm(1).is_none());
    let _ = control(&mut function, 0);
    let due = function.config_write(COMMAND, &[6]);
    assert_eq!(vectors(&due), [0, 1]);
}

#[test]
fn what_the_vmm_holds_back_itself_is_pending_too() {
    let function = with_table_at_vmm(70);
    let mut pba = [0; 16];
    function.msix_read_with(0x1000, &mut pba, &|vector| vector >= 68);
    assert_eq!(pba, (0b11_u128 << 68).to_le_bytes());
}

#[test]
fn one_write_over_several_entries_delivers_in_order() {
    let mut function = running(3);
    for vector in 0..3 {
        assert_eq!(function.raise(vector), None);
    }
    let entry = |vector| {
        let Message { address, data } = message(vector);
        [&address.to_le_bytes()[..], &data.to_le_bytes(), &[0; 4]].concat()
    };
    // Entry 0 is reached only in its last dword, the mask.
    let data = [vec![0; 4], entry(1), entry(2)].concat();
    let due = function.msix_write(12, &data);
    assert_eq!(
        messages(due),
        [
            Message {
                address: 0,
                data: 0
            },
            message(1),
            message(2)
        ]
    );
}

#[test]
fn reset_is_power_on() {
    let mut function = running(8);
    let fresh = self::function(8);
    for vector in 0..8 {
        let _ = program(&mut function, vector, true);
        assert_eq!(function.raise(vector), None);
    }
    assert!(function.config_write(0x10, &[0x5a; 0x40]).is_empty());
    function.reset();
    assert_eq!(config::<4096>(&function, 0), config::<4096>(&fresh, 0));
    let (mut is, mut was) = ([0; 0x2000], [0; 0x2000]);
    function.msix_read(0, &mut is);
    fresh.msix_read(0, &mut was);
    assert_eq!(is, was);
    assert_eq!(function.inspect(), fresh.inspect());
}

#[test]
fn largest_table_fits_its_bar() {
    let function = function(2048);
    assert_eq!(config_u32(&function, 0x88), 0x8002);
    assert_eq!(function.bar_size(2), 0x1_0000);
    assert_eq!(function.msix_vectors(), 2048);
}

proptest! {
    /// Checks against a model that an interrupt is delivered at once if it is not masked,
    /// otherwise exactly once when the last mask is cleared.
    #[test]
    fn no_interrupt_is_lost_or_doubled(
        steps in prop::collection::vec((0_u8..6, 0_u16..8, any::<bool>()), 0..200),
    ) {
        const VECTORS: u16 = 8;
        let mut function = function(VECTORS);
        for vector in 0..VECTORS {
            let _ = program(&mut function, vector, true);
        }
        let (mut enabled, mut all, mut master) = (false, false, false);
        let mut masked = [true; VECTORS as usize];
        let mut waiting = [false; VECTORS as usize];
        for (kind, vector, on) in steps {
            let slot = usize::from(vector);
            let due = match kind {
                0 | 1 => {
                    waiting[slot] = true;
                    function.raise(vector).into_iter().collect()
                }
                2 => {
                    masked[slot] = on;
                    mask(&mut function, vector, on)
                }
                3 | 4 => {
                    if kind == 3 { enabled = on } else { all = on }
                    let bits = if enabled { ENABLE } else { 0 } | if all { MASK_ALL } else { 0 };
                    control(&mut function, bits)
                }
                _ => {
                    master = on;
                    messages(function.config_write(COMMAND, &(u16::from(on) << 2).to_le_bytes()))
                }
            };
            let open = enabled && !all && master;
            let expected: Vec<_> = (0..VECTORS)
                .filter(|&v| open && !masked[usize::from(v)] && waiting[usize::from(v)])
                .collect();
            for &v in &expected {
                waiting[usize::from(v)] = false;
            }
            prop_assert_eq!(due, expected.into_iter().map(message).collect::<Vec<_>>());
            let left: Vec<_> = (0..8).filter(|&v| waiting[v as usize]).collect();
            prop_assert_eq!(pending(&function), left);
        }
    }
}
