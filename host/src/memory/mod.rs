//! Guest memory: the regions that the VMM shared, and access to them.
//!
//! A region with a file descriptor is a range of that file, which is mapped once and as a
//! whole: regions are many where the guest has an IOMMU, and files are few. A region without
//! one is recorded, so that an access to it fails with a reason. All access is by
//! guest-physical address and checked against the regions; the guest changes its memory at any
//! time, so it is only ever copied or passed to the kernel by [`Calls`].
//!
//! Pages that are lost while they are mapped end the device, and not the process, once
//! [`install_fault_handler`] was called.

mod access;
mod budget;
mod error;
mod fault;
mod file;
mod guest;
mod iovec;
mod limits;
pub(crate) mod mapping;
mod range;
mod region;
#[cfg_attr(not(feature = "io-uring"), path = "ring/none.rs")]
mod ring;
mod span;
#[cfg(test)]
pub(crate) mod tests;
mod unit;

pub use error::{Access, Fault, MapError, Outcome};
#[allow(unused_imports, reason = "for linear memories, which windows lie in")]
pub(crate) use fault::FaultRange;
pub use fault::install_fault_handler;
pub(crate) use file::FileId;
pub use file::GuestFile;
pub use guest::{GuestMemory, NoWindow, PageSource};
pub use iovec::{Calls, IoVecError, Writes};
pub use range::MemoryRange;
pub use region::RegionInfo;
pub(crate) use region::SharedRegion;
pub use span::Span;
pub use unit::{PAGE_SIZE, Segment};
