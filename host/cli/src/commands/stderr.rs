//! Standard error for log lines, which never keeps anybody waiting.
//!
//! Whoever reads the log decides when it does. A pipe that nobody empties would block the
//! thread that logs, and that may be one that moves a guest's packets. So a line that
//! finds no room is dropped and counted, and the next one that finds some says how many
//! were.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_subscriber::fmt::MakeWriter;

/// How long a thread waits for another that is writing a line.
const PATIENCE: Duration = Duration::from_millis(20);
/// A pipe that is writable has room for so many bytes (`PIPE_BUF`, `pipe(7)`); a longer line
/// is written in parts.
const PART: usize = 4096;

/// Writes whole lines, or none of a line. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct Stderr(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    output: Mutex<Output>,
    /// Lines, since the last that was written.
    dropped: AtomicU64,
    /// Lines so far.
    all_dropped: AtomicU64,
}

/// Where lines go: None is standard error itself.
#[derive(Debug)]
struct Output(Option<OwnedFd>);

impl Stderr {
    fn new(to: Option<OwnedFd>) -> Self {
        Self(Arc::new(Shared {
            output: Mutex::new(Output(to)),
            dropped: AtomicU64::new(0),
            all_dropped: AtomicU64::new(0),
        }))
    }

    /// Returns how many lines were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.0.all_dropped.load(Ordering::Relaxed)
    }
}

impl Default for Stderr {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Output {
    /// Writes a line, and before it how many were dropped. False if there is no room.
    fn line(&mut self, line: &[u8], dropped: &AtomicU64) -> bool {
        if !self.is_writable() {
            return false;
        }
        let dropped = dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let told = format!("({dropped} lines of the log were dropped: nobody read it)\n");
            self.write(told.as_bytes());
        }
        for part in line.chunks(PART) {
            if !self.is_writable() {
                return false;
            }
            self.write(part);
        }
        true
    }

    fn is_writable(&self) -> bool {
        let now = Timespec::default();
        let is_ready = |fd| {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            matches!(poll(&mut fds, Some(&now)), Ok(1))
        };
        match &self.0 {
            Some(to) => is_ready(to.as_fd()),
            None => is_ready(io::stderr().as_fd()),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // There is nowhere to report it to.
        let _ = match &self.0 {
            Some(to) => rustix::io::write(to, bytes).map(|_| ()).map_err(Into::into),
            None => io::stderr().write_all(bytes),
        };
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Shared {
            output,
            dropped,
            all_dropped,
        } = &*self.0;
        // Without the lock, another thread is held up after all.
        let output = output.try_lock_for(PATIENCE);
        if !output.is_some_and(|mut output| output.line(line, dropped)) {
            dropped.fetch_add(1, Ordering::Relaxed);
            all_dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[test]
    fn lines_that_find_no_room_are_dropped_and_counted() {
        let (from, to) = rustix::pipe::pipe().unwrap();
        let mut stderr = Stderr::new(Some(to));
        let line = [b"x".repeat(1000), b"\n".to_vec()].concat();
        // More than a pipe holds, by far: this would block for ever.
        for _ in 0..1000 {
            stderr.write_all(&line).unwrap();
        }
        let dropped = stderr.0.dropped.load(Ordering::Relaxed);
        assert!((900..1000).contains(&dropped), "{dropped}");
        assert_eq!(stderr.dropped(), dropped);
        let mut from = File::from(from);
        let mut read = vec![0; 1 << 20];
        let length = from.read(&mut read).unwrap();
        assert!(read[..length].chunks(1001).all(|whole| whole == line));
        stderr.write_all(b"again\n").unwrap();
        let length = from.read(&mut read).unwrap();
        let told = String::from_utf8_lossy(&read[..length]);
        let expected =
            format!("({dropped} lines of the log were dropped: nobody read it)\nagain\n");
        assert_eq!(told, expected);
    }
}
