//! Deadlines: no call into a component runs longer than its share.
//!
//! wasmtime checks an epoch counter in every loop and function; a thread of
//! this module advances it while calls are running. Idle devices cost no
//! wake-ups.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};
use wasmtime::Engine;

use super::handshake::Handshake;

/// How often the epoch advances while calls are running.
const TICK: Duration = Duration::from_millis(10);
/// Ticks after the last call until the thread sleeps, so that the next calls need not wake it.
const LINGER: usize = 10;

/// Advances an engine's epoch.
#[derive(Debug)]
pub struct Ticker {
    shared: Arc<Shared>,
    thread: OnceLock<Thread>,
}

#[derive(Debug)]
struct Shared {
    handshake: Handshake,
    /// How often the epoch advanced.
    ticks: AtomicU64,
    callers: Mutex<Vec<Weak<AtomicBool>>>,
}

/// A caller, which makes one call at a time.
#[derive(Debug)]
pub struct Caller(Arc<AtomicBool>);

/// A call that is running.
#[derive(Debug)]
pub struct Running<'a>(&'a AtomicBool);

impl Drop for Running<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Ticker {
    /// Returns a ticker for an engine, with its thread.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            handshake: Handshake::new(),
            ticks: AtomicU64::new(0),
            callers: Mutex::default(),
        });
        let ticker = Self {
            shared: shared.clone(),
            thread: OnceLock::new(),
        };
        let engine = engine.weak();
        let can_sleep = can_sleep();
        if !can_sleep {
            tracing::warn!(
                "this kernel has no membarrier: idle devices cost a wake-up every 10 ms"
            );
        }
        let spawned = thread::Builder::new()
            .name("deadline".into())
            .spawn(move || {
                let mut idle = 0;
                while let Some(engine) = engine.upgrade() {
                    engine.increment_epoch();
                    shared.ticks.fetch_add(1, Ordering::Relaxed);
                    drop(engine);
                    idle = if shared.handshake.take_entered() {
                        0
                    } else {
                        idle + 1
                    };
                    if can_sleep && idle > LINGER {
                        shared.sleep_until_entered();
                        idle = 0;
                    }
                    thread::sleep(TICK);
                }
            })?;
        let _ = ticker.thread.set(spawned.thread().clone());
        Ok(ticker)
    }

    /// Registers another caller.
    pub fn caller(&self) -> Caller {
        let running = Arc::new(AtomicBool::new(false));
        let mut callers = self.shared.callers.lock();
        if callers.len() == callers.capacity() {
            callers.retain(|caller| caller.strong_count() > 0);
        }
        callers.push(Arc::downgrade(&running));
        Caller(running)
    }

    /// Records that a call begins; it ends when the result is dropped.
    #[inline]
    pub fn enter<'a>(&self, caller: &'a Caller) -> Running<'a> {
        self.shared.handshake.enter(&caller.0, || {
            if let Some(thread) = self.thread.get() {
                thread.unpark();
            }
        });
        Running(&caller.0)
    }

    /// Returns how often the epoch has advanced. It does not advance while no calls are made.
    #[inline]
    pub fn now(&self) -> u64 {
        self.shared.ticks.load(Ordering::Relaxed)
    }

    /// Returns the number of ticks that make up at least `time`.
    pub fn ticks(time: Duration) -> u64 {
        // One more, because the first may be almost over.
        time.as_millis().div_ceil(TICK.as_millis()) as u64 + 1
    }
}

impl Shared {
    fn sleep_until_entered(&self) {
        // It was registered, so it can't fail; if it did, the thread would just not
        // sleep.
        let barrier = || membarrier(MembarrierCommand::PrivateExpedited).is_ok();
        let is_running = || self.is_running();
        self.handshake
            .sleep_until_entered(barrier, is_running, thread::park);
    }

    /// Returns whether a call is running.
    fn is_running(&self) -> bool {
        let callers = self.callers.lock();
        let mut callers = callers.iter().filter_map(Weak::upgrade);
        callers.any(|running| running.load(Ordering::Acquire))
    }
}

/// Returns whether the kernel supports a barrier that includes all of this process's threads.
fn can_sleep() -> bool {
    let needed = MembarrierQuery::PRIVATE_EXPEDITED | MembarrierQuery::REGISTER_PRIVATE_EXPEDITED;
    membarrier_query().contains(needed)
        && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::{Config, Instance, Module, Store, Trap};

    #[test]
    fn a_call_that_wakes_the_thread_has_a_deadline_too() {
        let engine = Engine::new(Config::new().epoch_interruption(true)).unwrap();
        let ticker = Ticker::start(&engine).unwrap();
        let endless = "(module (func (export \"run\") (loop (br 0))))";
        let module = Module::new(&engine, endless).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let run = instance
            .get_typed_func::<(), ()>(&mut store, "run")
            .unwrap();
        let caller = ticker.caller();
        for time in [TICK, TICK, (LINGER as u32 + 5) * TICK] {
            while can_sleep() && !ticker.shared.handshake.is_asleep() {
                thread::yield_now();
            }
            store.set_epoch_deadline(Ticker::ticks(time));
            let _running = ticker.enter(&caller);
            let ended = run.call(&mut store, ()).unwrap_err();
            assert_eq!(ended.downcast_ref(), Some(&Trap::Interrupt));
        }
    }
}
