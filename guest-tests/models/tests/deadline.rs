//! The thread of deadlines sleeps only while no call runs.
//!
//! The asymmetric barrier is modelled by what it amounts to: a barrier on both sides. In
//! the model a call ends only when the thread has gone on, as a call does that never
//! returns: if both wait for each other, loom reports a deadlock.

/// What the protocol is made of.
mod sync {
    pub use loom::sync::atomic::{AtomicBool, Ordering};

    pub fn light_barrier() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

#[path = "../../../host/src/runtime/handshake.rs"]
#[allow(dead_code, reason = "the models use what they model")]
mod handshake;

/// The same where the thread's barrier does not reach the calls.
#[path = "."]
mod without_barrier {
    pub mod sync {
        pub use loom::sync::atomic::{AtomicBool, Ordering};

        pub fn light_barrier() {}
    }

    #[path = "../../../host/src/runtime/handshake.rs"]
    #[allow(dead_code, reason = "the models use what they model")]
    pub mod handshake;
}

macro_rules! model {
    ($name:ident, $handshake:path) => {
        mod $name {
            use loom::sync::Arc;
            use loom::sync::atomic::{AtomicBool, Ordering, fence};
            use loom::thread;
            use $handshake as Handshake;

            /// A call begins while the thread looks for calls and goes to sleep.
            pub fn check(barrier: bool) {
                loom::model(move || {
                    let handshake = Arc::new(Handshake::new());
                    let running = Arc::new(AtomicBool::new(false));
                    let ticker = thread::spawn({
                        let (handshake, running) = (handshake.clone(), running.clone());
                        move || {
                            // What it saw before it decided to sleep.
                            handshake.take_entered();
                            handshake.sleep_until_entered(
                                || {
                                    if barrier {
                                        fence(Ordering::SeqCst);
                                    }
                                    true
                                },
                                || running.load(Ordering::Acquire),
                                thread::park,
                            );
                        }
                    });
                    let thread = ticker.thread().clone();
                    handshake.enter(&running, || thread.unpark());
                    // The call does not end by itself.
                    ticker.join().expect("the thread goes on");
                });
            }
        }
    };
}

model!(right, crate::handshake::Handshake);
model!(broken, crate::without_barrier::handshake::Handshake);

#[test]
fn a_call_that_runs_keeps_the_thread_awake() {
    right::check(true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_threads_barrier_a_call_is_overlooked() {
    right::check(false);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_calls_part_of_it_a_call_is_overlooked() {
    broken::check(true);
}
