//! Events and CQEs, decoded.

use core::fmt;

use mana_wire::hwc::RxOob;
use mana_wire::oob::{CqeHeader, RxCompletionFlags, RxCompletionOob, TxCompletionOob};
use mana_wire::queue::{CqeInfo, EqeInfo, eqe};
use zerocopy::FromBytes;

use crate::failure::{Outcome, check_eq};

/// An event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// `GDMA_EQE_*`.
    pub event_type: u8,
    /// The event's details.
    pub details: [u32; 3],
    /// Owner bits.
    pub owner: u8,
}

impl Event {
    /// Decodes one from its bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (words, _) = bytes.as_chunks();
        let word = |index: usize| u32::from_le_bytes(words[index]);
        let info = EqeInfo::from_bits(word(3));
        Self {
            event_type: info.event_type(),
            details: [word(0), word(1), word(2)],
            owner: info.owner(),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.event_type {
            eqe::COMPLETION => "COMPLETION",
            eqe::TEST_EVENT => "TEST_EVENT",
            eqe::HWC_INIT_EQ_ID_DB => "HWC_INIT_EQ_ID_DB",
            eqe::HWC_INIT_DATA => "HWC_INIT_DATA",
            eqe::HWC_INIT_DONE => "HWC_INIT_DONE",
            eqe::HWC_SOC_RECONFIG_DATA => "HWC_SOC_RECONFIG_DATA",
            eqe::HWC_RESET_REQUEST => "HWC_RESET_REQUEST",
            _ => "unknown",
        };
        let Self {
            event_type,
            details,
            owner,
        } = self;
        write!(
            f,
            "EQE {name} ({event_type}), details {details:x?}, owner {owner}"
        )
    }
}

/// A CQE.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The part that depends on the work queue's client.
    pub data: [u8; 60],
    /// The work queue.
    pub wq: u32,
    /// It is a send queue.
    pub is_sq: bool,
    /// Owner bits.
    pub owner: u8,
}

impl Completion {
    /// Decodes one from its bytes.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut data = [0; 60];
        data.copy_from_slice(&bytes[..60]);
        let info = CqeInfo::from_bits(u32::from_le_bytes([
            bytes[60], bytes[61], bytes[62], bytes[63],
        ]));
        Self {
            data,
            wq: info.wq_num(),
            is_sq: info.is_sq(),
            owner: info.owner(),
        }
    }

    fn header(&self) -> CqeHeader {
        let [a, b, c, d, ..] = self.data;
        CqeHeader::from_bits(u32::from_le_bytes([a, b, c, d]))
    }

    /// Returns the `CQE_*` of a completion of the NIC.
    pub fn cqe_type(&self) -> u8 {
        self.header().cqe_type()
    }

    /// Decodes a transmit completion.
    pub fn transmit(&self) -> Transmit {
        let oob = TxCompletionOob::read_from_prefix(&self.data).map(|(oob, _)| oob);
        let (data_offset, offsets) = oob.map_or((0, 0), |oob| (oob.tx_data_offset, oob.offsets));
        Transmit {
            cqe_type: CqeName(self.cqe_type()),
            client_type: self.header().client_type(),
            data_offset,
            sgl_offset: offsets & 0x1f,
            wqe_offset: offsets >> 5,
            wq: self.wq,
            is_sq: self.is_sq,
        }
    }

    /// Decodes a receive completion.
    pub fn receive(&self) -> Receive {
        let oob = RxCompletionOob::read_from_prefix(&self.data)
            .ok()
            .map(|(oob, _)| oob);
        let flags = RxCompletionFlags::from_bits(oob.map_or(0, |oob| oob.flags));
        Receive {
            cqe_type: CqeName(self.cqe_type()),
            client_type: self.header().client_type(),
            length: oob.map_or(0, |oob| oob.packets[0].pkt_len),
            others: oob.map_or([0; 3], |oob| [1, 2, 3].map(|n| oob.packets[n].pkt_len)),
            hash: oob.map_or(0, |oob| oob.packets[0].pkt_hash),
            other_hashes: oob.map_or([0; 3], |oob| [1, 2, 3].map(|n| oob.packets[n].pkt_hash)),
            flags,
            wqe_offset: oob.map_or(0, |oob| oob.rx_wqe_offset),
            wq: self.wq,
            is_sq: self.is_sq,
        }
    }

    /// Decodes a completion of the hardware channel.
    pub fn channel(&self) -> RxOob {
        RxOob::read_from_prefix(&self.data).map_or(RxOob::default(), |(oob, _)| oob)
    }

    /// Returns whether it is of this type.
    ///
    /// # Errors
    ///
    /// A failure that shows the CQE if it is of another type.
    pub fn check_type(&self, expected: u8) -> Outcome {
        if self.cqe_type() == expected {
            return Ok(());
        }
        check_eq(
            alloc::format!("type of {self:?}"),
            CqeName(self.cqe_type()),
            CqeName(expected),
        )
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = self.owner;
        match (self.header().client_type(), self.is_sq) {
            (1, true) => write!(f, "CQE owner {owner}, {:?}", self.transmit()),
            (1, false) => write!(f, "CQE owner {owner}, {:?}", self.receive()),
            _ => {
                let wq = self.wq;
                let queue = if self.is_sq { "SQ" } else { "RQ" };
                let RxOob {
                    wqe_offset,
                    tx_oob_data_size,
                    ..
                } = self.channel();
                write!(
                    f,
                    "CQE owner {owner}, {queue} {wq}, WQE offset {wqe_offset:#x}, size {tx_oob_data_size}"
                )
            }
        }
    }
}

