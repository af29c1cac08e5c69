//! Counts packets to group addresses, where their bytes are accessible.

use super::batch::TxBatch;
use super::packet::TxStatus;
use crate::memory::GuestMemory;

/// Bytes of the address that a frame begins with.
const ADDRESS_BYTES: u32 = 6;
/// The broadcast address, first byte lowest.
const BROADCAST: u64 = (1 << 48) - 1;
/// Set in the first byte of every group address.
const GROUP: u64 = 1;

/// How many packets of a batch go to group addresses, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// To a multicast address other than broadcast.
    pub multicast: (u32, u64),
    /// To the broadcast address.
    pub broadcast: (u32, u64),
}

impl Groups {
    /// Checks those packets of a batch that were sent.
    pub fn of(batch: TxBatch<'_>, statuses: &[TxStatus], memory: &GuestMemory) -> Self {
        let mut groups = Self::default();
        for ((_, segments), status) in batch.iter().zip(statuses) {
            let taken = matches!(
                status,
                TxStatus::Sent | TxStatus::Pending | TxStatus::Dropped
            );
            let first = segments
                .first()
                .filter(|first| taken && first.length >= ADDRESS_BYTES);
            let Some(to) = first.and_then(|first| destination(memory, first.address)) else {
                continue;
            };
            let group = match to {
                BROADCAST => &mut groups.broadcast,
                to if to & GROUP != 0 => &mut groups.multicast,
                _ => continue,
            };
            group.0 += 1;
            group.1 += segments.iter().map(|s| u64::from(s.length)).sum::<u64>();
        }
        groups
    }
}

fn destination(memory: &GuestMemory, address: u64) -> Option<u64> {
    if let Some(prefix) = memory.load(address) {
        return Some(prefix & BROADCAST);
    }
    let mut bytes = [0; 8];
    let destination = &mut bytes[..ADDRESS_BYTES as usize];
    memory.read(address, destination).ok()?;
    Some(u64::from_le_bytes(bytes))
}
