//! The counters of a vport.

use device_kit::FaultCounter;
use device_kit::platform::{Level, Platform, RxFlags, TransmitResult};
use mana_wire::bnic::Stats;
use mana_wire::oob::CqeType;
use zerocopy::{FromBytes, IntoBytes};

/// The counters of a vport since power-on.
#[derive(Debug, Default)]
pub struct Counters {
    /// As a driver expects them, except that the unicast transmit counters include
    /// every packet.
    pub(super) stats: Stats,
    /// Faults of the driver, for the log.
    pub faults: FaultCounter,
}

impl Counters {
    /// Returns the counters as a driver expects them.
    pub fn reported(&self) -> Stats {
        let all = self.stats;
        let group_pkts = all.tx_mcast_pkts + all.tx_bcast_pkts;
        let group_bytes = all.tx_mcast_bytes + all.tx_bcast_bytes;
        Stats {
            tx_ucast_pkts: all.tx_ucast_pkts.saturating_sub(group_pkts),
            tx_ucast_bytes: all.tx_ucast_bytes.saturating_sub(group_bytes),
            ..all
        }
    }

    /// Counts the multicast and broadcast packets of a batch.
    pub(super) fn count_groups(&mut self, result: &TransmitResult) {
        let stats = &mut self.stats;
        stats.tx_mcast_pkts += u64::from(result.multicast.0);
        stats.tx_mcast_bytes += result.multicast.1;
        stats.tx_bcast_pkts += u64::from(result.broadcast.0);
        stats.tx_bcast_bytes += result.broadcast.1;
    }

    /// Counts packets of vport `index` with the same outcome, and their bytes.
    #[inline]
    pub(super) fn count_transmitted(
        &mut self,
        platform: &mut impl Platform,
        index: u32,
        outcome: CqeType,
        packets: usize,
        bytes: u64,
    ) {
        if outcome != CqeType::TxOkay {
            return self.count_failed(platform, index, outcome, packets);
        }
        let stats = &mut self.stats;
        stats.tx_bytes += bytes;
        stats.tx_ucast_pkts += packets as u64;
        stats.tx_ucast_bytes += bytes;
    }

    #[cold]
    fn count_failed(
        &mut self,
        platform: &mut impl Platform,
        index: u32,
        outcome: CqeType,
        packets: usize,
    ) {
        let stats = &mut self.stats;
        let counter = match outcome {
            CqeType::TxMtuDrop => &mut stats.tx_err_mtu_violation,
            CqeType::TxInvalidOob | CqeType::TxHdrProcessingError => &mut stats.tx_err_inval_oob,
            CqeType::TxVportIdxOutOfRange => &mut stats.tx_err_inval_vport_offset,
            CqeType::TxVportDisabled => &mut stats.tx_err_vport_disabled,
            _ => &mut stats.tx_err_gdma,
        };
        *counter += packets as u64;
        for _ in 0..packets {
            self.note_fault(
                platform,
                index,
                format_args!("transmit failed: {outcome:?}"),
            );
        }
    }

    /// Counts a fault of the driver of vport `index`.
    pub(super) fn note_fault(
        &mut self,
        platform: &mut impl Platform,
        index: u32,
        what: core::fmt::Arguments<'_>,
    ) {
        if self.faults.hit() {
            platform.log(Level::Warn, format_args!("vport {index}: {what}"));
        }
    }

    /// Counts received packets with the same flags, and their bytes.
    #[inline]
    pub(super) fn count_received(&mut self, flags: RxFlags, packets: usize, bytes: u64) {
        let (stats, packets) = (&mut self.stats, packets as u64);
        if flags.intersects(RxFlags::TRUNCATED | RxFlags::MEMORY_FAULT) {
            stats.rx_discards_nowqe += packets;
            return;
        }
        stats.rx_bytes += bytes;
        let (all_packets, all_bytes) = if flags.contains(RxFlags::BROADCAST) {
            (&mut stats.rx_bcast_pkts, &mut stats.rx_bcast_bytes)
        } else if flags.contains(RxFlags::MULTICAST) {
            (&mut stats.rx_mcast_pkts, &mut stats.rx_mcast_bytes)
        } else {
            (&mut stats.rx_ucast_pkts, &mut stats.rx_ucast_bytes)
        };
        *all_packets += packets;
        *all_bytes += bytes;
    }
}

/// Returns the sums of the counters.
pub(super) fn sum(all: impl Iterator<Item = Stats>) -> Stats {
    let mut total = Stats::default();
    for stats in all {
        let sums = <[u64]>::mut_from_bytes(total.as_mut_bytes()).unwrap_or_default();
        let parts = <[u64]>::ref_from_bytes(stats.as_bytes()).unwrap_or_default();
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = sum.wrapping_add(*part);
        }
    }
    total
}
