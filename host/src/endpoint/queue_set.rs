//! Sets of queues.

/// The most queues of a port.
pub const MAX_QUEUES: u16 = QueueSet::SIZE;

/// Some queues of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSet(u64);

impl QueueSet {
    const SIZE: u16 = u64::BITS as u16;

    /// Returns the first `count` queues, up to [`MAX_QUEUES`].
    pub fn first(count: u16) -> Self {
        Self(
            u64::MAX
                .checked_shr(u32::from(Self::SIZE - count.min(Self::SIZE)))
                .unwrap_or(0),
        )
    }

    /// Returns whether there is none.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds a queue; one beyond [`MAX_QUEUES`] is ignored.
    #[inline]
    pub fn insert(&mut self, queue: u16) {
        self.0 |= Self::bit(queue);
    }

    /// Adds queues.
    #[inline]
    pub fn insert_all(&mut self, queues: Self) {
        self.0 |= queues.0;
    }

    /// Removes a queue. Returns whether it was there.
    #[inline]
    pub fn remove(&mut self, queue: u16) -> bool {
        let before = self.0;
        self.0 &= !Self::bit(queue);
        self.0 != before
    }

    /// Returns the union of two sets.
    #[inline]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline]
    fn bit(queue: u16) -> u64 {
        1u64.checked_shl(queue.into()).unwrap_or(0)
    }
}

impl Iterator for QueueSet {
    type Item = u16;

    /// Removes the lowest.
    #[inline]
    fn next(&mut self) -> Option<u16> {
        let lowest = self.0.trailing_zeros() as u16;
        self.remove(lowest).then_some(lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        assert_eq!(QueueSet::first(0).count(), 0);
        assert_eq!(QueueSet::first(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(QueueSet::first(MAX_QUEUES).count(), 64);
        assert_eq!(QueueSet::first(MAX_QUEUES + 1).count(), 64);
        let mut set = QueueSet::default();
        for queue in [63, 0, 5, 64, u16::MAX] {
            set.insert(queue);
        }
        assert!(set.remove(5) && !set.remove(5) && !set.remove(64));
        assert_eq!(set.or(QueueSet::first(2)).collect::<Vec<_>>(), [0, 1, 63]);
        assert_eq!(set.collect::<Vec<_>>(), [0, 63]);
    }
}
