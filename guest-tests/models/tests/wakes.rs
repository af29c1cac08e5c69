//! The hand-over of a device: a wake of its thread is handled, whoever owns the device.
//!
//! In the model the lock is one bit, acquired and released as `parking_lot` does without
//! contention. A wake is lost if neither an owner took it nor the device's thread was
//! kicked: then the packet would wait for the next one.

#![allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same file is modelled with and without what makes it right"
)]

/// The protocol's operations.
mod sync {
    pub use loom::sync::atomic::{AtomicBool, Ordering, fence};

    pub fn after_unlock() {
        fence(Ordering::SeqCst);
    }
}

#[path = "../../../host/src/device/wakes.rs"]
#[allow(dead_code, reason = "the models use what they model")]
mod wakes;

/// The same without the barrier after the release of the lock.
#[path = "."]
mod without_unlock_barrier {
    pub mod sync {
        pub use loom::sync::atomic::{AtomicBool, Ordering, fence};

        pub fn after_unlock() {}
    }

    #[path = "../../../host/src/device/wakes.rs"]
    #[allow(dead_code, reason = "the models use what they model")]
    pub mod wakes;
}

/// The same without the barrier after the announcement.
#[path = "."]
mod without_announcement_barrier {
    pub mod sync {
        pub use loom::sync::atomic::{AtomicBool, Ordering};

        pub fn fence(_: Ordering) {}

        pub fn after_unlock() {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    #[path = "../../../host/src/device/wakes.rs"]
    #[allow(dead_code, reason = "the models use what they model")]
    pub mod wakes;
}

/// A model of a device with its lock, for one version of the protocol.
macro_rules! model {
    ($name:ident, $wakes:path) => {
        mod $name {
            use loom::sync::Arc;
            use loom::sync::atomic::{AtomicBool, Ordering};
            use loom::thread;
            use $wakes as PendingWakes;

            struct Shared {
                wakes: PendingWakes,
                locked: AtomicBool,
                taken: AtomicBool,
                kicked: AtomicBool,
            }

            struct Owned(Arc<Shared>);

            impl Drop for Owned {
                fn drop(&mut self) {
                    let unlocked = self.0.locked.compare_exchange(
                        true,
                        false,
                        Ordering::Release,
                        Ordering::Relaxed,
                    );
                    assert!(unlocked.is_ok());
                }
            }

            fn try_lock(shared: &Arc<Shared>) -> Option<Owned> {
                let locked = shared.locked.compare_exchange(
                    false,
                    true,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                );
                locked.is_ok().then(|| Owned(shared.clone()))
            }

            fn settle(shared: &Arc<Shared>, owned: Owned) {
                let run = |owned: &mut Owned| {
                    let Shared { wakes, taken, .. } = &*owned.0;
                    wakes.take(|_| taken.store(true, Ordering::Relaxed));
                    false
                };
                shared
                    .wakes
                    .settle(owned, run, || try_lock(shared), || kick(shared));
            }

            fn kick(shared: &Arc<Shared>) {
                shared.kicked.store(true, Ordering::Relaxed);
            }

            /// Has the device's thread, once it has left the wake to the owner, take the
            /// lock briefly for something else.
            pub fn check_glance(looks: bool) {
                loom::model(move || {
                    let shared = Arc::new(Shared {
                        wakes: PendingWakes::new(1),
                        locked: AtomicBool::new(false),
                        taken: AtomicBool::new(false),
                        kicked: AtomicBool::new(false),
                    });
                    let owner = thread::spawn({
                        let shared = shared.clone();
                        move || {
                            if let Some(owned) = try_lock(&shared) {
                                settle(&shared, owned);
                            }
                        }
                    });
                    shared.wakes.add(0);
                    shared.wakes.announce();
                    match try_lock(&shared) {
                        Some(owned) => settle(&shared, owned),
                        None => match try_lock(&shared) {
                            Some(owned) if looks => {
                                shared.wakes.leave(owned, false, || kick(&shared));
                            }
                            owned => drop(owned),
                        },
                    }
                    owner.join().expect("an owner gives up");
                    let seen = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
                    assert!(
                        seen(&shared.taken) || seen(&shared.kicked),
                        "what woke the device's thread was lost"
                    );
                });
            }

            /// Checks an owner that ends in one way or the other while the device's thread is woken.
            pub fn check(owners: usize, leaves: bool) {
                let mut model = loom::model::Builder::new();
                // All orders of three threads are too many to try: only those in which
                // a thread is preempted at most this often.
                model.preemption_bound = (owners > 1).then_some(2);
                model.check(move || {
                    let shared = Arc::new(Shared {
                        wakes: PendingWakes::new(1),
                        locked: AtomicBool::new(false),
                        taken: AtomicBool::new(false),
                        kicked: AtomicBool::new(false),
                    });
                    let owners: Vec<_> = (0..owners)
                        .map(|_| {
                            let shared = shared.clone();
                            thread::spawn(move || {
                                // A thread that waits for the lock runs later; that
                                // order is among those that are tried.
                                let Some(owned) = try_lock(&shared) else {
                                    return;
                                };
                                if leaves {
                                    shared.wakes.leave(owned, false, || kick(&shared));
                                } else {
                                    settle(&shared, owned);
                                }
                            })
                        })
                        .collect();
                    shared.wakes.add(0);
                    shared.wakes.announce();
                    if let Some(owned) = try_lock(&shared) {
                        settle(&shared, owned);
                    }
                    for owner in owners {
                        owner.join().expect("an owner gives up");
                    }
                    let seen = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
                    assert!(
                        seen(&shared.taken) || seen(&shared.kicked),
                        "what woke the device's thread was lost"
                    );
                });
            }
        }
    };
}

model!(right, crate::wakes::PendingWakes);
model!(
    no_unlock_barrier,
    crate::without_unlock_barrier::wakes::PendingWakes
);
model!(
    no_announcement_barrier,
    crate::without_announcement_barrier::wakes::PendingWakes
);

#[test]
fn no_wake_is_lost_when_an_owner_settles() {
    right::check(1, false);
}

#[test]
fn no_wake_is_lost_when_an_owner_leaves() {
    right::check(1, true);
}

#[test]
fn no_wake_is_lost_between_two_owners() {
    right::check(2, false);
}

#[test]
fn no_wake_is_lost_by_a_glance() {
    right::check_glance(true);
}

#[test]
#[should_panic(expected = "lost")]
fn whoever_gives_the_lock_up_without_looking_loses_a_wake() {
    right::check_glance(false);
}

#[test]
#[should_panic(expected = "lost")]
fn without_the_barrier_behind_the_lock_a_wake_is_lost() {
    no_unlock_barrier::check(1, true);
}

#[test]
#[should_panic(expected = "lost")]
fn without_the_barrier_behind_the_announcement_a_wake_is_lost() {
    no_announcement_barrier::check(1, true);
}
