//! Guest pages in order, as runs of contiguous pages.

use alloc::vec::Vec;

use minicbor::{Decode, Encode};

use mana_wire::queue::PAGE_SIZE;

/// The highest page of a 64-bit address space.
const LAST_PAGE: u64 = u64::MAX / PAGE_SIZE as u64;

/// Pages as runs: the number of the first page, and how many pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Pages(#[n(0)] Vec<(u64, u32)>);

impl Pages {
    /// Creates the runs from the addresses of pages.
    pub fn from_addresses(addresses: &[u64]) -> Self {
        let mut runs: Vec<(u64, u32)> = Vec::new();
        for address in addresses {
            let page = address / u64::from(PAGE_SIZE);
            match runs.last_mut() {
                Some((first, count)) if *first + u64::from(*count) == page => *count += 1,
                _ => runs.push((page, 1)),
            }
        }
        Self(runs)
    }

    /// Returns how many pages there are. None if one of them is impossible, or their
    /// number exceeds 32 bits.
    pub fn count(&self) -> Option<usize> {
        let mut all = 0u32;
        for (first, count) in &self.0 {
            if *first > LAST_PAGE - u64::from(*count) {
                return None;
            }
            all = all.checked_add(*count)?;
        }
        Some(all as usize)
    }

    /// Returns the addresses, which were checked to be possible.
    pub fn addresses(&self) -> Vec<u64> {
        let pages = self.0.iter().flat_map(|(first, count)| {
            let end = *first + u64::from(*count);
            *first..end
        });
        pages.map(|page| page * u64::from(PAGE_SIZE)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_back_as_pages() {
        let addresses = [0x5000, 0x6000, 0x7000, 0x1000, 0x9000, 0xa000];
        let pages = Pages::from_addresses(&addresses);
        assert_eq!(pages.0, [(5, 3), (1, 1), (9, 2)]);
        assert_eq!(
            (pages.addresses(), pages.count()),
            (addresses.into(), Some(6))
        );
    }

    #[test]
    fn impossible_pages_are_seen() {
        assert_eq!(Pages([(u64::MAX, 1)].into()).count(), None);
        assert_eq!(Pages([(0, 1 << 31), (0, 1 << 31)].into()).count(), None);
    }
}
