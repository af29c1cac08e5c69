//! Ids of queues, a type for each type of queue.

use core::fmt;

use mana_wire::bnic::NO_EQ;
use mana_wire::queue::QueueType;

macro_rules! id {
    ($(#[$documentation:meta])* $name:ident) => {
        $(#[$documentation])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// An event queue.
    EqId
);
id!(
    /// A completion queue.
    CqId
);
id!(
    /// A send queue.
    SqId
);
id!(
    /// A receive queue.
    RqId
);

/// A work queue of either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WqId {
    /// A send queue.
    Sq(SqId),
    /// A receive queue.
    Rq(RqId),
}

impl WqId {
    /// Returns the number, which a queue of the other direction may have too.
    #[inline]
    pub fn number(self) -> u32 {
        match self {
            Self::Sq(id) => id.0,
            Self::Rq(id) => id.0,
        }
    }

    /// Returns whether it is a send queue.
    #[inline]
    pub fn is_sq(self) -> bool {
        matches!(self, Self::Sq(_))
    }

    /// Returns its type.
    pub fn queue_type(self) -> QueueType {
        match self {
            Self::Sq(_) => QueueType::Sq,
            Self::Rq(_) => QueueType::Rq,
        }
    }
}

impl fmt::Display for WqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sq(id) => write!(f, "SQ {id}"),
            Self::Rq(id) => write!(f, "RQ {id}"),
        }
    }
}

/// Returns the event queue that a completion queue reports to, if any.
pub fn parent_eq(id: u32) -> Option<EqId> {
    (id != NO_EQ).then_some(EqId(id))
}
