//! Continuing after a failure, from beginning to end.
//!
//! A device may fail at any point: its code traps, it exceeds its deadline, it runs out
//! of memory. The host then starts a fresh instance, which continues where the failed
//! one was, from three things that survive it:
//!
//! - **A state**, saved after the last call in which the configuration changed
//!   ([`Platform::changed`]). It knows which queues there are, but not how far they
//!   have got since.
//! - **The guest's rings.** A CQE has a *record* of the WQE that it completes
//!   ([`journal`](crate::gdma::journal)), in bytes that drivers ignore. The owner bits
//!   of CQEs and events show where the next one goes.
//! - **What the host saw** ([`Observations`]): the last doorbell of each queue, the
//!   last packet that each queue handed over, and WQEs that made the device fail more
//!   than once.
//!
//! From these the [`evidence`] is gathered, which yields a [`plan`], which is [carried
//! out](recover):
//!
//! 1. Each completion queue continues after its last CQE, and each work queue after the
//!    last WQE that has a CQE, up to the last doorbell. WQEs without a CQE are read
//!    again. A completion queue's moderation is what the last doorbell for that set.
//! 2. A transmit without a CQE that was handed over is completed and not handed
//!    over again. Receive buffers are posted again: packets that were received and
//!    not completed are lost.
//! 3. A request of the hardware channel that was answered after the state was saved,
//!    and that may have changed the configuration, is [acted on
//!    again](crate::hwc::Hwc::replay) and not answered again. There is at most one,
//!    because the channel answers no other in the same call.
//! 4. Every queue is armed, and every event and interrupt that may be due is sent: a
//!    spurious interrupt is harmless, a lost one is not.
//! 5. For a while the device takes one WQE at a time and announces it
//!    ([`caution`](crate::gdma::caution)), so that one which makes it fail again is
//!    known. One that does so twice is completed with an error.

use device_kit::Platform;
use device_kit::platform::Observations;

use crate::bnic::Nic;
use crate::gdma::caution::Caution;
use crate::gdma::queues::Queues;
use crate::hwc::Hwc;
use evidence::Evidence;
use plan::Plan;
pub use plan::Unsaved;

mod evidence;
mod plan;

/// Continues a device that was restored from an older state. Work is left
/// afterwards; returns the request to be replayed first, if there is one.
pub fn recover(
    platform: &mut impl Platform,
    queues: &mut Queues,
    nic: &mut Nic,
    hwc: Option<&Hwc>,
    seen: &Observations,
) -> Option<Unsaved> {
    let evidence = Evidence::gather(platform, queues, seen);
    let channel = hwc.map(|hwc| hwc.channel.sq);
    let plan = Plan::make(queues, &evidence, channel);
    plan.carry_out(queues);
    if hwc.is_some_and(|hwc| nic.moderates(hwc.channel.driver_caps)) {
        for (id, bell) in &evidence.moderated {
            queues
                .cq(*id)
                .expect("a queue with evidence")
                .moderate(*bell);
        }
    }
    nic.forget_work(|port, queue, wq| {
        let mut last = seen.transmitted.iter();
        let last = last.find(|it| (it.port, it.queue) == (port, queue))?;
        let positions = queues.wq(wq)?.positions();
        let posted = positions.producer.wrapping_sub(positions.completed);
        let ahead = last.id.wrapping_sub(positions.completed);
        (ahead > 0 && ahead <= posted).then_some(last.id)
    });
    queues.owe_everything();
    queues.be_cautious(Caution::after_failure(&seen.skip));
    plan.unsaved
}
