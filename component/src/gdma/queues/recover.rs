//! How far all queues had got when a predecessor failed.

use alloc::vec::Vec;

use super::Queues;
use crate::gdma::caution::Caution;
use crate::gdma::cq::LastCompleted;
use device_kit::platform::Platform;
use mana_wire::queue::{RingDoorbell, WqDoorbell, doorbell};

/// The last doorbells of a device, by what they ring.
#[derive(Clone, Copy, Debug)]
pub struct Doorbells<'a> {
    /// Offset in the doorbell page, and value.
    pub rung: &'a [(u64, u64)],
}

impl Doorbells<'_> {
    fn last(&self, offset: u64, id: impl Fn(u64) -> u32, of: u32) -> Option<u64> {
        let rung = self.rung.iter();
        let mut hits = rung.filter(|(at, value)| *at == offset && id(*value) == of);
        hits.next_back().map(|(_, value)| *value)
    }

    fn ring(&self, offset: u64, of: u32) -> Option<u32> {
        let value = self.last(offset, |value| RingDoorbell::from_bits(value).id(), of)?;
        Some(RingDoorbell::from_bits(value).tail())
    }

    fn wq(&self, offset: u64, of: u32) -> Option<u32> {
        let value = self.last(offset, |value| WqDoorbell::from_bits(value).id(), of)?;
        Some(WqDoorbell::from_bits(value).tail())
    }
}

impl Queues {
    /// Goes on from what the guest's rings and the doorbells say. Every queue
    /// is armed, and every event that may be due is: a driver looks once too
    /// often rather than never again. Returns the last completion of each work
    /// queue.
    pub fn recover(
        &mut self,
        platform: &mut impl Platform,
        doorbells: Doorbells<'_>,
        skip: &[u64],
    ) -> Vec<LastCompleted> {
        for (id, eq) in self.eqs.iter_mut() {
            eq.recover(platform, doorbells.ring(doorbell::EQ, id));
            self.dirty_eqs.push(id);
        }
        let mut last: Vec<LastCompleted> = Vec::new();
        for (id, cq) in self.cqs.iter_mut() {
            last.extend(cq.recover(platform, doorbells.ring(doorbell::CQ, id)));
            cq.dirty = true;
            self.dirty_cqs.push(id);
        }
        let sides = [
            (&mut self.sqs, doorbell::SQ, true),
            (&mut self.rqs, doorbell::RQ, false),
        ];
        for (queues, offset, is_sq) in sides {
            for (id, wq) in queues.iter_mut() {
                let of = |l: &&LastCompleted| (l.is_sq, l.wq) == (is_sq, id);
                let done = last.iter().find(of).map(|l| l.end);
                wq.recover(doorbells.wq(offset, id), done);
            }
        }
        self.caution = Caution::after_failure(skip);
        last
    }
}
