//! Log lines on standard error, without blocking.
//!
//! A full pipe, whose reader is slow, would block the logging thread, which may be one that
//! moves a guest's packets. So a line for which there is no room is dropped and counted, and the
//! next line is preceded by the number of dropped ones.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_subscriber::fmt::MakeWriter;

/// The longest that a thread waits for another that is writing a line.
const PATIENCE: Duration = Duration::from_millis(20);
/// The number of bytes for which a writable pipe has room (`PIPE_BUF`, `pipe(7)`); a longer line
/// is written in parts.
const PART: usize = 4096;

/// Writes whole lines or drops them. Cheap to clone; all clones share their state.
#[derive(Clone, Debug)]
pub struct Stderr(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    output: Mutex<Output>,
    /// Lines dropped since the last line that was written.
    dropped: AtomicU64,
    /// Lines dropped so far.
    all_dropped: AtomicU64,
}

/// The destination of lines; None is standard error itself.
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
    /// Writes a line, preceded by the number of dropped ones. Returns false if there is no room.
    fn line(&mut self, line: &[u8], dropped: &AtomicU64) -> bool {
        if !self.is_writable() {
            return false;
        }
        let dropped = dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let told =
                format!("({dropped} log lines were dropped: the log was not read in time)\n");
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
        // An error can't be reported anywhere.
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
        // Another thread held the lock for too long: drop the line.
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
    fn lines_without_room_are_dropped_and_counted() {
        let (from, to) = rustix::pipe::pipe().unwrap();
        let mut stderr = Stderr::new(Some(to));
        let line = [b"x".repeat(1000), b"\n".to_vec()].concat();
        // Far more than a pipe holds: a blocking write would never end.
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
            format!("({dropped} log lines were dropped: the log was not read in time)\nagain\n");
        assert_eq!(told, expected);
    }
}
