//! The thread of deadlines sleeps only while no call runs.
//!
//! The asymmetric barrier is modelled by its effect: a barrier on both sides. A call is
//! overlooked if the thread sleeps although the call has begun, and nobody wakes it;
//! then a call that never returns is never interrupted.

#![allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same file is modelled with and without what makes it right"
)]

/// The protocol's operations.
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
            use std::cell::Cell;

            use loom::sync::Arc;
            use loom::sync::atomic::{AtomicBool, Ordering, fence};
            use loom::thread;
            use $handshake as Handshake;

            struct Shared {
                handshake: Handshake,
                /// The call's flag.
                running: AtomicBool,
                /// The call has begun.
                begun: AtomicBool,
                woken: AtomicBool,
                overlooked: AtomicBool,
            }

            impl Shared {
                /// Sleeps until it is woken; if that cannot happen any more, notes it and
                /// continues.
                fn park(&self, token: &Cell<bool>) {
                    loop {
                        let begun = self.begun.load(Ordering::Acquire);
                        if !token.get() && self.woken.load(Ordering::Acquire) {
                            return token.set(true);
                        }
                        // Whoever began a call has woken us by then.
                        if begun {
                            self.overlooked.store(true, Ordering::Relaxed);
                            self.handshake.enter(&AtomicBool::new(false), || {});
                            return;
                        }
                        thread::yield_now();
                    }
                }

                fn sleep(&self, barrier: bool) {
                    // Whether it was woken already; a wake counts once.
                    let token = Cell::new(false);
                    // What it saw before it decided to sleep.
                    self.handshake.take_entered();
                    self.handshake.sleep_until_entered(
                        || {
                            if barrier {
                                fence(Ordering::SeqCst);
                            }
                            true
                        },
                        || self.running.load(Ordering::Acquire),
                        || self.park(&token),
                    );
                }
            }

            /// Checks a call that begins while the thread looks for calls and goes to sleep.
            pub fn check(barrier: bool) {
                loom::model(move || {
                    let shared = Arc::new(Shared {
                        handshake: Handshake::new(),
                        running: AtomicBool::new(false),
                        begun: AtomicBool::new(false),
                        woken: AtomicBool::new(false),
                        overlooked: AtomicBool::new(false),
                    });
                    let ticker = thread::spawn({
                        let shared = shared.clone();
                        move || shared.sleep(barrier)
                    });
                    let wake = || shared.woken.store(true, Ordering::Release);
                    shared.handshake.enter(&shared.running, wake);
                    shared.begun.store(true, Ordering::Release);
                    ticker.join().expect("the thread continues");
                    let overlooked = shared.overlooked.load(Ordering::Relaxed);
                    assert!(!overlooked, "the thread sleeps while a call runs");
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
#[should_panic(expected = "sleeps while a call runs")]
fn without_the_threads_barrier_a_call_is_overlooked() {
    right::check(false);
}

#[test]
#[should_panic(expected = "sleeps while a call runs")]
fn without_the_calls_part_of_it_a_call_is_overlooked() {
    broken::check(true);
}
