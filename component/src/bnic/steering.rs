//! How a driver wants a vport's packets to find their receive queue.
//! [`route`](super::route) has what is sent to the host.

use alloc::vec::Vec;

use mana_wire::bnic::HASH_KEY_SIZE;

/// How a vport's packets find their receive queue (`CONFIG_VPORT_RX`).
#[derive(Clone, Debug)]
pub struct Steering {
    /// Whether packets are received.
    pub enabled: bool,
    /// Whether packets are distributed by hash; otherwise all go to the default queue.
    pub rss: bool,
    /// Handle of the receive queue object for packets without a hash.
    pub default_object: Option<u64>,
    /// Key of the Toeplitz hash.
    pub hash_key: [u8; HASH_KEY_SIZE],
    /// Handles of receive queue objects by hash.
    pub table: Vec<u64>,
    /// Whether packets that were received together may share a completion.
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
