//! The ledger of a queue: WQEs that were read and not yet completed, in order.

use alloc::collections::VecDeque;

use mana_wire::queue::WQE_UNIT;

/// Consecutive WQEs of one size with the same state, as nearly all of a queue are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<T> {
    /// Position of the first WQE.
    pub position: u32,
    /// Bytes of each WQE; not 0.
    pub size: u32,
    /// Number of WQEs; not 0.
    pub count: u32,
    /// The state of each WQE.
    pub known: T,
}

impl<T> Run<T> {
    /// Creates a run of WQEs of one unit.
    #[inline]
    pub fn of_units(position: u32, count: u32, known: T) -> Self {
        Self {
            position,
            size: WQE_UNIT,
            count,
            known,
        }
    }

    /// Creates a run of one WQE, from its beginning to its end.
    #[inline]
    pub fn of_one(position: u32, end: u32, known: T) -> Self {
        Self {
            position,
            size: end.wrapping_sub(position),
            count: 1,
            known,
        }
    }

    /// Returns where the first WQE ends, which is also its id at the host.
    #[inline]
    pub fn first_end(&self) -> u32 {
        self.position.wrapping_add(self.size)
    }

    fn end(&self) -> u32 {
        self.position.wrapping_add(self.size * self.count)
    }

    /// Returns the index of the WQE that ends at `end`.
    fn index_of(&self, end: u32) -> Option<u32> {
        let offset = end.wrapping_sub(self.position).wrapping_sub(1);
        (offset < self.size * self.count).then(|| offset / self.size)
    }
}

/// The WQEs of a queue that were read and not completed, in order.
#[derive(Debug)]
pub struct Ledger<T> {
    runs: VecDeque<Run<T>>,
    entries: usize,
}

impl<T> Default for Ledger<T> {
    fn default() -> Self {
        Self {
            runs: VecDeque::new(),
            entries: 0,
        }
    }
}

impl<T: Copy + PartialEq> Ledger<T> {
    /// Returns the number of WQEs.
    #[inline]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Adds WQEs.
    #[inline]
    pub fn add(&mut self, run: Run<T>) {
        self.entries += run.count as usize;
        if let Some(last) = self.runs.back_mut()
            && (last.end(), last.size) == (run.position, run.size)
            && last.known == run.known
        {
            last.count += run.count;
        } else {
            self.runs.push_back(run);
        }
    }

    /// Returns the oldest run.
    #[inline]
    pub fn front(&self) -> Option<Run<T>> {
        self.runs.front().copied()
    }

    /// Removes the oldest WQEs, up to as many as [`front`](Self::front) has.
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

    /// Removes the WQE that ends at `end`, and all after it. Returns where it begins;
    /// None, and nothing changes, if there is no such WQE.
    pub fn cut(&mut self, end: u32) -> Option<u32> {
        let mut runs = self.runs.iter().enumerate().rev();
        let (index, kept) = runs.find_map(|(index, run)| Some((index, run.index_of(end)?)))?;
        self.runs.truncate(index + 1);
        let run = self.runs.back_mut()?;
        run.count = kept;
        let begins = run.end();
        if kept == 0 {
            self.runs.pop_back();
        }
        self.entries = self.runs.iter().map(|run| run.count as usize).sum();
        Some(begins)
    }

    /// Changes the state of the WQE that ends at `end`, if there is one.
    pub fn update(&mut self, end: u32, change: impl FnOnce(&mut T)) {
        let mut runs = self.runs.iter().enumerate();
        let found = runs.find_map(|(index, run)| Some((index, run.index_of(end)?)));
        let Some((index, before)) = found else {
            return;
        };
        let run = self.runs[index];
        let after = run.count - before - 1;
        let mut one = Run {
            position: run.position.wrapping_add(run.size * before),
            count: 1,
            ..run
        };
        change(&mut one.known);
        self.runs[index] = one;
        if after > 0 {
            let position = one.first_end();
            let others = Run {
                position,
                count: after,
                ..run
            };
            self.runs.insert(index + 1, others);
        }
        if before > 0 {
            let others = Run {
                count: before,
                ..run
            };
            self.runs.insert(index, others);
        }
    }

