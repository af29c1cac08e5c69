//! MSI-X.

/// The message that an MSI-X table entry holds for a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Address the message is written to.
    pub address: u64,
    /// The value written.
    pub data: u32,
}
