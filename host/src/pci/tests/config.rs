//! Configuration space and what makes a valid function.

use proptest::prelude::*;

use super::*;
use crate::pci::FunctionError;

#[test]
fn identity_is_where_drivers_look() {
    let function = function(4);
    assert_eq!(config_u32(&function, 0x00), 0x00ba_1414);
    assert_eq!(config_u32(&function, 0x08), 0x0200_0003);
    assert_eq!(config_u32(&function, 0x2c), 0x00b9_1414);
    assert_eq!(
        config::<1>(&function, 0x0e),
        [0],
        "header type 0, one function"
    );
    assert_eq!(config::<1>(&function, 0x3d), [0], "no INTx pin");
    assert_eq!(config_u32(&function, 0x30), 0, "no expansion ROM");
}

#[test]
fn capabilities_are_express_and_msix() {
    let function = function(33);
    assert_eq!(config_u16(&function, 0x06), 1 << 4);
    let first = u64::from(config::<1>(&function, 0x34)[0]);
    let [id, next] = config(&function, first);
    assert_eq!(id, 0x10);
    assert_eq!(config_u16(&function, first + 2), 2, "version 2, endpoint");
    let [id, end] = config(&function, next.into());
    assert_eq!((id, end), (0x11, 0));
    assert_eq!(
        config_u16(&function, u64::from(next) + 2),
        32,
        "size minus one"
    );
    assert_eq!(
        config_u32(&function, u64::from(next) + 4),
        2,
        "table: BAR 2, offset 0"
    );
    assert_eq!(
        config_u32(&function, u64::from(next) + 8),
        0x1002,
        "pending bits after it"
    );
    assert_eq!(
        config::<4>(&function, 0x100),
        [0; 4],
        "no extended capability"
    );
}

#[test]
fn bars_are_sized_as_firmware_does() {
    let mut function = function(1);
    assert_eq!(
        config_u32(&function, 0x10),
        0b100,
        "64 bits wide, not prefetchable"
    );
    assert!(function.config_write(0x10, &[0xff; 24]).is_empty());
    assert_eq!(
        config::<8>(&function, 0x10),
        0xffff_ffff_ffff_0004_u64.to_le_bytes()
    );
    assert_eq!(
        config::<8>(&function, 0x18),
        0xffff_ffff_ffff_e004_u64.to_le_bytes()
    );
    assert_eq!(config::<8>(&function, 0x20), [0; 8], "no BAR 4");

    let address = 0x0000_0380_fe00_0000_u64;
    assert!(
        function
            .config_write(0x10, &(address as u32).to_le_bytes())
            .is_empty()
    );
    assert!(
        function
            .config_write(0x14, &((address >> 32) as u32).to_le_bytes())
            .is_empty()
    );
    assert_eq!(function.bar_address(0), Some(address));
    assert_eq!(function.bar_address(4), None);
    assert_eq!(function.bar_address(200), None);
    assert_eq!((function.bar_size(0), function.bar_size(1)), (0x1_0000, 0));
    assert_eq!((function.msix_bar(), function.bar_size(2)), (2, 0x2000));
}

#[test]
fn large_bar_is_sized_in_its_high_half() {
    let size = 1_u64 << 34;
    let mut function = Function::new(IDENTITY, &[(2, size)], 1).unwrap();
    assert_eq!(function.msix_bar(), 0);
    assert!(function.config_write(0x18, &[0xff; 8]).is_empty());
    assert_eq!(
        config::<8>(&function, 0x18),
        (!(size - 1) | 4).to_le_bytes()
    );
}

#[test]
fn command_register_gates_memory_and_bus_mastering() {
    let mut function = function(1);
    assert!(!function.memory_enabled() && !function.bus_master());
    assert!(function.config_write(COMMAND, &[0xff; 2]).is_empty());
    assert_eq!(
        config_u16(&function, COMMAND),
        0x0406,
        "memory, bus master, INTx disable"
    );
    assert!(function.memory_enabled() && function.bus_master());
    assert!(function.config_write(COMMAND, &[0b10]).is_empty());
    assert!(function.memory_enabled() && !function.bus_master());
}

