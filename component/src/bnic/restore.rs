//! Saving and resuming the NIC.

use alloc::vec::Vec;

use device_kit::FaultCounter;
use mana_wire::bnic::Stats;
use mana_wire::oob::CqeType;
use mana_wire::queue::WQE_UNIT;
use zerocopy::{FromBytes, IntoBytes};

use super::ledger::{Ledger, Run};
use super::port::Port;
use super::rx::{Buffer, ReceiveQueue};
use super::steering::Steering;
use super::tx::SendQueue;
use super::tx::transmit::{Outcome, Transmit};
use super::vport::Vport;
use super::{Nic, QueueKey};
use crate::gdma::ids::{CqId, RqId, SqId, WqId};
use crate::gdma::queue::wq::{Direction, Owner};
use crate::gdma::queues::Queues;
use crate::gdma::resources::Registration;
use crate::state::{self as saved, object_handle, object_number};

impl Nic {
    /// Returns the NIC to be saved.
    pub fn save(&self, registration: Registration) -> saved::Nic {
        let mut objects = Vec::with_capacity(self.objects.len());
        for vport in &self.vports {
            let index = vport.port.index;
            let send = vport.send.iter().flatten();
            objects.extend(send.map(|queue| queue.save(index)));
            let receive = vport.receive.iter().flatten();
            objects.extend(receive.map(|queue| queue.save(index)));
        }
        objects.sort_by_key(|object| object.number);
        saved::Nic {
            registered: registration.is_registered(),
            sequence: self.sequence,
            vports: self.vports.iter().map(|it| it.port.save()).collect(),
            objects,
        }
    }

    /// Returns the handles of the queues that wait for their turn, to be saved.
    pub fn save_waiting(&self) -> Vec<u64> {
        let handle =
            |key: &QueueKey| object_handle(self.vports[usize::from(key.vport)].object(*key));
        self.waiting.iter().map(handle).collect()
    }

    /// Continues with what was saved and checked; the queues exist already, and
    /// the vports are as they were configured.
    pub fn resume(&mut self, queues: &mut Queues, saved: &saved::Nic, waiting: &[u64]) {
        for (vport, saved) in self.vports.iter_mut().zip(&saved.vports) {
            vport.port.resume(saved);
        }
        self.sequence = saved.sequence;
        for object in &saved.objects {
            self.resume_object(queues, object);
        }
        for handle in waiting {
            let key = object_number(*handle).and_then(|number| self.objects.get(&number));
            let key = *key.expect("an object that was checked");
            self.set_waiting(key, true);
            self.waiting.push(key);
        }
    }

    fn resume_object(&mut self, queues: &mut Queues, saved: &saved::Object) {
        let (direction, wq) = match saved.in_flight {
            Some(_) => (Direction::Send, WqId::Sq(SqId(saved.wq))),
            None => (Direction::Receive, WqId::Rq(RqId(saved.wq))),
        };
        let key = QueueKey {
            direction,
            vport: saved.vport as u16,
            queue: saved.queue as u16,
        };
        let cq = CqId(saved.cq);
        self.add(key, saved.number, wq, cq);
        queues.cq(cq).expect("a queue that was checked").is_used = true;
        let wq = queues.read(wq).wq;
        wq.owner = Owner::Nic(key.into_bits());
        let completed = wq.positions().completed;
        let Vport { send, receive, .. } = &mut self.vports[usize::from(key.vport)];
        let index = usize::from(key.queue);
        match direction {
            Direction::Send => {
                let queue = send[index].as_mut().expect("a new queue");
                queue.resume(completed, saved);
            }
            Direction::Receive => {
                let queue = receive[index].as_mut().expect("a new queue");
                queue.resume(completed, saved);
            }
        }
    }
}

impl Vport {
    /// Returns the number of the object of a queue that exists.
    fn object(&self, key: QueueKey) -> u32 {
        let queue = usize::from(key.queue);
        let object = match key.direction {
            Direction::Send => self.send[queue].as_ref().map(|it| it.object),
            Direction::Receive => self.receive[queue].as_ref().map(|it| it.object),
        };
        object.expect("a queue by its key")
    }
}

