//! How a vport's packets find their receive queue.

use alloc::vec::Vec;

use mana_wire::bnic::{HASH_KEY_SIZE, INDIRECTION_ENTRIES};

/// How a vport's packets find their receive queue (`CONFIG_VPORT_RX`).
#[derive(Clone, Debug)]
pub struct Steering {
    /// Packets are received at all.
    pub enabled: bool,
    /// Spread by hash. With one receive queue, all go there.
    pub rss: bool,
    /// Handle of the receive queue object for packets without a hash.
    pub default_object: Option<u64>,
    /// Toeplitz key.
    pub hash_key: [u8; HASH_KEY_SIZE],
    /// Handles of receive queue objects by hash.
    pub table: Vec<u64>,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            enabled: false,
            rss: false,
            default_object: None,
            hash_key: [0; HASH_KEY_SIZE],
            table: Vec::with_capacity(INDIRECTION_ENTRIES.into()),
        }
    }
}
