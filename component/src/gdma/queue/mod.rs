//! The types of queues.

pub mod cq;
pub mod eq;
pub mod moderation;
pub mod position;
pub mod wq;
