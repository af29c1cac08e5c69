//! Receive queue entries that were read and not yet completed.

use alloc::collections::VecDeque;

use mana_wire::queue::WQE_UNIT;

/// Entries in a row that are alike, as nearly all of a queue are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the first begins, in bytes modulo 2^32.
    pub position: u32,
    /// Bytes of each; not 0.
    pub size: u32,
    /// How many; not 0.
    pub count: u32,
    /// They make no sense, and the host does not hold them.
    pub bad: bool,
}

impl Run {
    /// Entries of the smallest size that make sense.
    #[inline]
    pub fn of_units(position: u32, count: u32) -> Self {
        Self {
            position,
            size: WQE_UNIT,
            count,
            bad: false,
        }
    }

    /// One entry, from its beginning to its end.
    #[inline]
    pub fn of_one(position: u32, end: u32, bad: bool) -> Self {
        Self {
            position,
            size: end.wrapping_sub(position),
            count: 1,
            bad,
        }
    }

    /// Where the first ends, which is also its buffer's name.
    #[inline]
    pub fn first_end(&self) -> u32 {
        self.position.wrapping_add(self.size)
    }

    fn end(&self) -> u32 {
        self.position.wrapping_add(self.size * self.count)
    }
}

/// All such entries of a queue, in order.
#[derive(Debug, Default)]
pub struct Posted {
    runs: VecDeque<Run>,
    entries: usize,
}

impl Posted {
    /// How many entries there are.
    #[inline]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Adds entries.
    #[inline]
    pub fn add(&mut self, run: Run) {
        self.entries += run.count as usize;
        if let Some(last) = self.runs.back_mut()
            && (last.end(), last.size, last.bad) == (run.position, run.size, run.bad)
        {
            last.count += run.count;
        } else {
            self.runs.push_back(run);
        }
    }

    /// The oldest ones.
    #[inline]
    pub fn front(&self) -> Option<Run> {
        self.runs.front().copied()
    }

    /// The oldest ones, if they make sense or if they don't.
    #[inline]
    pub fn front_if(&self, bad: bool) -> Option<Run> {
        self.front().filter(|run| run.bad == bad)
    }

    /// Lets go of the oldest entries, as many of [`front`](Self::front) at most.
    #[inline]
    pub fn pass(&mut self, count: usize) {
        let Some(front) = self.runs.front_mut() else {
            return;
        };
        let passed = count.min(front.count as usize);
        self.entries -= passed;
        front.position = front.position.wrapping_add(front.size * passed as u32);
        front.count -= passed as u32;
        if front.count == 0 {
            self.runs.pop_front();
        }
    }

    /// Lets go of the entry that ends there and all behind it. Returns where
    /// that begins; None, and no change, if there is none.
    pub fn cut(&mut self, end: u32) -> Option<u32> {
        let holds =
            |run: &Run| end.wrapping_sub(run.position).wrapping_sub(1) < run.size * run.count;
        let index = self.runs.iter().rposition(holds)?;
        self.runs.truncate(index + 1);
        let run = self.runs.back_mut()?;
        let kept = (end.wrapping_sub(run.position) - 1) / run.size;
        run.count = kept;
        let begins = run.end();
        if kept == 0 {
            self.runs.pop_back();
        }
        self.entries = self.runs.iter().map(|run| run.count as usize).sum();
        Some(begins)
    }

    /// Lets go of all.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.entries = 0;
    }

    /// Each entry as a run of its own.
    pub fn iter(&self) -> impl Iterator<Item = Run> {
        self.runs.iter().flat_map(|run| {
            (0..run.count).map(move |index| Run {
                position: run.position.wrapping_add(index * run.size),
                count: 1,
                ..*run
            })
        })
    }
}

impl FromIterator<Run> for Posted {
    fn from_iter<I: IntoIterator<Item = Run>>(runs: I) -> Self {
        let mut posted = Self::default();
        runs.into_iter().for_each(|run| posted.add(run));
        posted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Four of a unit, a longer one, a bad one; across the end of the positions.
    fn posted() -> Posted {
        let runs = [
            Run::of_units(0u32.wrapping_sub(64), 3),
            Run::of_units(32, 1),
            Run::of_one(64, 160, false),
            Run::of_one(160, 192, true),
        ];
        runs.into_iter().collect()
    }

    fn ends(posted: &Posted) -> Vec<u32> {
        posted.iter().map(|run| run.first_end()).collect()
    }

    #[test]
    fn entries_that_are_alike_are_one_run() {
        let posted = posted();
        assert_eq!(posted.runs.len(), 3);
        assert_eq!(
            posted.front(),
            Some(Run::of_units(0u32.wrapping_sub(64), 4))
        );
        assert_eq!(posted.entries(), 6);
        let first = 0u32.wrapping_sub(32);
        assert_eq!(ends(&posted), [first, 0, 32, 64, 160, 192]);
    }

    #[test]
    fn entries_are_passed_in_order() {
        let mut posted = posted();
        posted.pass(3);
        assert_eq!(posted.front_if(false), Some(Run::of_units(32, 1)));
        posted.pass(5);
        assert_eq!(posted.front_if(false), Some(Run::of_one(64, 160, false)));
        assert_eq!(posted.entries(), 2);
        posted.pass(1);
        assert_eq!(posted.front_if(false), None);
        assert!(posted.front_if(true).is_some());
        posted.pass(1);
        posted.pass(1);
        assert_eq!((posted.entries(), posted.front()), (0, None));
    }

    #[test]
    fn what_is_behind_a_refused_one_goes_too() {
        for (end, begins, left) in [
            (192, 160, 5),
            (160, 64, 4),
            (64, 32, 3),
            (0, 0u32.wrapping_sub(32), 1),
            (0u32.wrapping_sub(32), 0u32.wrapping_sub(64), 0),
        ] {
            let mut posted = posted();
            assert_eq!(posted.cut(end), Some(begins));
            assert_eq!((posted.entries(), posted.iter().count()), (left, left));
            assert!(!ends(&posted).contains(&end));
        }
        let mut posted = posted();
        assert_eq!(posted.cut(224), None);
        assert_eq!(posted.cut(0u32.wrapping_sub(64)), None);
        assert_eq!(posted.entries(), 6);
    }
}
