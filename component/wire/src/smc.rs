//! The shared-memory channel: how a driver finds the hardware channel.
//!
//! Source: `drivers/net/ethernet/microsoft/mana/shm_channel.c`.

use bitfield_struct::bitfield;

/// Length of the shared-memory aperture in bytes (`SMC_APERTURE_BITS`).
pub const APERTURE: usize = 32;
/// Offset of the header; writing it hands the aperture to the device.
pub const HEADER: usize = APERTURE - 4;

/// `SMC_MSG_TYPE_ESTABLISH_HWC`.
pub const ESTABLISH_HWC: u8 = 1;
/// `SMC_MSG_TYPE_DESTROY_HWC`.
pub const DESTROY_HWC: u8 = 2;
/// A driver's report that the hardware channel did not answer in time.
pub const REPORT_HWC_TIMEOUT: u8 = 4;

/// `union smc_proto_hdr`.
#[bitfield(u32)]
pub struct Header {
    #[bits(3)]
    pub msg_type: u8,
    #[bits(3)]
    pub msg_version: u8,
    __: bool,
    /// False for a request, true for a response.
    pub response: bool,
    /// 0 on success.
    pub status: u8,
    __: u8,
    /// Reset the function before (establish) or after (destroy).
    pub reset_vf: bool,
    #[bits(6)]
    __: u8,
    pub owner_is_pf: bool,
}

/// Outcome of a request over the shared-memory channel. The driver
/// distinguishes only zero and non-zero; the values are for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SmcStatus {
    Success = 0,
    UnknownType = 1,
    UnsupportedVersion = 2,
    NotARequest = 3,
    BadAddress = 5,
    BadVector = 6,
}

/// The arguments of `ESTABLISH_HWC`: four page addresses and a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EstablishHwc {
    /// Guest address of the event queue's page.
    pub eq: u64,
    pub cq: u64,
    pub rq: u64,
    pub sq: u64,
    /// MSI-X vector of the event queue.
    pub vector: u16,
}

impl EstablishHwc {
    /// Unpacks the aperture: 48 low bits of each page frame number in a row,
    /// 4 high bits of each, then the vector (`mana_smc_setup_hwc`). None if a
    /// frame lies beyond the 64-bit address space.
    pub fn unpack(aperture: &[u8; APERTURE]) -> Option<Self> {
        let high = u16::from_le_bytes([aperture[24], aperture[25]]);
        let page = |index: usize| {
            let mut low = [0; 8];
            low[..6].copy_from_slice(&aperture[6 * index..6 * index + 6]);
            let top = u64::from(high >> (4 * index) & 0xf);
            let frame = u64::from_le_bytes(low) | top << 48;
            frame.checked_mul(4096)
        };
        Some(Self {
            eq: page(0)?,
            cq: page(1)?,
            rq: page(2)?,
            sq: page(3)?,
            vector: u16::from_le_bytes([aperture[26], aperture[27]]),
        })
    }

    /// Packs the aperture up to the header, as a driver does.
    pub fn pack(&self) -> [u8; HEADER] {
        let mut aperture = [0; HEADER];
        let mut high = 0;
        for (index, address) in [self.eq, self.cq, self.rq, self.sq].into_iter().enumerate() {
            let frame = address / 4096;
            aperture[6 * index..6 * index + 6].copy_from_slice(&frame.to_le_bytes()[..6]);
            high |= ((frame >> 48 & 0xf) as u16) << (4 * index);
        }
        aperture[24..26].copy_from_slice(&high.to_le_bytes());
        aperture[26..28].copy_from_slice(&self.vector.to_le_bytes());
        aperture
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pack_and_unpack_agree(frames in proptest::array::uniform4(0u64..1 << 52), vector: u16) {
            let [eq, cq, rq, sq] = frames.map(|f| f << 12);
            let message = EstablishHwc { eq, cq, rq, sq, vector };
            let mut aperture = [0; APERTURE];
            aperture[..HEADER].copy_from_slice(&message.pack());
            prop_assert_eq!(EstablishHwc::unpack(&aperture), Some(message));
        }
    }

    #[test]
    fn header_bits_lie_where_the_driver_looks() {
        let header = Header::new()
            .with_msg_type(ESTABLISH_HWC)
            .with_msg_version(2)
            .with_response(true)
            .with_status(7)
            .with_reset_vf(true)
            .with_owner_is_pf(true);
        assert_eq!(header.into_bits(), 0x8100_0791);
    }
}
