//! Configuration space: a type 0 header, PCI Express and MSI-X capabilities.
//!
//! Register layout: PCI Express Base Specification 4.0, section 7.5, and
//! `linux/pci_regs.h`, whose names the offsets have.
//!
//! Every register is plain storage behind a mask of writable bits: BAR sizing,
//! too, is nothing but address bits that can't be written.
//!
//! There is no power management capability: it is optional for a virtual
//! function, which is what adapters like this one are, and all that it would
//! add is a power state in which the device is deaf.

use serde_json::{Value, json};

use super::msix::Layout;
use super::{BAR_COUNT, FunctionError, read_bytes};
use crate::contract::PciIdentity;

/// Size of a PCI Express function's configuration space in bytes.
pub const CONFIG_SPACE_SIZE: usize = 4096;

/// The part that has registers; the extended part has no capabilities, and a
/// zero at its start says so (section 7.6.3).
const HEADER_SIZE: usize = 256;

const VENDOR_ID: usize = 0x00;
const DEVICE_ID: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION_ID: usize = 0x08;
const CACHE_LINE_SIZE: usize = 0x0c;
const BASE_ADDRESS_0: usize = 0x10;
const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
const SUBSYSTEM_ID: usize = 0x2e;
const CAPABILITY_LIST: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;

const STATUS_CAP_LIST: u16 = 1 << 4;
const BASE_ADDRESS_MEM_TYPE_64: u64 = 0b100;

const CAP_ID_EXP: u8 = 0x10;
const CAP_ID_MSIX: u8 = 0x11;
const EXP: usize = 0x40;
const MSIX: usize = 0x80;

const MSIX_FLAGS: usize = MSIX + 2;
const MSIX_TABLE: usize = MSIX + 4;
const MSIX_PBA: usize = MSIX + 8;
const MSIX_FLAGS_MASKALL: u16 = 1 << 14;
const MSIX_FLAGS_ENABLE: u16 = 1 << 15;

/// The byte of DEVCTL that has the bit by which a function-level reset is initiated, and
/// that bit (section 7.5.3.4, `PCI_EXP_DEVCTL_BCR_FLR`).
const INITIATE_RESET: (usize, u8) = (EXP + 0x09, 1 << 7);

/// Registers of the PCI Express capability that are not zero: offset from its
/// start, power-on value, writable bits. It describes a 16 GT/s x16 link, which
/// only tools look at.
const EXP_REGISTERS: [(usize, u32, u32); 8] = [
    // DEVCAP: role-based error reporting, which every endpoint has, and function-level
    // reset.
    (0x04, 1 << 28 | 1 << 15, 0),
    // DEVCTL: function-level reset, which reads as zero; relaxed ordering, no snoop, 512-byte read requests.
    (0x08, 0x2810, 0x781f),
    // LNKCAP: x16, 16 GT/s, ASPM optionality compliance.
    (0x0c, 1 << 22 | 16 << 4 | 4, 0),
    // LNKCTL (read completion boundary, common clock, extended synch), LNKSTA.
    (0x10, (16 << 4 | 4) << 16, 0x00c8),
    // DEVCAP2: the completion timeout can be turned off; DEVCTL2 does it.
    (0x24, 1 << 4, 0),
    (0x28, 0, 1 << 4),
    // LNKCAP2: all speeds up to 16 GT/s.
    (0x2c, 0x1e, 0),
    // LNKCTL2: the target is 16 GT/s.
    (0x30, 4, 0xf),
];

/// The identity of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Any but 0xffff.
    pub vendor_id: u16,
    /// The vendor's number for the device.
    pub device_id: u16,
    /// Vendor of the board.
    pub subsystem_vendor_id: u16,
    /// The board vendor's number for it.
    pub subsystem_id: u16,
    /// Revision of the device.
    pub revision_id: u8,
    /// Base class, subclass and programming interface in 24 bits: `0x020000`
    /// is an Ethernet controller.
    pub class_code: u32,
}

impl From<PciIdentity> for Identity {
    fn from(described: PciIdentity) -> Self {
        Self {
            vendor_id: described.vendor_id,
            device_id: described.device_id,
            subsystem_vendor_id: described.subsystem_vendor_id,
            subsystem_id: described.subsystem_id,
            revision_id: described.revision_id,
            class_code: described.class_code,
        }
    }
}

impl Identity {
    pub(super) fn check(&self) -> Result<(), FunctionError> {
        if self.vendor_id == 0xffff {
            return Err(FunctionError::NoVendor);
        }
        if self.class_code >> 24 != 0 {
            return Err(FunctionError::ClassCode(self.class_code));
        }
        Ok(())
    }

    pub(super) fn inspect(&self) -> Value {
        json!({
            "vendor": format!("{:04x}", self.vendor_id),
            "device": format!("{:04x}", self.device_id),
            "subsystem_vendor": format!("{:04x}", self.subsystem_vendor_id),
            "subsystem": format!("{:04x}", self.subsystem_id),
            "revision": self.revision_id,
            "class": format!("{:06x}", self.class_code),
        })
    }
}

bitflags::bitflags! {
    /// The command register, as far as it can be written (section 7.5.1.1.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Command: u16 {
        /// The function answers memory accesses.
        const MEMORY = 1 << 1;
        /// The function may write and read memory, and send interrupts.
        const BUS_MASTER = 1 << 2;
        /// Without effect, as there is no INTx; drivers expect to set it.
        const INTX_DISABLE = 1 << 10;
    }
}

/// The MSI-X message control register, as far as it can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MsixControl {
    pub enabled: bool,
    /// All vectors at once.
    pub masked: bool,
}

