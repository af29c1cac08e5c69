//! Lists of VLANs.

use std::fmt;
use std::str::FromStr;

/// The highest id of a VLAN; the next one is reserved (IEEE 802.1Q, table 9-2).
const LAST: u16 = 4094;

/// A set of VLANs by their ids. Id 0 stands for packets without a tag, and for those with a
/// priority tag.
#[derive(Clone, PartialEq, Eq)]
pub struct Vlans([u64; 64]);

/// The error about an invalid list of VLANs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no list of VLANs: give ids from 0 (no tag) to {LAST}, and ranges of them, with \
     commas between, as in 1,5-9"
)]
pub struct InvalidVlans(pub String);

impl Vlans {
    /// Returns whether the list has this id.
    #[inline]
    pub fn contains(&self, vlan: u16) -> bool {
        let word = self.0.get(usize::from(vlan / 64));
        word.is_some_and(|word| word >> (vlan % 64) & 1 != 0)
    }

    fn insert(&mut self, vlan: u16) {
        self.0[usize::from(vlan / 64)] |= 1 << (vlan % 64);
    }
}

impl FromStr for Vlans {
    type Err = InvalidVlans;

    fn from_str(text: &str) -> Result<Self, InvalidVlans> {
        let wrong = || InvalidVlans(text.to_owned());
        // A sign is no part of an id.
        let id = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|id| digits && *id <= LAST)
        };
        let mut vlans = Self([0; 64]);
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = id(first).zip(id(last)).ok_or_else(wrong)?;
            if first > last {
                return Err(wrong());
            }
            (first..=last).for_each(|vlan| vlans.insert(vlan));
        }
        Ok(vlans)
    }
}

impl fmt::Display for Vlans {
    /// Writes the shortest list of ids and ranges.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        let mut ids = (0..=LAST).filter(|id| self.contains(*id)).peekable();
        while let Some(first) = ids.next() {
            let mut last = first;
            while ids.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            match last - first {
                0 => write!(f, "{before}{first}")?,
                _ => write!(f, "{before}{first}-{last}")?,
            }
            before = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for Vlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vlans({self})")
    }
}
