//! Signals eventfds of another process without ever blocking.
//!
//! A write to an eventfd blocks while its counter is full, unless `O_NONBLOCK` is set. But
//! that flag belongs to the open file description, which the VMM shares: it can clear it
//! at any moment, also between a check and the write. The same is true of a check of
//! the counter, and io_uring writes no differently. What never blocks is the kernel's own
//! way to signal an eventfd (`eventfd_signal`): it adds one, or leaves a full counter as it
//! is. The kernel does that for asynchronous I/O (`IOCB_FLAG_RESFD` of `io_submit(2)`) when
//! an operation completes. So an interrupt is an operation that completes at once: reading
//! zero bytes from a pipe. It takes one system call, as a write does. A VMM that fills its
//! own counter loses its own interrupts, and blocks nobody.
//!
//! The kernel accepts only an eventfd there (it compares the file's operations), which is also
//! how a descriptor is checked: an operation whose buffer is at an address that is never
//! mapped fails with `EFAULT` after the descriptor was found to be an eventfd, and before
//! anything is done. For every other kind of file it fails with `EINVAL`, or with `EBADF` for
//! one that was opened with `O_PATH`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use manatee_common::closer::Foreign;

/// Completions that the kernel is asked to reserve. It allocates at least a page, but accounts
/// for these only: all processes of the machine together may ask for `fs.aio-max-nr`, 65,536
/// by default.
const ROOM: usize = 32;
/// The number of completions after which they are reaped, so that there is always room.
const TAKEN_AFTER: usize = 32;

/// `struct iocb` of `linux/aio_abi.h`, the same little-endian and big-endian but for the order
/// of `aio_key` and `aio_rw_flags`, which are both zero here.
#[repr(C)]
#[derive(Default)]
struct Operation {
    data: u64,
    key_and_flags: u64,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Completion {
    data: u64,
    operation: u64,
    result: i64,
    result2: i64,
}

const PREAD: u16 = 0;
const PREADV: u16 = 7;
/// `IOCB_FLAG_RESFD`.
const SIGNALS: u32 = 1;
/// An address in the first page, which is never mapped.
const UNMAPPED: u64 = 1;

/// Attempts to find room for an operation. The second succeeds, unless the kernel is out of
/// memory.
const TRIES: usize = 8;

/// A descriptor that was checked to be an eventfd. It is still closed by another thread: closing
/// the last one waits for an epoll that the VMM has added it to, and so for the VMM.
#[derive(Debug)]
pub(super) struct EventFd {
    fd: Foreign,
    signaller: Signaller,
}

/// Signals eventfds. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Signaller(Arc<Context>);

#[derive(Debug)]
struct Context {
    context: libc::c_ulong,
    /// A read of zero bytes from it completes at once.
    pipe: OwnedFd,
    /// Completions since the last were reaped.
    completed: AtomicUsize,
}

impl Signaller {
    /// Creates the kernel's context for asynchronous I/O.
    ///
    /// # Errors
    ///
    /// If the kernel refuses. `EAGAIN` means that the machine's `fs.aio-max-nr` is reached.
    pub fn new() -> io::Result<Self> {
        let (pipe, _) = io::pipe()?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: `io_setup` writes the context's id to the second argument, which lives
        // through the call.
        let set_up = unsafe { libc::syscall(libc::SYS_io_setup, ROOM, &raw mut context) };
        if set_up < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(Arc::new(Context {
            context,
            pipe: pipe.into(),
            completed: AtomicUsize::new(0),
        })))
    }

    /// Returns the descriptor if it is an eventfd. Leaves its counter as it is.
    pub fn check(&self, fd: Foreign) -> Option<EventFd> {
        let mut operation = self.0.operation(PREADV, UNMAPPED, fd.as_fd());
        let refused = self.0.submit(&mut operation);
        (refused == Err(Errno::FAULT)).then(|| EventFd {
            fd,
            signaller: self.clone(),
        })
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl EventFd {
    /// Adds one to the counter, unless it is full. Never blocks.
    pub fn signal(&self) {
        let context = &*self.signaller.0;
        let mut operation = context.operation(PREAD, 0, self.fd.as_fd());
        for _ in 0..TRIES {
            match context.submit(&mut operation) {
                // Other threads have completed as many operations as there is room for.
                Err(Errno::AGAIN) => context.take_completions(),
                _ => return context.completed(),
            }
        }
    }
}

impl Context {
    fn completed(&self) {
        let before = self.completed.fetch_add(1, Ordering::Relaxed);
        if before % TAKEN_AFTER == TAKEN_AFTER - 1 {
            self.take_completions();
        }
    }

    fn operation(&self, opcode: u16, buffer: u64, eventfd: BorrowedFd<'_>) -> Operation {
        let number = |fd: RawFd| fd.cast_unsigned();
        Operation {
            opcode,
            fd: number(self.pipe.as_raw_fd()),
            buffer,
            length: u64::from(opcode == PREADV),
            flags: SIGNALS,
            eventfd: number(eventfd.as_raw_fd()),
            ..Operation::default()
        }
    }

    fn submit(&self, operation: &mut Operation) -> Result<(), Errno> {
        let mut list = [&raw mut *operation];
        // SAFETY: `io_submit` reads a list of one pointer and the operation that it points to, whose
        // key it writes; both live through the call. The operation is complete or refused
        // when the call returns: it reads no bytes of a pipe, or fails before it writes to an
        // address where nothing of ours can be.
        let submitted =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_mut_ptr()) };
        match submitted {
            1.. => Ok(()),
            0 => Err(Errno::AGAIN),
            _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
        }
    }