/// The registers, and which of their bits can be written.
#[derive(Clone, Debug)]
pub(super) struct ConfigSpace {
    registers: Registers,
    power_on: Registers,
    writable: Registers,
}

#[derive(Clone, Debug)]
struct Registers([u8; HEADER_SIZE]);

impl Registers {
    fn set<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) {
        self.0[offset..offset + N].copy_from_slice(&bytes);
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.0[offset], self.0[offset + 1]])
    }

    fn u64(&self, offset: usize) -> u64 {
        let bytes = std::array::from_fn(|at| self.0[offset + at]);
        u64::from_le_bytes(bytes)
    }
}

impl ConfigSpace {
    /// Creates a space whose `bar_sizes` are powers of two at even indices, 0 where there is none.
    pub fn new(
        identity: &Identity,
        bar_sizes: &[u64; BAR_COUNT],
        msix_bar: u8,
        msix: Layout,
    ) -> Self {
        let power_on = Registers([0; HEADER_SIZE]);
        let writable = Registers([0; HEADER_SIZE]);
        let mut space = Self {
            registers: power_on.clone(),
            power_on,
            writable,
        };
        space.define_header(identity);
        space.define_bars(bar_sizes);
        space.define_express();
        space.define_msix(msix_bar, msix);
        space.reset();
        space
    }

    fn define_header(&mut self, identity: &Identity) {
        let header = &mut self.power_on;
        header.set(VENDOR_ID, identity.vendor_id.to_le_bytes());
        header.set(DEVICE_ID, identity.device_id.to_le_bytes());
        header.set(STATUS, STATUS_CAP_LIST.to_le_bytes());
        let class = identity.class_code << 8 | u32::from(identity.revision_id);
        header.set(REVISION_ID, class.to_le_bytes());
        header.set(
            SUBSYSTEM_VENDOR_ID,
            identity.subsystem_vendor_id.to_le_bytes(),
        );
        header.set(SUBSYSTEM_ID, identity.subsystem_id.to_le_bytes());
        header.set(CAPABILITY_LIST, [EXP as u8]);
        self.writable
            .set(COMMAND, Command::all().bits().to_le_bytes());
        // Both are mere notes that firmware leaves for the operating system.
        self.writable.set(CACHE_LINE_SIZE, [0xff]);
        self.writable.set(INTERRUPT_LINE, [0xff]);
    }

    fn define_bars(&mut self, sizes: &[u64; BAR_COUNT]) {
        for (index, &size) in sizes.iter().enumerate().filter(|&(_, &size)| size > 0) {
            let offset = BASE_ADDRESS_0 + 4 * index;
            self.power_on
                .set(offset, BASE_ADDRESS_MEM_TYPE_64.to_le_bytes());
            self.writable.set(offset, (!(size - 1)).to_le_bytes());
        }
    }

    fn define_express(&mut self) {
        // Version 2, and device type 0: an endpoint.
        self.power_on.set(EXP, [CAP_ID_EXP, MSIX as u8, 2, 0]);
        for (offset, value, writable) in EXP_REGISTERS {
            self.power_on.set(EXP + offset, value.to_le_bytes());
            self.writable.set(EXP + offset, writable.to_le_bytes());
        }
    }

    fn define_msix(&mut self, bar: u8, layout: Layout) {
        let last = layout.vectors - 1;
        let bar = u32::from(bar);
        self.power_on.set(MSIX, [CAP_ID_MSIX, 0]);
        self.power_on.set(MSIX_FLAGS, last.to_le_bytes());
        self.power_on.set(MSIX_TABLE, bar.to_le_bytes());
        self.power_on
            .set(MSIX_PBA, (layout.pba_offset | bar).to_le_bytes());
        let flags = MSIX_FLAGS_ENABLE | MSIX_FLAGS_MASKALL;
        self.writable.set(MSIX_FLAGS, flags.to_le_bytes());
    }

    pub fn read(&self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |at| match self.registers.0.get(at) {
            Some(&byte) => Some(byte),
            None => (at < CONFIG_SPACE_SIZE).then_some(0),
        });
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(offset) = usize::try_from(offset) else {
            return;
        };
        let registers = self
            .registers
            .0
            .iter_mut()
            .zip(&self.writable.0)
            .skip(offset);
        for ((register, writable), new) in registers.zip(data) {
            *register = *register & !writable | new & writable;
        }
    }

    /// Returns whether a write initiates a function-level reset.
    pub fn initiates_reset(offset: u64, data: &[u8]) -> bool {
        let (at, bit) = INITIATE_RESET;
        let byte = (at as u64).checked_sub(offset);
        let byte = byte.and_then(|index| data.get(usize::try_from(index).ok()?));
        byte.is_some_and(|byte| byte & bit != 0)
    }

    pub fn command(&self) -> Command {
        Command::from_bits_truncate(self.registers.u16(COMMAND))
    }

    /// Returns the address of a BAR that exists.
    pub fn bar_address(&self, index: u8) -> u64 {
        let offset = BASE_ADDRESS_0 + 4 * usize::from(index);
        self.registers.u64(offset) & self.writable.u64(offset)
    }

    pub fn msix_control(&self) -> MsixControl {
        let flags = self.registers.u16(MSIX_FLAGS);
        MsixControl {
            enabled: flags & MSIX_FLAGS_ENABLE != 0,
            masked: flags & MSIX_FLAGS_MASKALL != 0,
        }
    }

    pub fn reset(&mut self) {
        self.registers = self.power_on.clone();
    }
}
