//! The validation of a saved state, so that restoring from it cannot fail.

use alloc::collections::{BTreeMap, BTreeSet};

use device_kit::adapter::PortConfig;
use device_kit::envelope::{RestoreError, ensure};
use device_kit::fault_counter::COUNTABLE;
use mana_wire::bnic::{HASH_KEY_SIZE, Stats};
use mana_wire::oob::CqeType;
use mana_wire::queue::{CQE_SIZE, EQE_SIZE, MAX_MODERATION_USEC, OWNER_BITS, PAGE_SIZE, WQE_UNIT};

use super::{Cq, Hwc, Object, Pages, Queues, Regions, Ring, State, Steering, Vport, Wq};
use crate::limits::{
    CHANNEL_PAGES, MAX_CQS, MAX_EQS, MAX_INDIRECTION_ENTRIES, MAX_PAGES, MAX_REGION_PAGES,
    MAX_REGIONS, MAX_VECTORS, MAX_WQS,
};

/// More regions than a device makes in its lifetime.
const LAST_REGION: u64 = 1 << 48;

type Checked<T = ()> = Result<T, RestoreError>;

/// The saved queues by id, once they are checked.
struct ById<'a> {
    cqs: BTreeMap<u32, &'a Cq>,
    sqs: BTreeMap<u32, &'a Wq>,
    rqs: BTreeMap<u32, &'a Wq>,
}

impl State {
    /// Checks that a device with these ports can continue with the state.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Mismatch`] if it is the state of a device with other
    /// ports, [`RestoreError::Malformed`] if it contradicts itself.
    pub fn check(&self, ports: &[PortConfig]) -> Checked {
        let mut pages = self.regions.check()?;
        let queues = self.queues.check(&mut pages)?;
        if let Some(hwc) = &self.hwc {
            hwc.check(&queues)?;
        }
        if self.nic.vports.len() != ports.len() {
            return Err(RestoreError::Mismatch("it has another number of ports"));
        }
        for (vport, port) in self.nic.vports.iter().zip(ports) {
            vport.check(port)?;
        }
        self.check_objects(&queues, ports)?;
        let mut waiting = BTreeSet::new();
        for handle in &self.waiting {
            let objects = self.nic.objects.iter();
            let exists = objects.map(Object::handle).any(|other| other == *handle);
            ensure(exists, "an object that does not exist waits")?;
            ensure(waiting.insert(handle), "an object waits twice")?;
        }
        Ok(())
    }

    fn check_objects(&self, queues: &ById<'_>, ports: &[PortConfig]) -> Checked {
        let hwc = self.hwc.as_ref().map(|hwc| hwc.queues);
        let mut last = None;
        let mut places = BTreeSet::new();
        // A queue has one owner.
        let [_, cq, sq, rq] = hwc.map_or([None; 4], |ids| ids.map(Some));
        let mut cqs: BTreeSet<u32> = cq.into_iter().collect();
        let mut sqs: BTreeSet<u32> = sq.into_iter().collect();
        let mut rqs: BTreeSet<u32> = rq.into_iter().collect();
        for object in &self.nic.objects {
            ensure(last < Some(object.number), "objects out of order")?;
            last = Some(object.number);
            let was_made = object.number <= self.nic.sequence;
            ensure(was_made, "an object that was never made")?;
            let port = ports.get(object.vport as usize);
            let port = port.ok_or(RestoreError::Malformed("an object of no vport"))?;
            let has_queue = object.queue < port.queues.into();
            ensure(has_queue, "a queue number beyond the last")?;
            let has_cq = queues.cqs.contains_key(&object.cq) && cqs.insert(object.cq);
            ensure(has_cq, "an object without a completion queue of its own")?;
            let (is_send, wq, is_own) = match (&object.in_flight, &object.posted) {
                (Some(_), None) => (true, queues.sqs.get(&object.wq), sqs.insert(object.wq)),
                (None, Some(_)) => (false, queues.rqs.get(&object.wq), rqs.insert(object.wq)),
                _ => return Err(RestoreError::Malformed("an object of no direction")),
            };
            let wq = wq.filter(|_| is_own).ok_or(RestoreError::Malformed(
                "an object without a work queue of its own",
            ))?;
            let is_first = places.insert((object.vport, object.queue, is_send));
            ensure(is_first, "two objects for one queue")?;
            object.check(wq)?;
        }
        Ok(())
    }
}

