//! Saving and restoring all queues.

use alloc::vec::Vec;

use super::spare::Spare;
use super::{MAX_CQS, MAX_EQS, MAX_VECTORS, MAX_WQS, Queues};
use crate::gdma::cq::Cq;
use crate::gdma::eq::Eq;
use crate::gdma::regions::DmaRegions;
use crate::gdma::wq::{Direction, Wq};
use crate::state::{self as saved, Pages};
use device_kit::FaultCounter;
use device_kit::envelope::{RestoreError, ensure};
use device_kit::platform::Platform;
use device_kit::ring::{Layout, Ring};
use device_kit::table::Table;

impl Queues {
    /// The queues, to be saved between two calls, when no event is due.
    pub fn save(&self) -> saved::Queues {
        saved::Queues {
            eqs: self.eqs.iter().map(|(id, eq)| eq.save(id)).collect(),
            cqs: self.cqs.iter().map(|(id, cq)| cq.save(id)).collect(),
            sqs: self.sqs.iter().map(|(id, wq)| wq.save(id)).collect(),
            rqs: self.rqs.iter().map(|(id, wq)| wq.save(id)).collect(),
            bad_doorbells: self.bad_doorbells.count(),
            eq_overruns: self.eq_overruns.count(),
        }
    }

    /// Makes the queues that were saved; there are none yet. Their pages are
    /// put on the regions' account. Windows that are there already are not
    /// laid again.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Malformed`]; some queues may exist then.
    pub fn restore(
        &mut self,
        platform: &mut impl Platform,
        regions: &mut DmaRegions,
        spare: &mut Spare,
        saved: &saved::Queues,
    ) -> Result<(), RestoreError> {
        let mut rings = Rings {
            platform,
            regions,
            spare,
        };
        for eq in &saved.eqs {
            ensure(eq.vector < MAX_VECTORS, "a vector beyond the table")?;
            let ring = rings.make(&eq.ring.pages, Layout::Fixed)?;
            let restored = Eq::restore(ring, eq);
            rings.add(&mut self.eqs, MAX_EQS, eq.id, restored)?;
        }
        for cq in &saved.cqs {
            let reports = cq.eq.is_none_or(|eq| self.eqs.get(eq).is_some());
            ensure(reports, "a completion queue without its event queue")?;
            let ring = rings.make(&cq.ring.pages, Layout::Fixed)?;
            let restored = Cq::restore(ring, cq);
            rings.add(&mut self.cqs, MAX_CQS, cq.id, restored)?;
        }
        let directions = [
            (&mut self.sqs, Direction::Send, &saved.sqs),
            (&mut self.rqs, Direction::Receive, &saved.rqs),
        ];
        for (table, direction, wqs) in directions {
            for wq in wqs {
                let ring = rings.make(&wq.pages, Layout::Wrapping)?;
                let restored = Wq::restore(ring, direction, wq);
                rings.add(table, MAX_WQS, wq.id, restored)?;
            }
        }
        self.bad_doorbells = FaultCounter::from_count(saved.bad_doorbells);
        self.eq_overruns = FaultCounter::from_count(saved.eq_overruns);
        Ok(())
    }
}

/// Where rings are made, and given back if they turn out to be of no use.
struct Rings<'a, P> {
    platform: &'a mut P,
    regions: &'a mut DmaRegions,
    spare: &'a mut Spare,
}

/// Something over a ring.
trait Over {
    fn into_ring(self) -> Ring;
}

impl<P: Platform> Rings<'_, P> {
    fn make(&mut self, pages: &Pages, layout: Layout) -> Result<Ring, RestoreError> {
        let pages: Vec<u64> = self.regions.restore_queue(pages)?;
        if let Some(ring) = self.spare.take(&pages, layout) {
            return Ok(ring);
        }
        let ring = Ring::new(self.platform, pages, layout);
        if ring.has_window() || self.spare.is_empty() {
            return Ok(ring);
        }
        // What is spare may be what it finds no room beside.
        self.spare.release(self.platform);
        let pages = ring.release(self.platform);
        Ok(Ring::new(self.platform, pages, layout))
    }

    fn add<T: Over>(
        &mut self,
        table: &mut Table<T>,
        max: usize,
        id: u32,
        restored: Result<T, (Ring, RestoreError)>,
    ) -> Result<(), RestoreError> {
        let (ring, error) = match restored {
            Ok(queue) => match table.insert_at(id, max, queue) {
                Ok(()) => return Ok(()),
                Err(queue) => (
                    queue.into_ring(),
                    RestoreError::Malformed("a queue's id is impossible or taken"),
                ),
            },
            Err(refused) => refused,
        };
        ring.release(self.platform);
        Err(error)
    }
}

impl Over for Eq {
    fn into_ring(self) -> Ring {
        self.ring
    }
}

impl Over for Cq {
    fn into_ring(self) -> Ring {
        self.ring
    }
}

impl Over for Wq {
    fn into_ring(self) -> Ring {
        self.ring
    }
}
