//! Guest memory as the kernel's `iovec`, for writing packets without a copy, and for many reads
//! or writes in one system call.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::error::{Access, Fault, Outcome};
use super::guest::GuestMemory;
use super::ring::{Ring, read_entry, write_entry};
use super::unit::Segment;

/// Reads and writes on a non-blocking descriptor: one system call for all of them with an
/// io_uring, one each without.
///
/// Either way they are done in order, and complete when the method returns: the kernel keeps no
/// reference to the memory. Allocations are kept between uses, so that steady traffic allocates
/// nothing.
#[derive(Debug)]
pub struct Calls {
    list: Vec<libc::iovec>,
    /// Where in `list` each call's ranges end.
    ends: Vec<usize>,
    ring: Option<Ring>,
}

// SAFETY: the pointers in `list` are only dereferenced by the kernel, inside
// `Writes::run` and `Calls::read`, while the borrows that those hold keep what
// they point to alive. Between uses they are dead values.
unsafe impl Send for Calls {}

/// Why segments can't be passed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoVecError {
    /// A segment is not in guest memory.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// They are in more than [`Calls::MAX_RANGES`] ranges.
    #[error("more than {} ranges of memory in one packet", Calls::MAX_RANGES)]
    TooMany,
}

/// Writes that were not made yet. Borrows the memory that they write.
#[derive(Debug)]
pub struct Writes<'a> {
    calls: &'a mut Calls,
    borrows: PhantomData<&'a GuestMemory>,
}

impl Calls {
    /// The most calls that one system call makes.
    pub const BATCH: usize = 64;
    /// The most ranges of memory that one call may have (the kernel's
    /// `UIO_MAXIOV`).
    pub const MAX_RANGES: usize = 1024;
    /// Fewer calls than this are cheaper one by one (measured: break-even at 3).
    const WORTH_A_RING: usize = 4;

    /// Calls that take a system call each.
    pub fn one_by_one() -> Self {
        Self {
            list: Vec::new(),
            ends: Vec::new(),
            ring: None,
        }
    }

    /// Calls that share system calls.
    ///
    /// # Errors
    ///
    /// The kernel's: it has no io_uring, or forbids its use.
    pub fn batched() -> std::io::Result<Self> {
        Ok(Self {
            ring: Some(Ring::new(Self::BATCH as u32)?),
            ..Self::one_by_one()
        })
    }

    /// Returns whether calls share system calls.
    pub fn are_batched(&self) -> bool {
        self.ring.is_some()
    }

    /// Begins a list of writes.
    pub fn writes(&mut self) -> Writes<'_> {
        self.list.clear();
        self.ends.clear();
        Writes {
            calls: self,
            borrows: PhantomData,
        }
    }

    /// Reads once from `fd`, which must not block, into each of the buffers, and returns the
    /// `outcomes`. They may end at an error, with no read made after it.
    pub fn read<'b>(
        &mut self,
        fd: BorrowedFd<'_>,
        buffers: impl Iterator<Item = &'b mut [u8]>,
        outcomes: &mut Vec<Outcome>,
    ) {
        let Self { list, ring, .. } = self;
        outcomes.clear();
        list.clear();
        list.extend(buffers.map(|buffer| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        }));
        while let Some(able) = ring
            && list.len() - outcomes.len() >= Self::WORTH_A_RING
        {
            let ranges = &list[outcomes.len()..];
            let ranges = &ranges[..ranges.len().min(Self::BATCH)];
            let entries = ranges.iter().map(|range| read_entry(fd, range));
            // SAFETY: every range is a buffer that is borrowed exclusively,
            // for longer than the reads take: they are over when this returns.
            let made = unsafe { able.make(entries, outcomes) };
            if made < ranges.len() {
                *ring = None;
            }
        }
        for range in &list[outcomes.len()..] {
            // SAFETY: as above.
            let read = unsafe { libc::read(fd.as_raw_fd(), range.iov_base, range.iov_len) };
            outcomes.push(outcome(read));
            if read < 0 {
                break;
            }
        }
    }
}

impl<'a> Writes<'a> {
    /// Adds a call that writes `own`, followed by guest memory.
    ///
    /// # Errors
    ///
    /// See [`IoVecError`]; there is no such call then.
    pub fn add(
        &mut self,
        own: &'a [u8],
        memory: &'a GuestMemory,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<(), IoVecError> {
        let before = self.calls.list.len();
        self.calls.list.push(libc::iovec {
            iov_base: own.as_ptr().cast_mut().cast(),
            iov_len: own.len(),
        });
        let filled = self.fill(memory, segments, before + Calls::MAX_RANGES);
        match filled {
            Ok(()) => self.calls.ends.push(self.calls.list.len()),
            Err(_) => self.calls.list.truncate(before),
        }
        filled
    }

    /// Adds guest memory, and gives up as soon as it is too much, so that the guest does not control
    /// how long that takes or how long the list gets.
    fn fill(
        &mut self,
        memory: &'a GuestMemory,
        segments: impl IntoIterator<Item = Segment>,
        most: usize,
    ) -> Result<(), IoVecError> {
        let list = &mut self.calls.list;
        for segment in segments {
            let length = segment.length.into();
            memory.walk(segment.address, length, Access::Read, |slice| {
                list.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            })?;
            if list.len() > most {
                return Err(IoVecError::TooMany);
            }
        }
        Ok(())
    }

    /// Makes all calls on `fd`, which must not block, and returns their `outcomes`.
    pub fn run(self, fd: BorrowedFd<'_>, outcomes: &mut Vec<Outcome>) {
        let Calls { list, ends, ring } = self.calls;
        outcomes.clear();
        let ranges = |call: usize| {
            let begin = call.checked_sub(1).map_or(0, |before| ends[before]);
            &list[begin..ends[call]]
        };
        while let Some(able) = ring
            && ends.len() - outcomes.len() >= Calls::WORTH_A_RING
        {
            let first = outcomes.len();
            let count = (ends.len() - first).min(Calls::BATCH);
            let entries = (first..first + count).map(|call| write_entry(fd, ranges(call)));
            // SAFETY: every range is memory that `Writes` borrows: our own, or
            // guest memory that was checked to be mapped readable and stays
            // mapped while `GuestMemory` is borrowed. The writes are over when
            // this returns. Others may change guest memory meanwhile, which
            // the kernel's copy tolerates.
            let made = unsafe { able.make(entries, outcomes) };
            if made < count {
                *ring = None;
            }
        }
        for call in outcomes.len()..ends.len() {
            let ranges = ranges(call);
            let (first, count) = (ranges.as_ptr(), ranges.len() as i32);
            // SAFETY: as above.
            let written = unsafe { libc::writev(fd.as_raw_fd(), first, count) };
            outcomes.push(outcome(written));
        }
    }
}

/// Returns the outcome for a system call's result.
fn outcome(result: isize) -> Outcome {
    usize::try_from(result).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}
