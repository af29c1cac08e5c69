//! Messages of the vfio-user protocol, in the byte order of the machine.
//!
//! Source: `docs/interop/vfio-user.rst` in QEMU's sources; the parts that come from vfio
//! are in `linux/vfio.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The longest region access in bytes, as reported to a VMM (`max_data_xfer_size`).
pub const MAX_ACCESS: usize = 1 << 20;
/// The most descriptors of a message, as reported to a VMM (`max_msg_fds`).
pub const MAX_DESCRIPTORS: usize = 16;
/// The longest message in bytes: the longest access and its headers.
pub const MAX_MESSAGE: usize = MAX_ACCESS + size_of::<Header>() + size_of::<RegionAccess>();

/// The longest message in bytes of a session with a journal: an answer has to have room in a
/// pipe, and a message in the VMM's send buffer.
pub const MAX_KEPT_MESSAGE: usize = 1 << 16;
/// The longest region access of such a session.
pub const MAX_KEPT_ACCESS: usize =
    MAX_KEPT_MESSAGE - size_of::<Header>() - size_of::<RegionAccess>();
/// The most that is peeked at and not consumed.
pub const MAX_UNCONSUMED: usize = 8 * MAX_KEPT_MESSAGE;

/// The version of the protocol that is spoken: major, minor.
pub const VERSION: (u16, u16) = (0, 0);

/// The command of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Version,
    DmaMap,
    DmaUnmap,
    DeviceGetInfo,
    DeviceGetRegionInfo,
    DeviceGetIrqInfo,
    DeviceSetIrqs,
    RegionRead,
    RegionWrite,
    DeviceReset,
}

impl Command {
    /// Converts the number on the wire. None for commands that do not exist and those that a
    /// server need not support.
    pub fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Version,
            2 => Self::DmaMap,
            3 => Self::DmaUnmap,
            4 => Self::DeviceGetInfo,
            5 => Self::DeviceGetRegionInfo,
            7 => Self::DeviceGetIrqInfo,
            8 => Self::DeviceSetIrqs,
            9 => Self::RegionRead,
            10 => Self::RegionWrite,
            13 => Self::DeviceReset,
            _ => return None,
        })
    }

    /// Returns whether the answer carries data, so that the request can't do without one.
    pub fn asks(self) -> bool {
        matches!(
            self,
            Self::Version
                | Self::DeviceGetInfo
                | Self::DeviceGetRegionInfo
                | Self::DeviceGetIrqInfo
                | Self::RegionRead
        )
    }
}

/// Set in the flags of an answer.
const REPLY: u32 = 1;
/// Set in the flags of a request that wants no answer.
const NO_REPLY: u32 = 1 << 4;
/// Set in the flags of an answer that is a refusal.
const ERROR: u32 = 1 << 5;

/// The header of every message.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    pub id: u16,
    pub command: u16,
    /// Bytes of the message, this header included.
    pub size: u32,
    pub flags: u32,
    /// `errno` of a refusal.
    pub error: u32,
}

impl Header {
    /// Returns whether no answer is wanted.
    pub fn no_reply(&self) -> bool {
        self.flags & NO_REPLY != 0
    }

    /// Returns the header of an answer with `body` further bytes.
    pub fn reply(&self, body: usize) -> Self {
        Self {
            size: (size_of::<Self>() + body) as u32,
            flags: REPLY,
            error: 0,
            ..*self
        }
    }

    /// Returns the header of a refusal with `body` further bytes.
    pub fn refusal(&self, errno: i32, body: usize) -> Self {
        Self {
            flags: REPLY | ERROR,
            error: errno.unsigned_abs(),
            ..self.reply(body)
        }
    }
}

/// Body of `VFIO_USER_VERSION`, before the capabilities in JSON.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
}

/// Body of `VFIO_USER_DMA_MAP`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DmaMap {
    pub argsz: u32,
    pub flags: u32,
    pub offset: u64,
    pub address: u64,
    pub size: u64,
}

impl DmaMap {
    /// In the flags: the device may write.
    pub const WRITE: u32 = 1 << 1;
}

/// Body of `VFIO_USER_DMA_UNMAP`, and of its answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DmaUnmap {
    pub argsz: u32,
    pub flags: u32,
    pub address: u64,
    pub size: u64,
}

impl DmaUnmap {
    /// In the flags: all memory, for which one of the two bits is enough. QEMU sends the one that
    /// vfio defines (`VFIO_DMA_UNMAP_FLAG_ALL`), the crate `vfio_user` the next one.
    pub const ALL: u32 = 1 << 1 | 1 << 2;
}

/// Body of the answer to `VFIO_USER_DEVICE_GET_INFO`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DeviceInfo {
    pub argsz: u32,
    pub flags: u32,
    pub num_regions: u32,
    pub num_irqs: u32,
}

/// Body of `VFIO_USER_DEVICE_GET_REGION_INFO`, and of its answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RegionInfo {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub cap_offset: u32,
    pub size: u64,
    pub offset: u64,
}

/// Body of `VFIO_USER_DEVICE_GET_IRQ_INFO`, and of its answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IrqInfo {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub count: u32,
}

/// Body of `VFIO_USER_DEVICE_SET_IRQS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SetIrqs {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub start: u32,
    pub count: u32,
}

/// Body of `VFIO_USER_REGION_READ` and `VFIO_USER_REGION_WRITE` and of their
/// answers, before the data.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RegionAccess {
    pub offset: u64,
    pub region: u32,
    pub count: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_specification() {
        assert_eq!(size_of::<Header>(), 16);
        assert_eq!(size_of::<DmaMap>(), 32);
        assert_eq!(size_of::<DmaUnmap>(), 24);
        assert_eq!(size_of::<DeviceInfo>(), 16);
        assert_eq!(size_of::<RegionInfo>(), 32);
        assert_eq!(size_of::<IrqInfo>(), 16);
        assert_eq!(size_of::<SetIrqs>(), 20);
        assert_eq!(size_of::<RegionAccess>(), 16);
    }

    #[test]
    fn answers_name_their_request() {
        let request = Header {
            id: 7,
            command: 10,
            size: 40,
            flags: 0,
            error: 0,
        };
        let reply = request.reply(16);
        assert_eq!((reply.id, reply.command, reply.size), (7, 10, 32));
        let refusal = request.refusal(22, 0);
        assert_eq!((refusal.size, refusal.flags, refusal.error), (16, 0x21, 22));
        assert_eq!(request.refusal(22, 24).size, 40);
    }
}
