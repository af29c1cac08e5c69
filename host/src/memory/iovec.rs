//! Guest memory as the kernel's `iovec`, for `readv` and `writev` that move
//! packets without a copy in between.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Access, Fault, GuestMemory, Segment};

/// A list of memory ranges for one `readv` or `writev`: parts of guest memory,
/// and buffers of our own in front and behind.
///
/// Keeps its allocation between uses, so that steady traffic allocates nothing.
/// Borrows what it points to for as long as it holds pointers.
#[derive(Debug, Default)]
pub struct IoVecs {
    list: Vec<libc::iovec>,
}

// SAFETY: the pointers in `list` are only dereferenced by the kernel, inside
// `Filled::read_from` and `Filled::write_to`, while the borrows that `Filled`
// holds keep what they point to alive. Between uses they are dead values.
unsafe impl Send for IoVecs {}

/// Why segments can't be handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoVecError {
    /// A segment is not in guest memory.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// They lie in more than [`IoVecs::MAX`] ranges.
    #[error("more than {} ranges of memory in one packet", IoVecs::MAX)]
    TooMany,
}

/// [`IoVecs`] with its pointers set; dropping it makes them dead again.
#[derive(Debug)]
pub struct Filled<'a> {
    list: &'a mut Vec<libc::iovec>,
    access: Access,
    borrows: PhantomData<&'a GuestMemory>,
}

impl IoVecs {
    /// The most ranges that one call may use (the kernel's `UIO_MAXIOV`).
    pub const MAX: usize = 1024;

    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// For `writev`: `head` first, then guest memory.
    ///
    /// # Errors
    ///
    /// See [`IoVecError`].
    pub fn gather<'a>(
        &'a mut self,
        head: &[&'a [u8]],
        memory: &'a GuestMemory,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<Filled<'a>, IoVecError> {
        self.list.clear();
        self.list.extend(head.iter().map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        }));
        self.fill(memory, segments, Access::Read)?;
        self.filled(Access::Read)
    }

    /// For `readv`: `head` first, then guest memory, then `tail`.
    ///
    /// # Errors
    ///
    /// See [`IoVecError`].
    pub fn scatter<'a>(
        &'a mut self,
        head: &'a mut [u8],
        memory: &'a GuestMemory,
        segments: impl IntoIterator<Item = Segment>,
        tail: &'a mut [u8],
    ) -> Result<Filled<'a>, IoVecError> {
        let own = |part: &mut [u8]| libc::iovec {
            iov_base: part.as_mut_ptr().cast(),
            iov_len: part.len(),
        };
        self.list.clear();
        self.list.push(own(head));
        self.fill(memory, segments, Access::Write)?;
        self.list.push(own(tail));
        self.filled(Access::Write)
    }

    /// Adds guest memory, giving up as soon as it is too much: how long that
    /// takes and how long the list gets is not for the guest to choose.
    fn fill(
        &mut self,
        memory: &GuestMemory,
        segments: impl IntoIterator<Item = Segment>,
        access: Access,
    ) -> Result<(), IoVecError> {
        let list = &mut self.list;
        for segment in segments {
            memory.walk(segment.address, segment.length.into(), access, |slice| {
                list.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            })?;
            if list.len() > Self::MAX {
                return Err(IoVecError::TooMany);
            }
        }
        Ok(())
    }

    fn filled<'a>(&'a mut self, access: Access) -> Result<Filled<'a>, IoVecError> {
        if self.list.len() > Self::MAX {
            return Err(IoVecError::TooMany);
        }
        Ok(Filled {
            list: &mut self.list,
            access,
            borrows: PhantomData,
        })
    }
}

impl Filled<'_> {
    /// One `readv`; returns the number of bytes.
    ///
    /// # Errors
    ///
    /// The kernel's, or `InvalidInput` if this was filled for writing.
    pub fn read_from(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.check(Access::Write)?;
        // SAFETY: every range is memory that `Filled` borrows: our own buffer,
        // exclusively, or guest memory that was checked to be mapped writable
        // and stays mapped while `GuestMemory` is borrowed. Others may change
        // guest memory meanwhile, which the kernel's copy tolerates.
        let n = unsafe { libc::readv(fd.as_raw_fd(), self.list.as_ptr(), self.list.len() as i32) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// One `writev`; returns the number of bytes.
    ///
    /// # Errors
    ///
    /// The kernel's, or `InvalidInput` if this was filled for reading.
    pub fn write_to(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.check(Access::Read)?;
        // SAFETY: every range is readable memory that `Filled` borrows, as in
        // `read_from`.
        let n = unsafe { libc::writev(fd.as_raw_fd(), self.list.as_ptr(), self.list.len() as i32) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn check(&self, access: Access) -> io::Result<()> {
        if self.access != access {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        Ok(())
    }
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        self.list.clear();
    }
}
