//! Saving and restoring the NIC.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use super::objects::{Work, WqObject};
use super::posted::Run;
use super::{MAX_QUEUES, Nic, Steering, Vport, tx};
use crate::gdma::queues::Queues;
use crate::gdma::wq::{Client, Wq};
use crate::state as saved;
use device_kit::FaultCounter;
use device_kit::envelope::{RestoreError, ensure};
use device_kit::fault_counter::COUNTABLE;
use mana_wire::bnic::{INDIRECTION_ENTRIES, Stats};
use mana_wire::oob::CqeType;
use mana_wire::queue::{QueueType, WQE_UNIT};

impl Nic {
    /// The NIC, to be saved.
    pub fn save(&self) -> saved::Nic {
        let mut objects: Vec<_> = self.objects.iter().map(|(_, o)| save_object(o)).collect();
        objects.sort_by_key(|object| object.number);
        saved::Nic {
            registered: self.registered,
            sequence: self.sequence,
            vports: self.vports.iter().map(save_vport).collect(),
            objects,
        }
    }

    /// Takes over what was saved; the queues exist already, one of which is
    /// the hardware channel's, and the vports are as they were configured.
    ///
    /// # Errors
    ///
    /// [`RestoreError`].
    pub fn restore(
        &mut self,
        queues: &mut Queues,
        channel_cq: Option<u32>,
        saved: &saved::Nic,
    ) -> Result<(), RestoreError> {
        if saved.vports.len() != self.vports.len() {
            return Err(RestoreError::Mismatch("it has another number of ports"));
        }
        for (vport, saved) in self.vports.iter_mut().zip(&saved.vports) {
            restore_vport(vport, saved)?;
        }
        self.registered = saved.registered;
        self.sequence = saved.sequence;
        let mut last = None;
        for object in &saved.objects {
            ensure(last < Some(object.number), "objects out of order")?;
            last = Some(object.number);
            let known = object.number <= saved.sequence;
            ensure(known, "an object that was never made")?;
            self.restore_object(queues, channel_cq, object)?;
        }
        Ok(())
    }

    fn restore_object(
        &mut self,
        queues: &mut Queues,
        channel_cq: Option<u32>,
        saved: &saved::Object,
    ) -> Result<(), RestoreError> {
        let vport = saved.vport as usize;
        ensure(vport < self.vports.len(), "an object of no vport")?;
        ensure(saved.queue < MAX_QUEUES, "a queue number beyond the last")?;
        let has_cq = channel_cq != Some(saved.cq)
            && queues.cq(saved.cq).is_some()
            && !self.uses_cq(saved.cq);
        ensure(has_cq, "an object without a completion queue of its own")?;
        let (queue_type, wq) = match (&saved.in_flight, &saved.posted) {
            (Some(_), None) => (QueueType::Sq, queues.sq(saved.wq)),
            (None, Some(_)) => (QueueType::Rq, queues.rq(saved.wq)),
            _ => return Err(RestoreError::Malformed("an object of no direction")),
        };
        let Some(wq) = wq.filter(|wq| wq.client == Client::None) else {
            return Err(RestoreError::Malformed(
                "an object without a work queue of its own",
            ));
        };
        let taken = self.find(vport, saved.queue, queue_type).is_some();
        ensure(!taken, "two objects for one queue")?;
        let object = WqObject {
            vport,
            queue: saved.queue,
            wq: saved.wq,
            cq: saved.cq,
            work: restore_work(wq, saved)?,
            number: saved.number,
        };
        wq.client = Client::Nic(self.objects.insert(object));
        Ok(())
    }
}

fn save_vport(vport: &Vport) -> saved::Vport {
    let words = <[u64]>::ref_from_bytes(vport.stats.as_bytes()).unwrap_or_default();
    saved::Vport {
        mac: vport.config.mac,
        mtu: vport.config.mtu,
        tx_enabled: vport.tx_enabled,
        steering: saved::Steering {
            enabled: vport.steering.enabled,
            rss: vport.steering.rss,
            default_object: vport.steering.default_object,
            hash_key: vport.steering.hash_key.to_vec(),
            table: vport.steering.table.clone(),
        },
        serial_no: vport.serial_no,
        filter_to_vtl0: vport.filter_to_vtl0,
        stats: words.to_vec(),
        faults: vport.faults.count(),
        link_up: vport.config.link_up,
    }
}

