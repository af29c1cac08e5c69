//! One queue of each type.

pub mod cq;
pub mod eq;
pub mod position;
pub mod wq;