    fn take_completions(&self) {
        let mut taken = [Completion::default(); TAKEN_AFTER];
        let mut at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `io_getevents` writes up to as many completions as `taken` has, and reads
        // the time, all of which live through the call. It does not wait.
        unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0,
                taken.len(),
                taken.as_mut_ptr(),
                &raw mut at_once,
            )
        };
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and nothing of it is in progress.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{MemfdFlags, Mode, OFlags, fcntl_setfl};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn copy(fd: &OwnedFd) -> Foreign {
        Foreign::new(fd.try_clone().unwrap())
    }

    fn count(fd: &OwnedFd) -> u64 {
        fcntl_setfl(fd, OFlags::NONBLOCK).unwrap();
        let mut data = [0; 8];
        rustix::io::read(fd, &mut data).map_or(0, |_| u64::from_ne_bytes(data))
    }

    #[test]
    fn layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<Operation>(), 64);
        assert_eq!(size_of::<Completion>(), 32);
    }

    #[test]
    fn every_signal_counts_and_a_check_does_not() {
        let signaller = Signaller::new().unwrap();
        for flags in [EventfdFlags::empty(), EventfdFlags::NONBLOCK] {
            let fd = eventfd(0, flags).unwrap();
            let checked = signaller.check(copy(&fd)).unwrap();
            assert_eq!(count(&fd), 0);
            // More than the context has room for.
            let many = 100 * ROOM as u64;
            (0..many).for_each(|_| checked.signal());
            assert_eq!(count(&fd), many);
        }
    }

    #[test]
    fn threads_that_signal_at_once_lose_nothing() {
        const EACH: u64 = 50_000;
        let signaller = Signaller::new().unwrap();
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let checked = signaller.check(copy(&fd)).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..EACH).for_each(|_| checked.signal()));
            }
        });
        assert_eq!(count(&fd), 4 * EACH);
    }

    #[test]
    fn full_counter_holds_nobody_up_whatever_its_flags() {
        let signaller = Signaller::new().unwrap();
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let checked = signaller.check(copy(&fd)).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let flags = fd.try_clone().unwrap();
        let other = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                fcntl_setfl(&flags, OFlags::empty()).unwrap();
                fcntl_setfl(&flags, OFlags::NONBLOCK).unwrap();
            }
            fcntl_setfl(&flags, OFlags::empty()).unwrap();
        });
        (0..20_000).for_each(|_| checked.signal());
        stop.store(true, Ordering::Relaxed);
        other.join().unwrap();
        (0..1000).for_each(|_| checked.signal());
        assert!(count(&fd) >= u64::MAX - 1);
        checked.signal();
        assert_eq!(count(&fd), 1);
    }

    #[test]
    fn nothing_but_eventfds_is_taken() {
        let signaller = Signaller::new().unwrap();
        let open = |flags| rustix::fs::open("/dev/null", flags, Mode::empty()).unwrap();
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let (pipe_out, pipe_in) = io::pipe().unwrap();
        let inotify = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::NONBLOCK);
        let own = Pid::from_raw(std::process::id().cast_signed()).unwrap();
        let others = [
            ("timerfd", timerfd()),
            ("inotify", inotify.unwrap()),
            (
                "epoll",
                rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap(),
            ),
            ("signalfd", signalfd()),
            ("pidfd", pidfd_open(own, PidfdFlags::empty()).unwrap()),
            (
                "memfd",
                rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap(),
            ),
            ("socket", near.into()),
            ("other socket", far.into()),
            ("pipe to read", pipe_out.into()),
            ("pipe to write", pipe_in.into()),
            ("file", open(OFlags::RDWR)),
            ("place", open(OFlags::PATH)),
        ];
        for (kind, fd) in others {
            assert!(signaller.check(Foreign::new(fd)).is_none(), "{kind}");
        }
    }

    fn signalfd() -> OwnedFd {
        // SAFETY: an empty set of signals is all zeros, and `signalfd` reads it.
        owned(unsafe {
            let none: libc::sigset_t = std::mem::zeroed();
            libc::signalfd(-1, &raw const none, libc::SFD_CLOEXEC)
        })
    }

    fn timerfd() -> OwnedFd {
        // SAFETY: it takes its arguments by value.
        owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) })
    }

    fn owned(fd: RawFd) -> OwnedFd {
        assert!(fd >= 0);
        // SAFETY: the descriptor is new, and nobody else's.
        unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
    }
}