#[test]
fn out_of_range_reads_ones_and_writes_nothing() {
    let mut function = function(1);
    let before = config::<4096>(&function, 0);
    assert_eq!(config::<4>(&function, 4094), [0, 0, 0xff, 0xff]);
    for offset in [4096, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
        assert_eq!(config::<4>(&function, offset), [0xff; 4]);
        assert!(function.config_write(offset, &[0; 8]).is_empty());
        assert!(function.msix_write(offset, &[0; 8]).is_empty());
    }
    assert_eq!(config::<4096>(&function, 0), before);

    let mut data = [0; 8];
    function.msix_read(0x2000 - 4, &mut data);
    assert_eq!(data, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    function.msix_read(u64::MAX - 3, &mut data);
    assert_eq!(data, [0xff; 8]);
}

#[test]
fn invalid_descriptions_are_refused() {
    let new = |bars: &[(u8, u64)], vectors| Function::new(IDENTITY, bars, vectors).unwrap_err();
    assert_eq!(new(&[(1, 4096)], 1), FunctionError::BarIndex(1));
    assert_eq!(new(&[(6, 4096)], 1), FunctionError::BarIndex(6));
    assert_eq!(
        new(&[(0, 4096), (0, 4096)], 1),
        FunctionError::BarRepeated(0)
    );
    for size in [0, 1, 2048, 4097, 1 << 41, u64::MAX] {
        assert_eq!(
            new(&[(0, size)], 1),
            FunctionError::BarSize { index: 0, size }
        );
    }
    assert_eq!(new(&[], 0), FunctionError::Vectors(0));
    assert_eq!(new(&[], 2049), FunctionError::Vectors(2049));
    let full = [(0, 4096), (2, 4096), (4, 4096)];
    assert_eq!(new(&full, 1), FunctionError::NoRoomForMsix);
    let nobody = Identity {
        vendor_id: 0xffff,
        ..IDENTITY
    };
    assert_eq!(
        Function::new(nobody, &[], 1).unwrap_err(),
        FunctionError::NoVendor
    );
    let wide = Identity {
        class_code: 1 << 24,
        ..IDENTITY
    };
    assert_eq!(
        Function::new(wide, &[], 1).unwrap_err(),
        FunctionError::ClassCode(1 << 24)
    );
}

proptest! {
    /// Checks that after any writes read-only bits are unchanged, a BAR address is a
    /// multiple of the size, and any read equals reads byte by byte.
    #[test]
    fn configuration_space_survives_any_access(
        writes in prop::collection::vec(
            (0_u64..5000, prop::collection::vec(any::<u8>(), 0..40)), 0..40),
        reads in prop::collection::vec((0_u64..4200, 0_usize..20), 0..20),
    ) {
        let fresh = function(16);
        let mut function = fresh.clone();
        for (offset, data) in &writes {
            prop_assert!(function.config_write(*offset, data).is_empty());
        }
        prop_assert_eq!(config_u32(&function, 0), config_u32(&fresh, 0));
        prop_assert_eq!(config_u16(&function, 6), config_u16(&fresh, 6));
        prop_assert_eq!(config::<12>(&function, 0x2c), config::<12>(&fresh, 0x2c));
        prop_assert_eq!(config_u32(&function, 0x84), config_u32(&fresh, 0x84));
        prop_assert_eq!(config::<3840>(&function, 256), [0; 3840]);
        for index in [0, 2] {
            prop_assert_eq!(function.bar_address(index).unwrap() % function.bar_size(index), 0);
        }
        for (offset, length) in reads {
            let mut data = vec![0; length];
            function.config_read(offset, &mut data);
            let single = (0..length as u64).map(|at| config::<1>(&function, offset + at)[0]);
            prop_assert!(data.iter().copied().eq(single));
        }
        function.reset();
        prop_assert_eq!(config::<4096>(&function, 0), config::<4096>(&fresh, 0));
    }

    /// Checks that one write equals the same bytes written one by one.
    #[test]
    fn width_of_a_write_does_not_matter(
        offset in 0_u64..0x90, data in prop::collection::vec(any::<u8>(), 0..20),
        table_offset in 0_u64..0x1100, table in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (mut whole, mut split) = (function(16), function(16));
        let _ = whole.config_write(offset, &data);
        let _ = whole.msix_write(table_offset, &table);
        for (at, byte) in data.iter().enumerate() {
            let _ = split.config_write(offset + at as u64, &[*byte]);
        }
        for (at, byte) in table.iter().enumerate() {
            let _ = split.msix_write(table_offset + at as u64, &[*byte]);
        }
        prop_assert_eq!(config::<256>(&whole, 0), config::<256>(&split, 0));
        let (mut a, mut b) = ([0; 0x2000], [0; 0x2000]);
        whole.msix_read(0, &mut a);
        split.msix_read(0, &mut b);
        prop_assert_eq!(a, b);
    }
}