/// A type of completion, shown by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CqeName(pub u8);

impl fmt::Debug for CqeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "CQE_RX_OKAY",
            2 => "CQE_RX_COALESCED_4",
            3 => "CQE_RX_OBJECT_FENCE",
            4 => "CQE_RX_TRUNCATED",
            32 => "CQE_TX_OKAY",
            33 => "CQE_TX_SA_DROP",
            34 => "CQE_TX_MTU_DROP",
            35 => "CQE_TX_INVALID_OOB",
            36 => "CQE_TX_INVALID_ETH_TYPE",
            37 => "CQE_TX_HDR_PROCESSING_ERROR",
            38 => "CQE_TX_VF_DISABLED",
            39 => "CQE_TX_VPORT_IDX_OUT_OF_RANGE",
            40 => "CQE_TX_VPORT_DISABLED",
            41 => "CQE_TX_VLAN_TAGGING_VIOLATION",
            42 => "CQE_TX_GDMA_ERR",
            other => return write!(f, "CQE type {other}"),
        };
        f.write_str(name)
    }
}

/// A transmit completion (`struct mana_tx_comp_oob`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Its type.
    pub cqe_type: CqeName,
    /// `MANA_CQE_COMPLETION`.
    pub client_type: u8,
    /// Offset in the packet of what an error is about.
    pub data_offset: u32,
    /// SGE that an error is about.
    pub sgl_offset: u32,
    /// Offset of the WQE in its queue, in basic units.
    pub wqe_offset: u32,
    /// The work queue.
    pub wq: u32,
    /// It is a send queue.
    pub is_sq: bool,
}

/// A receive completion (`struct mana_rxcomp_oob`).
#[derive(Clone, Copy, Debug)]
pub struct Receive {
    /// Its type.
    pub cqe_type: CqeName,
    /// `MANA_CQE_COMPLETION`.
    pub client_type: u8,
    /// Bytes of the packet.
    pub length: u16,
    /// Lengths of the other packets in the completion.
    pub others: [u16; 3],
    /// The packet's hash.
    pub hash: u32,
    /// The hashes of the other packets.
    pub other_hashes: [u32; 3],
    /// The flags of the packet.
    pub flags: RxCompletionFlags,
    /// Offset of the WQE in its queue, in bytes.
    pub wqe_offset: u32,
    /// The work queue.
    pub wq: u32,
    /// It is a send queue.
    pub is_sq: bool,
}
