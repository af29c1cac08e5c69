//! Deadlines: no call into a component runs longer than its share.
//!
//! wasmtime checks an epoch counter in every loop and function; a thread of
//! this module advances it while calls begin, and for as long after the last one
//! as the longest may run. Idle devices cost no wake-ups.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};
use wasmtime::Engine;

/// How often the epoch advances.
const TICK: Duration = Duration::from_millis(10);

/// Advances an engine's epoch.
#[derive(Debug)]
pub struct Ticker {
    shared: Arc<Shared>,
    thread: OnceLock<Thread>,
}

/// What calls and the thread tell each other. A call sets `entered` and then
/// looks at `asleep`, the thread sets `asleep` and then looks at `entered`, and
/// one of them must see the other. The calls, which are many, leave the costly
/// barrier between the two to the thread.
#[derive(Debug, Default)]
struct Shared {
    /// A call began since the thread looked last.
    entered: AtomicBool,
    /// The thread sleeps, or is about to.
    asleep: AtomicBool,
    /// The longest deadline in ticks.
    longest: AtomicU64,
}

impl Ticker {
    /// A ticker for an engine, with its thread.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
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
                    drop(engine);
                    idle = if shared.entered.swap(false, Ordering::SeqCst) {
                        0
                    } else {
                        idle + 1
                    };
                    // One more, because the call may have begun just now.
                    if can_sleep && idle > shared.longest.load(Ordering::SeqCst) + 1 {
                        shared.sleep_until_entered();
                        idle = 0;
                    }
                    thread::sleep(TICK);
                }
            })?;
        let _ = ticker.thread.set(spawned.thread().clone());
        Ok(ticker)
    }

    /// Notes that a call begins. Its deadline was set before: the thread goes on
    /// until that is over.
    #[inline]
    pub fn enter(&self) {
        let Shared {
            entered, asleep, ..
        } = &*self.shared;
        // The deadline counts from a tick that was before this one.
        fence(Ordering::Acquire);
        if !entered.load(Ordering::Relaxed) {
            entered.store(true, Ordering::Release);
        }
        compiler_fence(Ordering::SeqCst);
        if asleep.load(Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// The number of ticks that make up at least `time`, for a deadline of a call.
    pub fn ticks(&self, time: Duration) -> u64 {
        // One more, because the first may come at once.
        let ticks = time.as_millis().div_ceil(TICK.as_millis()) as u64 + 1;
        self.shared.longest.fetch_max(ticks, Ordering::SeqCst);
        ticks
    }
}

impl Shared {
    fn sleep_until_entered(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        // From here on every call sees that, or is seen. It was registered, so it
        // can't fail; if it did, the thread would just not sleep.
        if membarrier(MembarrierCommand::PrivateExpedited).is_ok() {
            while !self.entered.load(Ordering::SeqCst) {
                thread::park();
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// Whether a barrier can be had that all of this process's threads take part in.
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
        for _ in 0..3 {
            while can_sleep() && !ticker.shared.asleep.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            store.set_epoch_deadline(ticker.ticks(TICK));
            ticker.enter();
            let ended = run.call(&mut store, ()).unwrap_err();
            assert_eq!(ended.downcast_ref(), Some(&Trap::Interrupt));
        }
    }
}
