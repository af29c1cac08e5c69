//! The resources that a driver gets when it registers the NIC.

/// Protection domain of the NIC's queues.
pub const PDID: u32 = 1;
/// Memory key of the NIC's WQEs, which covers all of guest memory.
pub const MEM_KEY: u32 = 1;
/// Doorbell page of the NIC.
pub const DOORBELL_PAGE: u32 = 0;

/// Whether a driver has the NIC's resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    /// Before `REGISTER_DEVICE`, and after `DEREGISTER_DEVICE`.
    #[default]
    None,
    /// Between them.
    Registered,
}

impl Registration {
    /// Returns whether the NIC is registered.
    pub fn is_registered(self) -> bool {
        self == Self::Registered
    }
}