impl Regions {
    /// Checks the regions. Returns how many pages they have.
    fn check(&self) -> Checked<usize> {
        ensure(self.regions.len() <= MAX_REGIONS, "too many regions")?;
        ensure(self.sequence < LAST_REGION, "an impossible region")?;
        let (mut last, mut pages) = (0, 0);
        for region in &self.regions {
            let in_order = region.number > last && region.number <= self.sequence;
            ensure(in_order, "regions out of order")?;
            last = region.number;
            ensure(region.shape().check().is_ok(), "an impossible region")?;
            let count = count(&region.pages)?;
            ensure(count <= region.page_count as usize, "too many pages")?;
            pages += region.page_count as usize;
            check_account(pages)?;
        }
        Ok(pages)
    }
}

/// Returns how many pages there are.
fn count(pages: &Pages) -> Checked<usize> {
    let count = pages.count();
    count.ok_or(RestoreError::Malformed("a page beyond all memory"))
}

/// Checks the number of pages of all regions and queues. The channel's own pages do not
/// count.
fn check_account(pages: usize) -> Checked {
    ensure(pages <= MAX_PAGES + CHANNEL_PAGES, "too many pages")
}

/// Checks the pages of a queue, and adds their number to `all`. Returns its size in
/// bytes.
fn check_memory(pages: &Pages, all: &mut usize) -> Checked<u32> {
    let count = count(pages)?;
    ensure(count <= MAX_REGION_PAGES as usize, "too many pages")?;
    ensure(count.is_power_of_two(), "an impossible queue size")?;
    *all += count;
    check_account(*all)?;
    Ok(count as u32 * PAGE_SIZE)
}

/// Checks a queue's id, and adds the queue to `map`.
fn check_id<'a, T>(map: &mut BTreeMap<u32, &'a T>, id: u32, max: usize, queue: &'a T) -> Checked {
    let is_possible = (1..=max).contains(&(id as usize));
    let is_free = is_possible && map.insert(id, queue).is_none();
    ensure(is_free, "a queue's id is impossible or taken")
}

impl Queues {
    fn check(&self, pages: &mut usize) -> Checked<ById<'_>> {
        let mut eqs = BTreeMap::new();
        let mut by_id = ById {
            cqs: BTreeMap::new(),
            sqs: BTreeMap::new(),
            rqs: BTreeMap::new(),
        };
        for eq in &self.eqs {
            ensure(eq.vector < MAX_VECTORS, "a vector beyond the table")?;
            let entries = check_memory(&eq.ring.pages, pages)? / EQE_SIZE;
            eq.ring.check(entries)?;
            for (_, within) in eq.due.iter().chain(&eq.raised) {
                check_usec(within.unwrap_or_default())?;
            }
            check_id(&mut eqs, eq.id, MAX_EQS, eq)?;
        }
        for cq in &self.cqs {
            let reports = cq.eq.is_none_or(|eq| eqs.contains_key(&eq));
            ensure(reports, "a completion queue without its event queue")?;
            cq.check(check_memory(&cq.ring.pages, pages)? / CQE_SIZE)?;
            check_id(&mut by_id.cqs, cq.id, MAX_CQS, cq)?;
        }
        for wq in &self.sqs {
            wq.check(check_memory(&wq.pages, pages)?)?;
            check_id(&mut by_id.sqs, wq.id, MAX_WQS, wq)?;
        }
        for wq in &self.rqs {
            wq.check(check_memory(&wq.pages, pages)?)?;
            check_id(&mut by_id.rqs, wq.id, MAX_WQS, wq)?;
        }
        Ok(by_id)
    }
}

