//! Guest memory that the embedder has mapped itself.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// A range of addresses of this process that holds guest memory.
///
/// # Safety
///
/// [`base`](Self::base) and [`len`](Self::len) always return the same, and all
/// bytes between are mapped, and may be read (and written, if the region that
/// is made of them is writable) for as long as the value exists. No Rust
/// reference to them exists meanwhile: others access them by volatile or
/// atomic accesses, as a guest does. If [`file`](Self::file) returns a file,
/// the bytes are those of that file from that offset on, shared.
pub unsafe trait MemoryRange: std::fmt::Debug + Send + Sync {
    /// Returns the address of the first byte.
    fn base(&self) -> NonNull<u8>;

    /// Returns the number of bytes.
    fn len(&self) -> usize;

    /// Returns whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the file that backs the bytes, and the offset in it. Without one, there can be no ring
    /// windows over them, and the device copies instead.
    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        None
    }
}
