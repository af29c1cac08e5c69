//! GDMA: the memory that a driver registers, the queues made of it, and the interrupts
//! that they raise.
//!
//! A driver posts work queue entries (WQEs) and rings a doorbell; whoever owns the
//! queue reads them with a [`queues::Reader`] and completes them with
//! [`queues::Queues::complete`], which posts completion queue entries (CQEs). At the
//! end of every call, [`queues::Queues::flush`] turns CQEs into events, and events into
//! interrupts. Nothing here knows what the WQEs ask for.

pub mod caution;
pub mod ids;
pub mod journal;
pub mod message;
pub mod queue;
pub mod queues;
pub mod regions;
pub mod resources;
pub mod restore;
pub mod spare;

use queues::Queues;
use regions::DmaRegions;
use resources::Registration;

/// The parts of GDMA that requests work on, and the platform.
#[derive(Debug)]
pub struct Context<'a, P> {
    /// The platform that the device runs on.
    pub platform: &'a mut P,
    /// All queues.
    pub queues: &'a mut Queues,
    /// All registered memory.
    pub regions: &'a mut DmaRegions,
    /// Whether a driver has the NIC's resources.
    pub registration: &'a mut Registration,
}