    /// Removes all WQEs.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.entries = 0;
    }

    /// Visits each WQE as a run of its own.
    pub fn iter(&self) -> impl Iterator<Item = Run<T>> {
        self.runs.iter().flat_map(|run| {
            (0..run.count).map(move |index| Run {
                position: run.position.wrapping_add(index * run.size),
                count: 1,
                ..*run
            })
        })
    }
}

impl<T: Copy + PartialEq> FromIterator<Run<T>> for Ledger<T> {
    fn from_iter<I: IntoIterator<Item = Run<T>>>(runs: I) -> Self {
        let mut ledger = Self::default();
        runs.into_iter().for_each(|run| ledger.add(run));
        ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Four WQEs of one unit, a longer one, and one with another state; positions wrap
    /// in between.
    fn ledger() -> Ledger<bool> {
        let runs = [
            Run::of_units(0u32.wrapping_sub(64), 3, false),
            Run::of_units(32, 1, false),
            Run::of_one(64, 160, false),
            Run::of_one(160, 192, true),
        ];
        runs.into_iter().collect()
    }

    fn ends(ledger: &Ledger<bool>) -> Vec<u32> {
        ledger.iter().map(|run| run.first_end()).collect()
    }

    #[test]
    fn consecutive_equal_wqes_are_one_run() {
        let ledger = ledger();
        assert_eq!(ledger.runs.len(), 3);
        assert_eq!(
            ledger.front(),
            Some(Run::of_units(0u32.wrapping_sub(64), 4, false))
        );
        assert_eq!(ledger.entries(), 6);
        let first = 0u32.wrapping_sub(32);
        assert_eq!(ends(&ledger), [first, 0, 32, 64, 160, 192]);
    }

    #[test]
    fn wqes_are_passed_in_order() {
        let mut ledger = ledger();
        ledger.pass(3);
        assert_eq!(ledger.front(), Some(Run::of_units(32, 1, false)));
        ledger.pass(5);
        assert_eq!(ledger.front(), Some(Run::of_one(64, 160, false)));
        assert_eq!(ledger.entries(), 2);
        ledger.pass(1);
        assert_eq!(ledger.front(), Some(Run::of_one(160, 192, true)));
        ledger.pass(1);
        ledger.pass(1);
        assert_eq!((ledger.entries(), ledger.front()), (0, None));
    }

    #[test]
    fn wqes_after_a_refused_one_are_cut_too() {
        for (end, begins, left) in [
            (192, 160, 5),
            (160, 64, 4),
            (64, 32, 3),
            (0, 0u32.wrapping_sub(32), 1),
            (0u32.wrapping_sub(32), 0u32.wrapping_sub(64), 0),
        ] {
            let mut ledger = ledger();
            assert_eq!(ledger.cut(end), Some(begins));
            assert_eq!((ledger.entries(), ledger.iter().count()), (left, left));
            assert!(!ends(&ledger).contains(&end));
        }
        let mut ledger = ledger();
        assert_eq!(ledger.cut(224), None);
        assert_eq!(ledger.cut(0u32.wrapping_sub(64)), None);
        assert_eq!(ledger.entries(), 6);
    }

    #[test]
    fn one_wqe_of_a_run_is_updated() {
        for (end, before, after) in [(0u32.wrapping_sub(32), 0, 3), (0, 1, 2), (64, 3, 0)] {
            let mut ledger = ledger();
            ledger.update(end, |known| *known = true);
            let known: Vec<bool> = ledger.iter().map(|run| run.known).collect();
            let mut expected = [false; 6];
            (expected[before], expected[5]) = (true, true);
            assert_eq!(known, expected);
            assert_eq!((ledger.entries(), before + after), (6, 3));
            assert_eq!(ends(&ledger), ends(&super::tests::ledger()));
        }
        let mut ledger = ledger();
        ledger.update(224, |known| *known = true);
        assert_eq!(ledger.runs.len(), 3);
    }
}
