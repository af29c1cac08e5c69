//! An io_uring that is empty between uses: many reads or writes in one system call.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::register::Restriction;
use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;

use super::error::Outcome;

/// The only operations that a ring can perform, enforced by the kernel.
const CALLS: [u8; 3] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
];

/// An io_uring, restricted to reading and writing. Nothing is in flight outside
/// [`make`](Self::make), and no descriptor is registered, since the kernel would keep that for a
/// while after the process has ended.
pub struct Ring {
    ring: IoUring,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Ring {
    /// Creates a ring with room for `entries` calls at once.
    ///
    /// # Errors
    ///
    /// The kernel's, or it knows io_uring but can't restrict it, as Linux before 5.10.
    pub fn new(entries: u32) -> std::io::Result<Self> {
        let ring = IoUring::builder().setup_r_disabled().build(entries)?;
        let submitter = ring.submitter();
        let mut probe = Probe::new();
        submitter.register_probe(&mut probe)?;
        if !CALLS.iter().all(|code| probe.is_supported(*code)) {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        submitter.register_restrictions(&mut CALLS.map(Restriction::sqe_op))?;
        submitter.register_enable_rings()?;
        Ok(Self { ring })
    }

    /// Makes calls, up to as many as there is room for, and waits until they complete. They must not
    /// wait themselves (`RWF_NOWAIT`): the kernel would wait until they can be made, even if the
    /// descriptor is non-blocking. Appends their outcomes in order; returns how many were made. If
    /// that is not all of them, the ring is unusable, and must be dropped.
    ///
    /// # Safety
    ///
    /// The memory of every call must be valid for what the call does, until
    /// this returns.
    pub unsafe fn make(
        &mut self,
        calls: impl Iterator<Item = Entry>,
        outcomes: &mut Vec<Outcome>,
    ) -> usize {
        let mut count = 0;
        let mut queue = self.ring.submission();
        for call in calls {
            // SAFETY: the caller's promise; the kernel is done with the call
            // when this method returns.
            if unsafe { queue.push(&call.user_data(count as u64)) }.is_err() {
                break;
            }
            count += 1;
        }
        drop(queue);
        let first = outcomes.len();
        outcomes.resize(first + count, Err(Errno::CANCELED));
        // Calls that do not wait are complete when they are submitted: asking the kernel to wait
        // would only cost time, 400 ns a batch.
        let mut entered = self.ring.submit();
        let mut over = 0;
        loop {
            let before = over;
            for completion in self.ring.completion() {
                outcomes[first + completion.user_data() as usize] = outcome(completion.result());
                over += 1;
            }
            if over == count {
                break;
            }
            let moved = over > before || matches!(entered, Ok(taken) if taken > 0);
            let interrupted = matches!(&entered, Err(e) if e.raw_os_error() == Some(libc::EINTR));
            if moved || interrupted {
                entered = self.ring.submit_and_wait(count - over);
                continue;
            }
            let waiting = self.ring.submission().len();
            if over + waiting < count {
                // Calls are in flight and the kernel does not say when they
                // are over, so no memory of theirs could ever be used again.
                tracing::error!(?entered, "io_uring lost calls");
                std::process::abort();
            }
            // Calls are taken in order, so those that were are the first.
            outcomes.truncate(first + over);
            return over;
        }
        // The descriptor's driver does not support RWF_NOWAIT. No call was made, then.
        let refused = |outcome: &Outcome| *outcome == Err(Errno::OPNOTSUPP);
        if let Some(unmade) = outcomes[first..].iter().position(refused) {
            outcomes.truncate(first + unmade);
            return unmade;
        }
        count
    }
}

/// Returns the call that reads into a range, without waiting.
pub fn read_entry(fd: BorrowedFd<'_>, range: &libc::iovec) -> Entry {
    let fd = types::Fd(fd.as_raw_fd());
    opcode::Read::new(fd, range.iov_base.cast(), length_of(range))
        .rw_flags(libc::RWF_NOWAIT)
        .build()
}

/// Returns the call that writes ranges, without waiting.
pub fn write_entry(fd: BorrowedFd<'_>, ranges: &[libc::iovec]) -> Entry {
    let fd = types::Fd(fd.as_raw_fd());
    match ranges {
        // Cheaper, since the kernel has no list to copy.
        [range] => opcode::Write::new(fd, range.iov_base.cast(), length_of(range))
            .rw_flags(libc::RWF_NOWAIT)
            .build(),
        _ => opcode::Writev::new(fd, ranges.as_ptr(), ranges.len() as u32)
            .rw_flags(libc::RWF_NOWAIT)
            .build(),
    }
}

/// Returns a range's length. No call moves more than 2 GiB in any way.
fn length_of(range: &libc::iovec) -> u32 {
    u32::try_from(range.iov_len).unwrap_or(u32::MAX)
}

/// Returns the outcome of a completion.
fn outcome(result: i32) -> Outcome {
    usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_holds_a_ring_to_its_calls() {
        // Without permission for io_uring there is nothing to test.
        let Ok(mut ring) = Ring::new(4) else { return };
        let mut outcomes = Vec::new();
        // SAFETY: neither call uses memory.
        let made = unsafe {
            let calls = [
                opcode::Nop::new().build(),
                opcode::Close::new(io_uring::types::Fd(0)).build(),
            ];
            ring.make(calls.into_iter(), &mut outcomes)
        };
        assert_eq!(made, 2);
        assert_eq!(outcomes, [Err(Errno::ACCESS); 2]);
        let mut probe = Probe::new();
        let refused = ring.ring.submitter().register_probe(&mut probe);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EACCES));
    }
}
