//! Saving and restoring all queues.

use alloc::vec::Vec;

use device_kit::ring::{Layout, Ring};
use device_kit::{FaultCounter, Platform};

use super::queue::cq::Cq;
use super::queue::eq::Eq;
use super::queue::wq::{Direction, Wq};
use super::queues::Queues;
use super::regions::DmaRegions;
use super::spare::Spare;
use crate::state::{self as saved, Pages};

impl Queues {
    /// Returns the queues to be saved between two calls, when no event is due.
    pub fn save(&self) -> saved::Queues {
        saved::Queues {
            eqs: self.eqs.iter().map(|(id, eq)| eq.save(id)).collect(),
            cqs: self
                .cqs
                .iter()
                .map(|(id, cq)| self.save_cq(id, cq))
                .collect(),
            sqs: self.sqs.iter().map(|(id, wq)| wq.save(id)).collect(),
            rqs: self.rqs.iter().map(|(id, wq)| wq.save(id)).collect(),
            bad_doorbells: self.bad_doorbells.count(),
            eq_overruns: self.eq_overruns.count(),
        }
    }

    fn save_cq(&self, id: u32, cq: &Cq) -> saved::Cq {
        let eq = cq.eq.and_then(|eq| self.eqs.get(eq.0));
        cq.save(id, eq.map_or(0, |eq| eq.rung))
    }

    /// Makes the queues that were saved and checked; there are none yet. Their pages
    /// are counted on the regions' account. Spare windows are reused.
    pub fn resume(
        &mut self,
        platform: &mut impl Platform,
        regions: &mut DmaRegions,
        spare: &mut Spare,
        saved: &saved::Queues,
    ) {
        let mut rings = Rings {
            platform,
            regions,
            spare,
        };
        for eq in &saved.eqs {
            let ring = rings.make(&eq.ring.pages, Layout::Fixed);
            self.eqs.insert_at(eq.id, Eq::resume(ring, eq));
        }
        for cq in &saved.cqs {
            let ring = rings.make(&cq.ring.pages, Layout::Fixed);
            self.cqs.insert_at(cq.id, Cq::resume(ring, cq));
        }
        for wq in &saved.sqs {
            let ring = rings.make(&wq.pages, Layout::Wrapping);
            self.sqs
                .insert_at(wq.id, Wq::resume(ring, Direction::Send, wq));
        }
        for wq in &saved.rqs {
            let ring = rings.make(&wq.pages, Layout::Wrapping);
            self.rqs
                .insert_at(wq.id, Wq::resume(ring, Direction::Receive, wq));
        }
        self.bad_doorbells = FaultCounter::from_count(saved.bad_doorbells);
        self.eq_overruns = FaultCounter::from_count(saved.eq_overruns);
    }
}

/// A maker of rings.
struct Rings<'a, P> {
    platform: &'a mut P,
    regions: &'a mut DmaRegions,
    spare: &'a mut Spare,
}

impl<P: Platform> Rings<'_, P> {
    fn make(&mut self, pages: &Pages, layout: Layout) -> Ring {
        let pages: Vec<u64> = pages.addresses();
        self.regions.count(&pages);
        if let Some(ring) = self.spare.take(&pages, layout) {
            return ring;
        }
        let ring = Ring::new(self.platform, pages, layout);
        if !ring.is_refused() || self.spare.is_empty() {
            return ring;
        }
        // The spare windows may be why there is no room: give them up and retry.
        self.spare.release(self.platform);
        let pages = ring.release(self.platform);
        Ring::new(self.platform, pages, layout)
    }
}
