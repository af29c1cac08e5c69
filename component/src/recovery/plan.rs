//! Where each queue continues.

use alloc::vec::Vec;

use super::evidence::{Completed, Evidence, Produced};
use crate::gdma::ids::{CqId, EqId, SqId, WqId};
use crate::gdma::journal::Record;
use crate::gdma::queue::position::Position;
use crate::gdma::queues::Queues;

/// The most work queues that share a completion queue: the hardware channel's two.
const MAX_WQS_OF_A_CQ: usize = 2;

/// The WQE of a request that was answered after the state was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsaved {
    /// Where it begins.
    pub position: u32,
    /// Where it ends.
    pub end: u32,
}

/// Where each queue continues.
#[derive(Debug)]
pub struct Plan {
    eqs: Vec<(EqId, Position)>,
    cqs: Vec<CqPlan>,
    wqs: Vec<WqPlan>,
    /// A request to be replayed.
    pub unsaved: Option<Unsaved>,
}

#[derive(Debug)]
struct CqPlan {
    id: CqId,
    position: Position,
    /// The end positions of the WQEs that the newest CQEs completed, the newest first.
    ends: Vec<u32>,
}

#[derive(Debug)]
struct WqPlan {
    id: WqId,
    producer: Option<u32>,
    completed: Option<u32>,
}

impl Plan {
    /// Makes a plan for the restored queues; `channel` is the send queue of the
    /// hardware channel.
    pub fn make(queues: &mut Queues, evidence: &Evidence, channel: Option<SqId>) -> Self {
        let last: Vec<_> = evidence.cqs.iter().flat_map(|(_, it)| newest(it)).collect();
        let last = |wq: WqId| {
            let mut found = last.iter().filter(|(id, _)| *id == wq);
            found.next().map(|(_, record)| *record)
        };
        let mut plan = Self {
            eqs: Vec::new(),
            cqs: Vec::new(),
            wqs: Vec::new(),
            unsaved: None,
        };
        for (id, produced) in &evidence.eqs {
            let eq = queues.eq(*id).expect("a queue with evidence");
            plan.eqs.push((*id, eq_position(eq.position, produced)));
        }
        for (id, produced) in &evidence.cqs {
            let cq = queues.cq(*id).expect("a queue with evidence");
            let (_, saved) = cq.position.counts();
            let consumer = produced.consumer.unwrap_or(saved);
            let mut position = cq.position.recover(produced.producer, consumer);
            position.work_announced();
            let ends = produced.completed.iter().map(|it| it.record.end);
            plan.cqs.push(CqPlan {
                id: *id,
                position,
                ends: ends.collect(),
            });
        }
        for (id, wq) in queues.wqs_mut() {
            let mut producers = evidence.producers.iter();
            let producer = producers.find(|(wq, _)| *wq == id).map(|it| it.1);
            let record = last(id);
            if channel.map(WqId::Sq) == Some(id) {
                let saved = wq.positions().completed;
                plan.unsaved = record.and_then(|record| unsaved(record, saved));
            }
            plan.wqs.push(WqPlan {
                id,
                producer,
                completed: record.map(|record| record.end),
            });
        }
        plan
    }

    /// Moves the queues to where they continue.
    pub fn carry_out(&self, queues: &mut Queues) {
        for (id, position) in &self.eqs {
            let eq = queues.eq(*id).expect("a queue of the plan");
            eq.position = *position;
            eq.arm_again();
        }
        for it in &self.cqs {
            let cq = queues.cq(it.id).expect("a queue of the plan");
            cq.position = it.position;
            cq.arm_again();
            for (back, end) in (1..).zip(&it.ends) {
                cq.note_completed(back, *end);
            }
        }
        for it in &self.wqs {
            let wq = queues.wq(it.id).expect("a queue of the plan");
            wq.recover(it.producer, it.completed);
        }
    }
}

/// Returns the newest record of each work queue that a completion queue reports
/// for.
fn newest(produced: &Produced) -> Vec<(WqId, Record)> {
    let mut newest: Vec<(WqId, Record)> = Vec::new();
    for Completed { wq, record } in &produced.completed {
        let Some(wq) = *wq else { continue };
        let is_known = newest.iter().any(|(known, _)| *known == wq);
        if !is_known && newest.len() < MAX_WQS_OF_A_CQ {
            newest.push((wq, *record));
        }
    }
    newest
}

/// Returns where an event queue continues. No event overwrites an unconsumed one, so no
/// more can be pending than fit: a consumer that implies more was ignored.
fn eq_position(saved: Position, produced: &Produced) -> Position {
    let (_, consumer) = saved.counts();
    let consumer = produced.consumer.unwrap_or(consumer);
    let position = saved.recover(produced.producer, consumer);
    if position.pending() > position.entries() {
        saved.recover(produced.producer, produced.producer)
    } else {
        position
    }
}

/// Returns the last answered request, if it may have changed the configuration and is
/// not in the state, which knows requests up to the position `saved`.
fn unsaved(record: Record, saved: u32) -> Option<Unsaved> {
    let position = record.change_position()?;
    let end = record.end;
    (end != saved).then_some(Unsaved { position, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gdma::queue::position::Position;

    /// The last doorbell may have been ignored: it must not make the queue look full.
    #[test]
    fn an_event_queue_recovers_from_any_last_doorbell() {
        let entries = 256;
        for posted in [0, 1, 100, 255] {
            let producer = entries + posted;
            for said in (0..10 * entries).chain([u32::MAX, 1 << 31]) {
                let produced = Produced {
                    producer,
                    consumer: Some(said),
                    completed: Vec::new(),
                };
                let position = eq_position(Position::new(entries), &produced);
                let pending = producer.wrapping_sub(said) % (8 * entries);
                let is_possible = said < 8 * entries && pending <= entries;
                assert_eq!(position.pending(), if is_possible { pending } else { 0 });
                assert_eq!(position.is_full(), is_possible && pending == entries);
            }
        }
    }
}
