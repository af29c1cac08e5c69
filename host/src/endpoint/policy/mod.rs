//! The policy of a port: which packets a guest may send and receive.
//!
//! A [`Policy`] is checked where a packet's headers are in the host's own memory, which the guest
//! can't change any more: after the headers were copied, before anything is sent. So queues check
//! it themselves, by [`QueueIo::policy`](super::QueueIo::policy). An endpoint without a policy
//! is not wrapped, and its queues have nothing to check.

mod guarded;
#[cfg(test)]
mod tests;
mod vlans;

use serde::Serialize;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::headers::{ADDRESS_BYTES, TAG_BYTES, is_tag, tag_control};

pub use guarded::{Guarded, Unguardable};
pub use vlans::{InvalidVlans, Vlans};

/// Which packets a guest may send and receive on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The port's own address.
    pub mac: [u8; 6],
    /// Whether the guest may only send from that address.
    pub spoof_check: bool,
    /// Whether the guest receives packets for other addresses. Without, it receives those for `mac`,
    /// and for group addresses including broadcast.
    pub promiscuous: bool,
    /// The VLANs whose packets it may send and receive; all if there is no list. With one, a packet
    /// has at most one 802.1Q tag.
    pub vlans: Option<Vlans>,
}

/// Why a packet was refused by a [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was sent from another address than the port's.
    Source,
    /// It was sent with the tag of a VLAN that is not the port's.
    SentVlan,
    /// It is addressed to another host.
    Destination,
    /// It arrived with the tag of a VLAN that is not the port's.
    ReceivedVlan,
}

/// Packets that a [`Policy`] refused.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct RefusedCounters {
    /// See [`Refused::Source`].
    pub source: u64,
    /// See [`Refused::SentVlan`].
    pub sent_vlan: u64,
    /// See [`Refused::Destination`].
    pub destination: u64,
    /// See [`Refused::ReceivedVlan`].
    pub received_vlan: u64,
}

impl RefusedCounters {
    /// The number of them.
    pub(super) const WORDS: usize = 4;

    /// Counts a packet.
    pub fn count(&mut self, refused: Refused) {
        let counter = match refused {
            Refused::Source => &mut self.source,
            Refused::SentVlan => &mut self.sent_vlan,
            Refused::Destination => &mut self.destination,
            Refused::ReceivedVlan => &mut self.received_vlan,
        };
        *counter += 1;
    }

    /// Returns how many of the guest's packets were refused.
    pub fn sent(&self) -> u64 {
        self.source + self.sent_vlan
    }

    /// Returns how many packets for the guest were refused.
    pub fn received(&self) -> u64 {
        self.destination + self.received_vlan
    }
}

impl Policy {
    /// Returns whether there is anything to check.
    pub fn restricts(&self) -> bool {
        self.spoof_check || !self.promiscuous || self.vlans.is_some()
    }

    /// Checks a frame to send, by a copy of its beginning that the guest can't change, and the tag
    /// to insert.
    ///
    /// # Errors
    ///
    /// Why it must not be sent.
    pub fn check_sent(&self, frame: &[u8]) -> Result<(), Refused> {
        if self.spoof_check && frame.get(6..ADDRESS_BYTES) != Some(&self.mac) {
            return Err(Refused::Source);
        }
        let tag = tag_control(frame);
        let behind = match tag {
            Some(_) => ADDRESS_BYTES + TAG_BYTES,
            None => ADDRESS_BYTES,
        };
        self.check_tag(tag, frame, behind).ok_or(Refused::SentVlan)
    }

    /// Checks a received frame, by its beginning without the 802.1Q tag that was removed.
    ///
    /// # Errors
    ///
    /// Why the guest must not receive it.
    pub fn check_received(&self, frame: &[u8], tag: Option<u16>) -> Result<(), Refused> {
        // The lowest bit of the first byte is set in group addresses, which include broadcast.
        let own = |to: &[u8]| to[0] & 1 != 0 || to == self.mac;
        if !self.promiscuous && !frame.get(..6).is_some_and(own) {
            return Err(Refused::Destination);
        }
        let checked = self.check_tag(tag, frame, ADDRESS_BYTES);
        checked.ok_or(Refused::ReceivedVlan)
    }

    /// Checks an 802.1Q tag, which is followed by the frame's `EtherType`, or by another tag.
    fn check_tag(&self, tag: Option<u16>, frame: &[u8], behind: usize) -> Option<()> {
        let Some(vlans) = &self.vlans else {
            return Some(());
        };
        // A switch may remove the first tag, and use the second: a second one is refused.
        let ethertype = frame.get(behind..behind + 2)?;
        let tagged = is_tag(u16::from_be_bytes([ethertype[0], ethertype[1]]));
        // A tag of VLAN 0 has a priority only.
        let vlan = tag.map_or(0, |control| control & 0xfff);
        (!tagged && vlans.contains(vlan)).then_some(())
    }
}
