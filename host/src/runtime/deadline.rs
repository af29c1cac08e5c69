//! Deadlines: no call into a component runs longer than its share.
//!
//! wasmtime checks an epoch counter in every loop and function; a thread of
//! this module advances it while, and only while, calls are running. Idle
//! devices cost no wake-ups.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// How often the epoch advances while calls are running.
const TICK: Duration = Duration::from_millis(10);
/// Ticks after the last call until the thread goes to sleep: calls that
/// follow soon need not wake it.
const LINGER: usize = 10;

/// Advances an engine's epoch.
#[derive(Debug)]
pub struct Ticker {
    running: Arc<AtomicUsize>,
    /// 1 while the thread sleeps.
    asleep: Arc<AtomicUsize>,
    thread: OnceLock<Thread>,
}

/// A call that is running.
#[derive(Debug)]
pub struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Ticker {
    /// A ticker for an engine, with its thread.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start(engine: &Engine) -> std::io::Result<Self> {
        let ticker = Self {
            running: Arc::default(),
            asleep: Arc::default(),
            thread: OnceLock::new(),
        };
        let (running, asleep) = (ticker.running.clone(), ticker.asleep.clone());
        let engine = engine.weak();
        let spawned = thread::Builder::new()
            .name("deadline".into())
            .spawn(move || {
                let mut idle = 0;
                while let Some(engine) = engine.upgrade() {
                    if running.load(Ordering::Acquire) > 0 {
                        idle = 0;
                    } else {
                        idle += 1;
                    }
                    if idle > LINGER {
                        drop(engine);
                        sleep_until_running(&running, &asleep);
                        idle = 0;
                        continue;
                    }
                    engine.increment_epoch();
                    drop(engine);
                    thread::sleep(TICK);
                }
            })?;
        let _ = ticker.thread.set(spawned.thread().clone());
        Ok(ticker)
    }

    /// Notes that a call begins; it ends when the result is dropped.
    pub fn enter(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) != 0
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        Running(&self.running)
    }

    /// The number of ticks that make up at least `time`.
    pub fn ticks(time: Duration) -> u64 {
        // One more, because the first may come at once.
        time.as_millis().div_ceil(TICK.as_millis()) as u64 + 1
    }
}

fn sleep_until_running(running: &AtomicUsize, asleep: &AtomicUsize) {
    asleep.store(1, Ordering::SeqCst);
    while running.load(Ordering::SeqCst) == 0 {
        thread::park();
    }
    asleep.store(0, Ordering::SeqCst);
}
