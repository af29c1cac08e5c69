//! GDMA: registered memory, queues and interrupts.

pub mod caution;
pub mod cq;
pub mod eq;
pub mod position;
pub mod queues;
pub mod regions;
pub mod wq;
