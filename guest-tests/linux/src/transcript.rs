//! The recorded output of a process.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::deadline::Deadline;

/// How much of the output is kept: the newest, some thousand lines.
const KEPT: usize = 256 * 1024;

/// The newest part of a process's output.
#[derive(Default)]
pub struct Transcript {
    state: Mutex<State>,
    closed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    closed: bool,
}

impl Transcript {
    /// Reads `source` until it ends.
    pub(crate) fn record(&self, mut source: impl Read) {
        let mut chunk = [0; 4096];
        loop {
            match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => self.append(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.state().closed = true;
        self.closed.notify_all();
    }

    /// Waits until the output has ended, which is when its process has; false
    /// when the deadline came first.
    pub fn wait_closed(&self, deadline: Deadline) -> bool {
        let mut state = self.state();
        while !state.closed {
            let Some(left) = deadline.remaining() else {
                return false;
            };
            state = self
                .closed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Returns the last `lines` lines, without carriage returns.
    pub fn tail(&self, lines: usize) -> String {
        let bytes: Vec<u8> = self.state().bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn append(&self, chunk: &[u8]) {
        let mut state = self.state();
        state.bytes.extend(chunk);
        let excess = state.bytes.len().saturating_sub(KEPT);
        state.bytes.drain(..excess);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves the bytes as they were.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn keeps_the_newest_and_ends_with_its_source() {
        let transcript = Transcript::default();
        transcript.record(&b"one\r\ntwo\n"[..]);
        transcript.record(&vec![b'x'; KEPT - 4][..]);
        assert!(transcript.wait_closed(Deadline::after(Duration::ZERO)));
        assert!(transcript.tail(2).starts_with("two\nxx"));
    }
}
