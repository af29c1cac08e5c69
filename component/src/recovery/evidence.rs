//! How far all queues had got when a predecessor failed, according to the guest's rings
//! and the last doorbells.

use alloc::vec::Vec;

use device_kit::Platform;
use device_kit::platform::Observations;
use device_kit::ring::Ring;
use mana_wire::queue::{
    CQE_SIZE, CqeInfo, DimDoorbell, EQE_SIZE, RingDoorbell, WqDoorbell, doorbell,
};
use mana_wire::registers::DOORBELLS;

use crate::gdma::ids::{CqId, EqId, RqId, SqId, WqId};
use crate::gdma::journal::{self, Record};
use crate::gdma::queue::position::find_producer;
use crate::gdma::queues::Queues;

/// What is known about the queues beyond the state.
#[derive(Debug)]
pub struct Evidence {
    /// About event queues.
    pub eqs: Vec<(EqId, Produced)>,
    /// About completion queues.
    pub cqs: Vec<(CqId, Produced)>,
    /// The producer of each work queue in its last doorbell.
    pub producers: Vec<(WqId, u32)>,
    /// The last doorbell that set a completion queue's moderation.
    pub moderated: Vec<(CqId, DimDoorbell)>,
}

/// What is known about a ring that the device writes. There is none for a ring whose
/// memory is gone.
#[derive(Debug)]
pub struct Produced {
    /// The count of the next entry, which includes its lap.
    pub producer: u32,
    /// The consumer in the last doorbell, if there was one since the state was saved.
    pub consumer: Option<u32>,
    /// The records of the CQEs, the newest first.
    pub completed: Vec<Completed>,
}

/// The record of a CQE, and its work queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The work queue; None if the CQE was never written.
    pub wq: Option<WqId>,
    /// Its record.
    pub record: Record,
}

impl Evidence {
    /// Gathers the evidence.
    pub fn gather(platform: &mut impl Platform, queues: &mut Queues, seen: &Observations) -> Self {
        let bells = Doorbells::of(seen);
        let mut eqs = Vec::new();
        for (id, eq) in queues.eqs_mut() {
            if let Some(producer) = find_producer(&mut eq.ring, platform, EQE_SIZE) {
                let produced = Produced {
                    producer,
                    consumer: bells.consumer(doorbell::EQ, id.0),
                    completed: Vec::new(),
                };
                eqs.push((id, produced));
            }
        }
        let mut cqs = Vec::new();
        let mut moderated = Vec::new();
        for (id, cq) in queues.cqs_mut() {
            moderated.extend(bells.moderation(id).map(|bell| (id, bell)));
            if let Some(producer) = find_producer(&mut cq.ring, platform, CQE_SIZE) {
                let produced = Produced {
                    producer,
                    consumer: bells.consumer(doorbell::CQ, id.0),
                    completed: read_records(&mut cq.ring, platform, producer),
                };
                cqs.push((id, produced));
            }
        }
        let mut producers = Vec::new();
        for (wq, _) in queues.wqs_mut() {
            let offset = if wq.is_sq() {
                doorbell::SQ
            } else {
                doorbell::RQ
            };
            let producer = bells.producer(offset, wq.number());
            producers.extend(producer.map(|producer| (wq, producer)));
        }
        Self {
            eqs,
            cqs,
            producers,
            moderated,
        }
    }
}

/// Reads the records in a completion queue from the newest back to the oldest, as far
/// as its memory is readable.
fn read_records(ring: &mut Ring, platform: &mut impl Platform, producer: u32) -> Vec<Completed> {
    let entries = ring.size() / CQE_SIZE;
    let mut record = |back: u32| {
        let index = producer.wrapping_sub(back) & (entries - 1);
        let at = index * CQE_SIZE + 8 * journal::WORD as u32;
        let mut words = [0; 2];
        let view = ring.view(platform, at, 16).ok()?;
        let info = view
            .copy_to(&mut words)
            .then(|| CqeInfo::from_bits((words[1] >> 32) as u32))?;
        let wq = match info.is_sq() {
            true => WqId::Sq(SqId(info.wq_num())),
            false => WqId::Rq(RqId(info.wq_num())),
        };
        Some(Completed {
            wq: Some(wq).filter(|wq| wq.number() != 0),
            record: Record::from_word(words[0]),
        })
    };
    (1..=entries).map_while(&mut record).collect()
}

/// The last doorbells of a device: offset in the doorbell page, and value.
struct Doorbells(Vec<(u64, u64)>);

impl Doorbells {
    fn of(seen: &Observations) -> Self {
        let bells = seen.doorbells.iter().filter(|write| write.bar == 0);
        let bells = bells.map(|write| (write.offset.checked_sub(DOORBELLS), write.value));
        Self(
            bells
                .filter_map(|(offset, value)| Some((offset?, value)))
                .collect(),
        )
    }

    /// Returns the value of the last doorbell at an offset with an id.
    fn last(&self, offset: u64, id: u32, id_of: impl Fn(u64) -> u32) -> Option<u64> {
        let mut bells = self.0.iter().rev();
        let last = bells.find(|(at, value)| *at == offset && id_of(*value) == id);
        last.map(|(_, value)| *value)
    }

    fn consumer(&self, offset: u64, id: u32) -> Option<u32> {
        let value = self.last(offset, id, |value| RingDoorbell::from_bits(value).id())?;
        Some(RingDoorbell::from_bits(value).tail())
    }

    fn moderation(&self, id: CqId) -> Option<DimDoorbell> {
        let id_of = |value| DimDoorbell::from_bits(value).id();
        let value = self.last(doorbell::DIM, id.0, id_of)?;
        Some(DimDoorbell::from_bits(value))
    }

    fn producer(&self, offset: u64, id: u32) -> Option<u32> {
        let value = self.last(offset, id, |value| WqDoorbell::from_bits(value).id())?;
        Some(WqDoorbell::from_bits(value).tail())
    }
}
