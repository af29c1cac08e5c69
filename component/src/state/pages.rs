//! Guest pages in order, as runs of pages that follow one another.

use alloc::vec::Vec;

use minicbor::{Decode, Encode};

use device_kit::envelope::{RestoreError, ensure};
use mana_wire::queue::PAGE_SIZE;

/// The highest page of a 64-bit address space.
const LAST_PAGE: u64 = u64::MAX / PAGE_SIZE as u64;

/// Pages: the number of the first one of each run, and how many they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Pages(#[n(0)] Vec<(u64, u32)>);

impl Pages {
    /// From the addresses of whole pages.
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

    /// The addresses, of which there are at most `most`.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Malformed`] if there are more, or one can't be.
    pub fn addresses(&self, most: usize) -> Result<Vec<u64>, RestoreError> {
        let mut addresses = Vec::new();
        for (first, count) in &self.0 {
            let left = most - addresses.len();
            ensure(*count as usize <= left, "too many pages")?;
            ensure(
                *first <= LAST_PAGE - u64::from(*count),
                "a page beyond all memory",
            )?;
            let pages = *first..*first + u64::from(*count);
            addresses.extend(pages.map(|page| page * u64::from(PAGE_SIZE)));
        }
        Ok(addresses)
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
        assert_eq!(pages.addresses(6).unwrap(), addresses);
        assert!(pages.addresses(5).is_err());
    }

    #[test]
    fn impossible_pages_are_refused() {
        assert!(Pages([(u64::MAX, 1)].into()).addresses(10).is_err());
        assert!(Pages([(0, u32::MAX)].into()).addresses(10).is_err());
    }
}
