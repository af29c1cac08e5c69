//! How a driver wants a vport's packets to find their receive queue. What the host is
//! told of it is in [`route`](super::route).

use alloc::vec::Vec;

use mana_wire::bnic::HASH_KEY_SIZE;

/// How a vport's packets find their receive queue (`CONFIG_VPORT_RX`).
#[derive(Clone, Debug)]
pub struct Steering {
    /// Packets are received at all.
    pub enabled: bool,
    /// Spread by hash; without, all go to the default queue.
    pub rss: bool,
    /// Handle of the receive queue object for packets without a hash.
    pub default_object: Option<u64>,
    /// Toeplitz key.
    pub hash_key: [u8; HASH_KEY_SIZE],
    /// Handles of receive queue objects by hash.
    pub table: Vec<u64>,
    /// Packets that were received together may share a completion.
    pub coalesces: bool,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            enabled: false,
            rss: false,
            default_object: None,
            hash_key: [0; HASH_KEY_SIZE],
            table: Vec::new(),
            coalesces: false,
        }
    }
}
