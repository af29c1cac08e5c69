//! WQEs as the driver writes them (`mana_gd_post_work_request`).

use alloc::vec;
use alloc::vec::Vec;

use super::MEM_KEY;
use mana_wire::queue::{Sge, WqeHeader};
use zerocopy::IntoBytes;

/// A WQE.
#[derive(Clone, Debug)]
pub struct Wqe {
    /// The header without the number of SGEs.
    pub header: WqeHeader,
    /// Inline OOB.
    pub oob: Vec<u8>,
    /// Scatter/gather list.
    pub sgl: Vec<Sge>,
}

impl Wqe {
    /// Creates a WQE with an OOB of 8, 24 or 32 bytes. For malformed WQEs, any other
    /// length is marked as the next smaller.
    pub fn new(oob: &[u8], sgl: &[Sge]) -> Self {
        let header = WqeHeader::new().with_inline_oob_size_div4((oob.len() / 4).min(7) as u8);
        Self {
            header,
            oob: oob.to_vec(),
            sgl: sgl.to_vec(),
        }
    }

    /// Returns a receive WQE, whose OOB is 8 zero bytes.
    pub fn receive(sgl: &[Sge]) -> Self {
        Self::new(&[0; 8], sgl)
    }

    /// Returns its bytes in memory, in whole units.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = self.header.with_num_sge(self.sgl.len() as u8);
        let mut bytes = vec![0; header.size() as usize];
        bytes[..8].copy_from_slice(&header.into_bits().to_le_bytes());
        let oob = self.oob.len().min(bytes.len() - 8);
        bytes[8..8 + oob].copy_from_slice(&self.oob[..oob]);
        let sgl = self.sgl.as_bytes();
        let from = header.sgl_offset() as usize;
        bytes[from..from + sgl.len()].copy_from_slice(sgl);
        bytes
    }
}

/// Returns an SGE of the NIC.
pub fn sge(address: u64, size: u32) -> Sge {
    Sge {
        address,
        mem_key: MEM_KEY,
        size,
    }
}