/// Checks how long an interrupt waits.
fn check_usec(usec: u16) -> Checked {
    let is_possible = usec <= MAX_MODERATION_USEC;
    ensure(
        is_possible,
        "an interrupt that waits longer than a driver can ask for",
    )
}

/// Returns the last count of a ring before counts wrap.
fn last_count(entries: u32) -> u32 {
    (entries << OWNER_BITS) - 1
}

impl Ring {
    fn check(&self, entries: u32) -> Checked {
        let is_possible = self.producer.max(self.consumer) <= last_count(entries);
        ensure(is_possible, "a ring's position beyond its last lap")
    }
}

impl Cq {
    fn check(&self, entries: u32) -> Checked {
        self.ring.check(entries)?;
        check_usec(self.moderation.map_or(0, |(_, usec)| usec))?;
        let room = self.room.unwrap_or(entries);
        ensure(room <= entries, "more room in a ring than it has entries")?;
        let pending = self.ring.producer.wrapping_sub(self.ring.consumer) & last_count(entries);
        let counts = self.completed.iter().map(|(_, count)| u64::from(*count));
        ensure(
            counts.sum::<u64>() == u64::from(pending.min(entries)),
            "a completion queue's history of another length",
        )
    }
}

impl Wq {
    fn check(&self, size: u32) -> Checked {
        let held = self.producer.wrapping_sub(self.completed);
        let read = self.read.wrapping_sub(self.completed);
        let is_whole = [self.producer, self.read, self.completed]
            .iter()
            .all(|position| position.is_multiple_of(WQE_UNIT));
        ensure(
            is_whole && held <= size && read <= held,
            "a work queue's positions contradict each other",
        )
    }
}

impl Hwc {
    fn check(&self, queues: &ById<'_>) -> Checked {
        let [eq, cq, sq, rq] = self.queues;
        let reports = queues.cqs.get(&cq).is_some_and(|cq| cq.eq == Some(eq));
        ensure(
            reports && queues.sqs.contains_key(&sq) && queues.rqs.contains_key(&rq),
            "a hardware channel without its queues",
        )?;
        let is_countable = self.answered.0.max(self.answered.1) < COUNTABLE;
        ensure(is_countable, "impossible counters")
    }
}

impl Vport {
    fn check(&self, port: &PortConfig) -> Checked {
        if self.mac != port.mac {
            return Err(RestoreError::Mismatch("a port has another MAC address"));
        }
        if self.mtu != port.mtu {
            return Err(RestoreError::Mismatch("a port has another MTU"));
        }
        self.steering.check()?;
        let is_countable = self.stats.iter().all(|count| *count < COUNTABLE);
        ensure(is_countable, "impossible counters")?;
        let has_all = self.stats.len() == size_of::<Stats>() / size_of::<u64>();
        ensure(has_all, "counters of another number")
    }
}

impl Steering {
    fn check(&self) -> Checked {
        let most = usize::from(MAX_INDIRECTION_ENTRIES);
        ensure(self.table.len() <= most, "a long indirection table")?;
        ensure(
            self.hash_key.len() == HASH_KEY_SIZE,
            "a hash key of another length",
        )
    }
}

impl Object {
    /// Checks that its WQEs are exactly those that were read and not completed.
    fn check(&self, wq: &Wq) -> Checked {
        let in_flight = self.in_flight.iter().flatten().map(|packet| packet.units);
        let posted = self.posted.iter().flatten();
        let units = in_flight.chain(posted.map(|buffer| buffer.unsigned_abs()));
        let mut left = wq.read.wrapping_sub(wq.completed) / WQE_UNIT;
        for units in units {
            let is_possible = (1..=left).contains(&units);
            ensure(is_possible, "more entries than were read")?;
            left -= units;
        }
        ensure(left == 0, "fewer entries than were read")?;
        let outcomes = self.in_flight.iter().flatten().filter_map(|it| it.outcome);
        let mut outcomes = outcomes.map(CqeType::of_transmit);
        ensure(
            outcomes.all(|outcome| outcome.is_some()),
            "a transmit with an impossible end",
        )
    }
}