fn restore_vport(vport: &mut Vport, saved: &saved::Vport) -> Result<(), RestoreError> {
    if saved.mac != vport.config.mac {
        return Err(RestoreError::Mismatch("a port has another MAC address"));
    }
    if saved.mtu != vport.config.mtu {
        return Err(RestoreError::Mismatch("a port has another MTU"));
    }
    vport.config.link_up = saved.link_up;
    vport.tx_enabled = saved.tx_enabled;
    vport.steering = restore_steering(&saved.steering)?;
    vport.serial_no = saved.serial_no;
    vport.filter_to_vtl0 = saved.filter_to_vtl0;
    let countable = saved.stats.iter().all(|count| *count < COUNTABLE);
    ensure(countable, "impossible counters")?;
    let stats = Stats::read_from_bytes(saved.stats.as_bytes());
    vport.stats = stats.map_err(|_| RestoreError::Malformed("counters of another number"))?;
    vport.faults = FaultCounter::from_count(saved.faults);
    Ok(())
}

fn restore_steering(saved: &saved::Steering) -> Result<Steering, RestoreError> {
    let most = usize::from(INDIRECTION_ENTRIES);
    ensure(saved.table.len() <= most, "a long indirection table")?;
    let hash_key = saved.hash_key.as_slice().try_into();
    Ok(Steering {
        enabled: saved.enabled,
        rss: saved.rss,
        default_object: saved.default_object,
        hash_key: hash_key.map_err(|_| RestoreError::Malformed("a hash key of another length"))?,
        table: saved.table.clone(),
    })
}

fn units(position: u32, end: u32) -> u32 {
    end.wrapping_sub(position) / WQE_UNIT
}

fn save_object(object: &WqObject) -> saved::Object {
    let (in_flight, posted) = match &object.work {
        Work::Send { in_flight, .. } => (Some(in_flight.iter().map(save_transmit).collect()), None),
        Work::Receive { posted } => (None, Some(posted.iter().map(save_buffer).collect())),
    };
    saved::Object {
        number: object.number,
        vport: object.vport as u32,
        queue: object.queue,
        wq: object.wq,
        cq: object.cq,
        in_flight,
        posted,
        handed_over: match object.work {
            Work::Send { handed_over, .. } => handed_over,
            Work::Receive { .. } => None,
        },
    }
}

fn save_transmit(packet: &tx::InFlight) -> saved::InFlight {
    saved::InFlight {
        units: units(packet.position, packet.end),
        length: packet.length,
        suppress: packet.suppress,
        outcome: packet.outcome.map(|outcome| outcome as u8),
    }
}

fn save_buffer(buffer: Run) -> saved::Posted {
    let units = (buffer.size / WQE_UNIT).cast_signed();
    if buffer.bad { -units } else { units }
}

/// Walks the entries from the oldest that is not completed on; together they
/// are all that was read.
struct Walk {
    at: u32,
    left: u32,
}

impl Walk {
    fn of(wq: &Wq) -> Self {
        let (_, next, done) = wq.positions();
        Self {
            at: done,
            left: next.wrapping_sub(done),
        }
    }

    /// Passes an entry and returns where it begins and ends.
    fn pass(&mut self, units: u32) -> Result<(u32, u32), RestoreError> {
        let length = units.checked_mul(WQE_UNIT);
        let left = length.and_then(|length| self.left.checked_sub(length));
        let (Some(left), 1..) = (left, units) else {
            return Err(RestoreError::Malformed("more entries than were read"));
        };
        let position = self.at;
        self.at = position.wrapping_add(units * WQE_UNIT);
        self.left = left;
        Ok((position, self.at))
    }

    fn end(self) -> Result<(), RestoreError> {
        ensure(self.left == 0, "fewer entries than were read")
    }
}

fn restore_work(wq: &Wq, saved: &saved::Object) -> Result<Work, RestoreError> {
    let mut walk = Walk::of(wq);
    let work = match &saved.in_flight {
        Some(in_flight) => {
            let packets = in_flight
                .iter()
                .map(|packet| restore_transmit(&mut walk, packet));
            let in_flight = packets.collect::<Result<VecDeque<_>, _>>()?;
            Work::Send {
                in_flight,
                handed_over: saved.handed_over,
            }
        }
        None => {
            let buffers = saved.posted.iter().flatten();
            let buffers = buffers.map(|buffer| restore_buffer(&mut walk, *buffer));
            let posted = buffers.collect::<Result<_, _>>()?;
            Work::Receive { posted }
        }
    };
    walk.end()?;
    Ok(work)
}

fn restore_transmit(
    walk: &mut Walk,
    saved: &saved::InFlight,
) -> Result<tx::InFlight, RestoreError> {
    let (position, end) = walk.pass(saved.units)?;
    let outcome = match saved.outcome {
        None => None,
        Some(value) => Some(
            CqeType::of_transmit(value)
                .ok_or(RestoreError::Malformed("a transmit with an impossible end"))?,
        ),
    };
    Ok(tx::InFlight {
        position,
        end,
        length: saved.length,
        suppress: saved.suppress,
        outcome,
    })
}

fn restore_buffer(walk: &mut Walk, saved: saved::Posted) -> Result<Run, RestoreError> {
    let (position, end) = walk.pass(saved.unsigned_abs())?;
    Ok(Run::of_one(position, end, saved < 0))
}
