//! Guest memory as the kernel's `iovec`, for `readv` and `writev` that move
//! packets without a copy in between.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Access, Fault, GuestMemory, Segment};

/// A list of memory ranges for one `readv` or `writev`: parts of guest memory,
/// and buffers of our own in front.
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

/// [`IoVecs`] with its pointers set; dropping it makes them dead again.
#[derive(Debug)]
pub struct Filled<'a> {
    list: &'a mut Vec<libc::iovec>,
    length: u64,
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
    /// A [`Fault`] if a segment can't be read.
    pub fn gather<'a>(
        &'a mut self,
        head: &[&'a [u8]],
        memory: &'a GuestMemory,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<Filled<'a>, Fault> {
        self.list.clear();
        self.list.extend(head.iter().map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        }));
        let own = head.iter().map(|part| part.len() as u64).sum();
        self.fill(own, memory, segments, Access::Read)
    }

    /// For `readv`: `head` first, then guest memory.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if a segment can't be written.
    pub fn scatter<'a>(
        &'a mut self,
        head: &'a mut [u8],
        memory: &'a GuestMemory,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<Filled<'a>, Fault> {
        self.list.clear();
        self.list.push(libc::iovec {
            iov_base: head.as_mut_ptr().cast(),
            iov_len: head.len(),
        });
        self.fill(head.len() as u64, memory, segments, Access::Write)
    }

    fn fill<'a>(
        &'a mut self,
        own: u64,
        memory: &'a GuestMemory,
        segments: impl IntoIterator<Item = Segment>,
        access: Access,
    ) -> Result<Filled<'a>, Fault> {
        let list = &mut self.list;
        let mut length = own;
        for segment in segments {
            length += u64::from(segment.length);
            memory.walk(segment.address, segment.length.into(), access, |slice| {
                list.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            })?;
        }
        Ok(Filled {
            list,
            length,
            access,
            borrows: PhantomData,
        })
    }
}

impl Filled<'_> {
    /// Total length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// One `readv`; returns the number of bytes.
    ///
    /// # Errors
    ///
    /// The kernel's, or `InvalidInput` if this was filled for writing or has
    /// more than [`IoVecs::MAX`] ranges.
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
    /// The kernel's, or `InvalidInput` if this was filled for reading or has
    /// more than [`IoVecs::MAX`] ranges.
    pub fn write_to(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.check(Access::Read)?;
        // SAFETY: every range is readable memory that `Filled` borrows, as in
        // `read_from`.
        let n = unsafe { libc::writev(fd.as_raw_fd(), self.list.as_ptr(), self.list.len() as i32) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn check(&self, access: Access) -> io::Result<()> {
        if self.access != access || self.list.len() > IoVecs::MAX {
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
