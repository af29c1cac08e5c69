//! Budgets for regions and mappings, each shared by several users.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A limit on the total of something.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
}

/// A share of a [`Budget`], which is returned when this is dropped.
///
/// A clone takes the same amount again, even beyond the limit: it is a short-lived copy of
/// something that was permitted.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    amount: u64,
}

impl Budget {
    /// Creates a budget of this amount.
    pub fn new(limit: u64) -> Arc<Self> {
        let used = AtomicU64::new(0);
        Arc::new(Self { limit, used })
    }

    /// Takes a share; None if the budget does not permit it.
    pub fn take(self: &Arc<Self>, amount: u64) -> Option<Share> {
        let more = |used: u64| used.checked_add(amount).filter(|used| *used <= self.limit);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Share {
            budget: self.clone(),
            amount,
        })
    }
}

impl Clone for Share {
    fn clone(&self) -> Self {
        self.budget.used.fetch_add(self.amount, Ordering::Relaxed);
        Self {
            budget: self.budget.clone(),
            amount: self.amount,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_end_at_the_limit_and_go_back() {
        let budget = Budget::new(10);
        let seven = budget.take(7).unwrap();
        assert!(budget.take(4).is_none());
        assert!(budget.take(u64::MAX).is_none());
        let three = budget.take(3).unwrap();
        let copy = three.clone();
        assert!(budget.take(0).is_none(), "the copy is counted");
        drop((three, copy));
        assert!(budget.take(3).is_some());
        drop(seven);
        assert!(budget.take(10).is_some());
    }
}
