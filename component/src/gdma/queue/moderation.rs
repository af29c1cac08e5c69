//! Moderation: how long interrupts wait, so that one reports more.
//!
//! A driver sets, for a completion queue, how many completions are to gather, and for how
//! long at most, before there is an interrupt (`mana_create_wq_obj`, `mana_gd_ring_dim`).
//! Hardware holds back the event. This device has no clock: it posts the event at once,
//! and has the host raise the vector later
//! ([`raise_within`](device_kit::Platform::raise_within)), or sooner when enough
//! completions have gathered. A driver looks at its event queue when there is an
//! interrupt, and sees no difference.
//!
//! What hardware does with limits of 0 is not known. Linux asks for moderation only if
//! both limits are set (`mana_create_rxq`), and gives 0 and 0 to a queue whose limits it
//! is going to adapt, so a queue with one of them waits for nothing.

use mana_wire::queue::{DimDoorbell, MAX_MODERATION_COMPLETIONS, MAX_MODERATION_USEC};

/// The moderation of a completion queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moderation {
    /// Completions that gather until there is an interrupt.
    pub completions: u8,
    /// Microseconds after the first of them until there is an interrupt, at most
    /// [`MAX_MODERATION_USEC`].
    pub usec: u16,
}

impl Moderation {
    /// Returns the moderation with limits of a request, of which those that a driver must
    /// not ask for are lowered to the highest that it may.
    pub fn within_bounds(completions: u16, usec: u16) -> Self {
        let most = u16::from(MAX_MODERATION_COMPLETIONS);
        Self {
            completions: completions.min(most) as u8,
            usec: usec.min(MAX_MODERATION_USEC),
        }
    }

    /// Returns the moderation after a doorbell, which sets either limit or both.
    pub fn after(self, bell: DimDoorbell) -> Self {
        Self {
            completions: match bell.are_completions_valid() {
                true => bell.completions(),
                false => self.completions,
            },
            usec: match bell.is_usec_valid() {
                true => bell.usec(),
                false => self.usec,
            },
        }
    }

    /// Returns how many microseconds an interrupt may wait when this many completions have
    /// gathered.
    pub fn wait(self, gathered: u32) -> u16 {
        if gathered >= u32::from(self.completions) || self.completions <= 1 {
            0
        } else {
            self.usec
        }
    }
}

/// How soon a vector is to be raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Urgency {
    /// As soon as the host sees fit: something is to be reported that is not moderated.
    pub plain: bool,
    /// Within this many microseconds: something moderated is to be reported.
    pub within: Option<u16>,
}

impl Urgency {
    /// The urgency of something that is not moderated.
    pub const PLAIN: Self = Self {
        plain: true,
        within: None,
    };

    /// Returns the urgency of something that may wait this many microseconds.
    pub fn within(usec: u16) -> Self {
        Self {
            plain: false,
            within: Some(usec),
        }
    }

    /// Returns the urgency of both together.
    pub fn and(self, other: Self) -> Self {
        let within = self.within.into_iter().chain(other.within).min();
        Self {
            plain: self.plain | other.plain,
            within,
        }
    }

    /// Returns what a vector that was raised with another urgency has to be raised for again.
    pub fn beyond(self, raised: Self) -> Option<Self> {
        let is_sooner = |usec: &u16| raised.within.is_none_or(|before| *usec < before);
        let rest = Self {
            plain: self.plain && !raised.plain,
            within: self.within.filter(is_sooner),
        };
        (rest.plain || rest.within.is_some()).then_some(rest)
    }
}
