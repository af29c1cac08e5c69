//! Receive side scaling: selects the queue of a port for a received packet.

use bitflags::bitflags;

use super::headers::{IpVersion, Layout, Transport};
use super::packet::RxFlags;
use super::queue_set::MAX_QUEUES;
use super::toeplitz::{KEY_BYTES, Toeplitz};

bitflags! {
    /// The fields that are hashed, for packets that have them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct HashTypes: u8 {
        /// The addresses of IPv4 packets.
        const IPV4 = 1 << 0;
        /// The addresses and ports of TCP over IPv4.
        const IPV4_TCP = 1 << 1;
        /// The addresses and ports of UDP over IPv4.
        const IPV4_UDP = 1 << 2;
        /// The addresses of IPv6 packets.
        const IPV6 = 1 << 3;
        /// The addresses and ports of TCP over IPv6.
        const IPV6_TCP = 1 << 4;
        /// The addresses and ports of UDP over IPv6.
        const IPV6_UDP = 1 << 5;
    }
}

/// How received packets are assigned to queues: the record `steering` of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steering {
    /// What is hashed.
    pub hash_types: HashTypes,
    /// The Toeplitz key.
    pub key: [u8; KEY_BYTES],
    /// The queue for each remainder of the hash; the number of items is a power of two up to
    /// [`MAX_TABLE`](Self::MAX_TABLE), or 0: then all packets go to `default_queue`.
    pub table: Vec<u16>,
    /// The queue for packets without a hash.
    pub default_queue: u32,
}

/// Steering that is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSteering {
    /// The key has another length.
    #[error("a key of {0} bytes; it has {KEY_BYTES}")]
    Key(usize),
    /// The table has another length.
    #[error("a table of {0} items; it has a power of two of them, at most {max}, or none", max = Steering::MAX_TABLE)]
    Table(usize),
    /// A queue that the port does not have.
    #[error("queue {0}, which does not exist: the port has {1}")]
    Queue(u32, u16),
}

impl Steering {
    /// The most items of a table.
    pub const MAX_TABLE: usize = 1024;

    /// Checks whether a key may have this many bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidSteering::Key`].
    pub fn check_key(bytes: usize) -> Result<(), InvalidSteering> {
        match bytes {
            KEY_BYTES => Ok(()),
            other => Err(InvalidSteering::Key(other)),
        }
    }

    /// Returns the key, if it is one.
    ///
    /// # Errors
    ///
    /// [`InvalidSteering::Key`].
    pub fn key(bytes: &[u8]) -> Result<[u8; KEY_BYTES], InvalidSteering> {
        let key = bytes.try_into();
        key.map_err(|_| InvalidSteering::Key(bytes.len()))
    }

    /// Checks whether a table may have this many items.
    ///
    /// # Errors
    ///
    /// [`InvalidSteering::Table`].
    pub fn check_table(items: usize) -> Result<(), InvalidSteering> {
        if items > Self::MAX_TABLE || !(items == 0 || items.is_power_of_two()) {
            return Err(InvalidSteering::Table(items));
        }
        Ok(())
    }

    /// Checks whether a port of `queues` queues can have this steering.
    ///
    /// # Errors
    ///
    /// [`InvalidSteering`].
    pub fn check(&self, queues: u16) -> Result<(), InvalidSteering> {
        Self::check_table(self.table.len())?;
        let named = self.table.iter().map(|queue| u32::from(*queue));
        let mut named = named.chain([self.default_queue]);
        match named.find(|queue| *queue >= queues.into()) {
            Some(queue) => Err(InvalidSteering::Queue(queue, queues)),
            None => Ok(()),
        }
    }
}

/// The result of steering a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// The queue.
    pub queue: u16,
    /// The hash; 0 if there is none.
    pub hash: u32,
    /// [`RxFlags::HASH_L3`] or [`RxFlags::HASH_L4`] if there is one.
    pub flags: RxFlags,
}

/// [`Steering`], ready for use.
#[derive(Debug)]
pub struct Rss {
    hash_types: HashTypes,
    toeplitz: Toeplitz,
    table: Box<[u16]>,
    default: u16,
    only: Option<u16>,
    reports: bool,
}

impl Rss {
    /// Prepares steering that was [checked](Steering::check); `reports` says whether hashes are
    /// reported.
    pub fn new(steering: &Steering, reports: bool) -> Self {
        let Steering {
            hash_types,
            key,
            table,
            default_queue,
        } = steering;
        // Fits: it was checked.
        let default = u16::try_from(*default_queue).unwrap_or(MAX_QUEUES - 1);
        let only = table.iter().all(|queue| *queue == default);
        Self {
            hash_types: *hash_types,
            toeplitz: Toeplitz::new(key),
            table: table.clone().into(),
            default,
            only: only.then_some(default),
            reports,
        }
    }

    /// Returns the queue that all packets are steered to, if there is one.
    pub fn only(&self) -> Option<u16> {
        self.only
    }

    /// Steers a frame whose headers are at `layout`.
    #[inline]
    pub fn look(&self, frame: &[u8], layout: Option<&Layout>) -> Destination {
        let hashed = layout.and_then(|layout| self.hash(frame, layout));
        let Some((hash, flags)) = hashed else {
            return Destination {
                queue: self.default,
                ..Destination::default()
            };
        };
        let index = hash as usize & self.table.len().wrapping_sub(1);
        let queue = self.table.get(index).copied().unwrap_or(self.default);
        if !self.reports {
            return Destination {
                queue,
                ..Destination::default()
            };
        }
        Destination { queue, hash, flags }
    }

    /// Returns the hash of a frame, and its type: of the most fields that are to be hashed and that
    /// the frame has. A fragment has no ports, nor has the content of a tunnel.
    #[inline]
    fn hash(&self, frame: &[u8], layout: &Layout) -> Option<(u32, RxFlags)> {
        let (addresses, plain, tcp, udp) = match layout.version {
            IpVersion::V4 => (
                layout.ip + 12..layout.ip + 20,
                HashTypes::IPV4,
                HashTypes::IPV4_TCP,
                HashTypes::IPV4_UDP,
            ),
            IpVersion::V6 => (
                layout.ip + 8..layout.ip + 40,
                HashTypes::IPV6,
                HashTypes::IPV6_TCP,
                HashTypes::IPV6_UDP,
            ),
        };
        let addresses = frame.get(addresses)?;
        if let Some(at) = layout.transport {
            let wanted = match at.transport {
                Transport::Tcp => tcp,
                Transport::Udp => udp,
            };
            let ports = frame.get(at.offset..at.offset + 4);
            if let Some(ports) = ports.filter(|_| self.hash_types.contains(wanted)) {
                return Some((self.toeplitz.hash(addresses, ports), RxFlags::HASH_L4));
            }
        }
        let wanted = self.hash_types.contains(plain);
        wanted.then(|| (self.toeplitz.hash(addresses, &[]), RxFlags::HASH_L3))
    }
}

#[cfg(test)]
mod tests;