impl Port {
    fn save(&self) -> saved::Vport {
        let words = <[u64]>::ref_from_bytes(self.stats.stats.as_bytes()).unwrap_or_default();
        saved::Vport {
            mac: self.config.mac,
            mtu: self.config.mtu,
            tx_enabled: self.tx_enabled,
            steering: saved::Steering {
                enabled: self.steering.enabled,
                rss: self.steering.rss,
                default_object: self.steering.default_object,
                hash_key: self.steering.hash_key.to_vec(),
                table: self.steering.table.clone(),
                coalesces: self.steering.coalesces.then_some(true),
            },
            serial_no: self.serial_no,
            filter_to_vtl0: self.filter_to_vtl0,
            stats: words.to_vec(),
            faults: self.stats.faults.count(),
            link_up: self.config.link_up,
            clamp: self.clamp,
        }
    }

    fn resume(&mut self, saved: &saved::Vport) {
        self.config.link_up = saved.link_up;
        self.tx_enabled = saved.tx_enabled;
        self.steering = Steering {
            enabled: saved.steering.enabled,
            rss: saved.steering.rss,
            default_object: saved.steering.default_object,
            hash_key: array_of(&saved.steering.hash_key),
            table: saved.steering.table.clone(),
            coalesces: saved.steering.coalesces.unwrap_or_default(),
        };
        self.clamp = saved.clamp;
        self.serial_no = saved.serial_no;
        self.filter_to_vtl0 = saved.filter_to_vtl0;
        let stats = Stats::read_from_bytes(saved.stats.as_bytes());
        self.stats.stats = stats.expect("counters that were checked");
        self.stats.faults = FaultCounter::from_count(saved.faults);
    }
}

fn array_of<const LENGTH: usize>(bytes: &[u8]) -> [u8; LENGTH] {
    bytes.try_into().expect("a hash key that was checked")
}

fn units<T>(run: &Run<T>) -> u32 {
    run.size / WQE_UNIT
}

/// Returns runs of consecutive WQEs with these lengths in units.
fn lay_out<T: Copy + PartialEq>(
    mut position: u32,
    entries: impl Iterator<Item = (u32, T)>,
) -> Ledger<T> {
    let runs = entries.map(|(units, known)| {
        let begin = position;
        position = begin.wrapping_add(units * WQE_UNIT);
        Run::of_one(begin, position, known)
    });
    runs.collect()
}

impl SendQueue {
    fn save(&self, vport: u32) -> saved::Object {
        let transmit = |run: Run<Transmit>| {
            let Transmit { length, completion } = run.known;
            saved::InFlight {
                units: units(&run),
                length,
                suppress: completion.suppress,
                outcome: completion.cqe_type.map(|outcome| outcome as u8),
            }
        };
        saved::Object {
            number: self.object,
            vport,
            queue: self.number.into(),
            wq: self.sq.0,
            cq: self.cq.0,
            in_flight: Some(self.ledger.iter().map(transmit).collect()),
            posted: None,
            handed_over: self.handed_over,
        }
    }

    fn resume(&mut self, completed: u32, saved: &saved::Object) {
        let transmits = saved.in_flight.iter().flatten().map(|it| {
            let completion = Outcome {
                cqe_type: it.outcome.and_then(CqeType::of_transmit),
                suppress: it.suppress,
            };
            let length = it.length;
            (it.units, Transmit { length, completion })
        });
        self.ledger = lay_out(completed, transmits);
        self.handed_over = saved.handed_over;
    }
}

impl ReceiveQueue {
    fn save(&self, vport: u32) -> saved::Object {
        let buffer = |run: Run<Buffer>| {
            let units = units(&run).cast_signed();
            match run.known {
                Buffer::Posted => units,
                Buffer::Malformed => -units,
            }
        };
        saved::Object {
            number: self.object,
            vport,
            queue: self.number.into(),
            wq: self.rq.0,
            cq: self.cq.0,
            in_flight: None,
            posted: Some(self.ledger.iter().map(buffer).collect()),
            handed_over: None,
        }
    }

    fn resume(&mut self, completed: u32, saved: &saved::Object) {
        let buffers = saved.posted.iter().flatten().map(|units| {
            let known = if *units < 0 {
                Buffer::Malformed
            } else {
                Buffer::Posted
            };
            (units.unsigned_abs(), known)
        });
        self.ledger = lay_out(completed, buffers);
    }
}
