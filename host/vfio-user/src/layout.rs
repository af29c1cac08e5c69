//! The device's regions and interrupts as reported to a VMM, with the indices that vfio uses
//! for a PCI device (`linux/vfio.h`, `VFIO_PCI_*`).

use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS,
    VFIO_PCI_REQ_IRQ_INDEX, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};

use crate::backend::{Backend, CONFIG_SPACE_SIZE};
use crate::wire::{IrqInfo, RegionInfo};

/// A region that a VMM reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Region {
    Bar(u8),
    Config,
    /// Expansion ROM and VGA, which the device does not have.
    Absent,
}

impl Region {
    pub fn from_index(index: u32) -> Self {
        match index {
            0..=VFIO_PCI_BAR5_REGION_INDEX => Self::Bar(index as u8),
            VFIO_PCI_CONFIG_REGION_INDEX => Self::Config,
            _ => Self::Absent,
        }
    }
}

/// Number of regions.
pub(super) const REGIONS: u32 = VFIO_PCI_NUM_REGIONS;
/// Number of kinds of interrupts.
pub(super) const IRQS: u32 = VFIO_PCI_NUM_IRQS;

/// Returns whether there is a region with this index.
pub(super) fn has_region(index: u32) -> bool {
    index < REGIONS
}

/// Returns a region, if there is one with this index.
pub(super) fn region(backend: &dyn Backend, index: u32) -> Option<RegionInfo> {
    let size = match Region::from_index(index) {
        _ if !has_region(index) => return None,
        Region::Bar(bar) => backend.bar_size(bar),
        Region::Config => CONFIG_SPACE_SIZE,
        Region::Absent => 0,
    };
    let access = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    Some(RegionInfo {
        argsz: size_of::<RegionInfo>() as u32,
        flags: if size > 0 { access } else { 0 },
        index,
        cap_offset: 0,
        size,
        offset: 0,
    })
}

/// Returns a kind of interrupts, if there is one with this index.
///
/// MSI-X does not have `VFIO_IRQ_INFO_NORESIZE`: with it, all vectors must be disabled to add
/// one, which QEMU would do whenever the guest uses a further vector.
///
/// Error and request exist because QEMU warns about a device without them; this one never
/// reports an error that way, nor asks to be released.
pub(super) fn irq(index: u32, msix_vectors: u32) -> Option<IrqInfo> {
    let count = irq_count(index, msix_vectors);
    (index < IRQS).then_some(IrqInfo {
        argsz: size_of::<IrqInfo>() as u32,
        flags: if count > 0 { VFIO_IRQ_INFO_EVENTFD } else { 0 },
        index,
        count,
    })
}

/// Returns how many interrupts an index has.
pub(super) fn irq_count(index: u32, msix_vectors: u32) -> u32 {
    match index {
        VFIO_PCI_MSIX_IRQ_INDEX => msix_vectors,
        VFIO_PCI_ERR_IRQ_INDEX | VFIO_PCI_REQ_IRQ_INDEX => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_indices_are_those_of_vfio_pci() {
        assert_eq!(Region::from_index(0), Region::Bar(0));
        assert_eq!(Region::from_index(5), Region::Bar(5));
        assert_eq!(Region::from_index(6), Region::Absent);
        assert_eq!(Region::from_index(7), Region::Config);
        assert_eq!(Region::from_index(8), Region::Absent);
        assert_eq!(Region::from_index(u32::MAX), Region::Absent);
    }

    #[test]
    fn only_msix_has_vectors_for_the_guest() {
        let counts: Vec<_> = (0..)
            .map_while(|index| irq(index, 33))
            .map(|irq| irq.count)
            .collect();
        assert_eq!(counts, [0, 0, 33, 1, 1]);
    }
}
