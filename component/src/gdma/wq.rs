//! Work queues: where the driver posts what the device is to do.

use zerocopy::{FromBytes, IntoBytes};

use crate::state::{self as saved, Pages};
use device_kit::FaultCounter;
use device_kit::envelope::RestoreError;
use device_kit::platform::Platform;
use device_kit::ring::Ring;
use mana_wire::queue::{MAX_RQE_SIZE, MAX_SQE_SIZE, Sge, WQE_UNIT, WqeHeader};

/// Which way a work queue works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A send queue.
    Send,
    /// A receive queue.
    Receive,
}

/// Who works on a queue's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Nobody: made by `CREATE_QUEUE` and not part of an object.
    None,
    /// The hardware channel.
    Hwc,
    /// The NIC's work queue object with this key.
    Nic(usize),
}

/// A send or receive queue.
#[derive(Debug)]
pub struct Wq {
    /// Who is told of doorbells.
    pub client: Client,
    /// Its memory.
    pub ring: Ring,
    direction: Direction,
    /// Bytes that the driver posted, modulo 2^32, as all positions here.
    tail: u32,
    /// Bytes that the device has read.
    next: u32,
    /// Bytes that the device has completed.
    done: u32,
    /// The driver announced work since a completion was last posted.
    announced: bool,
    /// Doorbells that made no sense.
    pub bad_doorbells: FaultCounter,
    /// Entries that made no sense.
    pub malformed: FaultCounter,
}

/// A copy of a work queue entry, checked against its queue.
#[derive(Debug)]
pub struct Entry {
    words: [u64; (MAX_SQE_SIZE / 8) as usize],
    header: WqeHeader,
    /// Where it begins.
    pub position: u32,
    /// Where it ends.
    pub end: u32,
}

/// The first unit of an entry.
pub type Unit = [u64; (WQE_UNIT / 8) as usize];

/// An entry of one unit, if it is of the most common shape: with an inline OOB
/// of 8 bytes and one SGE.
#[derive(Clone, Copy, Debug)]
pub struct Simple {
    header: WqeHeader,
    /// The inline OOB.
    pub oob: u64,
    /// The SGE.
    pub sge: Sge,
}

impl Simple {
    /// The entry that begins with this unit.
    #[inline]
    pub fn of(unit: Unit) -> Self {
        let [header, oob, address, rest] = unit;
        Self {
            header: WqeHeader::from_bits(header),
            oob,
            sge: Sge {
                address,
                mem_key: rest as u32,
                size: (rest >> 32) as u32,
            },
        }
    }

    /// Whether it is of that shape; the other fields mean nothing if not.
    #[inline]
    pub fn is_simple(&self) -> bool {
        self.header.is_simple()
    }
}

/// What was at the front of a work queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing is posted.
    Nothing,
    /// The entry was filled.
    Entry,
    /// The entry's position and end were filled, but it makes no sense:
    /// longer than an entry can be or than what is posted, or with an OOB of
    /// no known length.
    Malformed,
    /// As `Malformed`, but its memory is gone.
    Unreadable,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            words: [0; (MAX_SQE_SIZE / 8) as usize],
            header: WqeHeader::new(),
            position: 0,
            end: 0,
        }
    }
}

impl Entry {
    /// The first 8 bytes.
    #[inline]
    pub fn header(&self) -> WqeHeader {
        self.header
    }

    /// The inline OOB; at least 8 bytes.
    #[inline]
    pub fn oob(&self) -> &[u64] {
        &self.words[1..1 + self.header.oob_size().unwrap_or(8) as usize / 8]
    }

    /// The first 8 bytes of the inline OOB, and the next if there are more.
    #[inline]
    pub fn oob_words(&self) -> (u64, Option<u64>) {
        let long = self.header.sgl_offset() > 16;
        (self.words[1], long.then_some(self.words[2]))
    }

    /// The scatter/gather list.
    #[inline]
    pub fn sgl(&self) -> &[Sge] {
        let first = (self.header.sgl_offset() / 8) as usize;
        let end = first + 2 * self.header.sges() as usize;
        let bytes = self.words.get(first..end).unwrap_or_default().as_bytes();
        <[Sge]>::ref_from_bytes(bytes).unwrap_or_default()
    }
}

impl Wq {
    /// A new, empty work queue.
    pub fn new(ring: Ring, direction: Direction) -> Self {
        Self {
            client: Client::None,
            ring,
            direction,
            tail: 0,
            next: 0,
            done: 0,
            announced: false,
            bad_doorbells: FaultCounter::default(),
            malformed: FaultCounter::default(),
        }
    }

    /// A work queue that was saved, over its memory; nobody's client yet.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Malformed`] if its positions can't be.
    pub fn restore(
        ring: Ring,
        direction: Direction,
        saved: &saved::Wq,
    ) -> Result<Self, (Ring, RestoreError)> {
        let held = saved.tail.wrapping_sub(saved.done);
        let read = saved.next.wrapping_sub(saved.done);
        let whole = [saved.tail, saved.next, saved.done]
            .iter()
            .all(|position| position.is_multiple_of(WQE_UNIT));
        if !whole || held > ring.size() || read > held {
            let error = RestoreError::Malformed("a work queue's positions contradict each other");
            return Err((ring, error));
        }
        Ok(Self {
            tail: saved.tail,
            next: saved.next,
            done: saved.done,
            announced: saved.announced.unwrap_or(false),
            bad_doorbells: FaultCounter::from_count(saved.bad_doorbells),
            malformed: FaultCounter::from_count(saved.malformed),
            ..Self::new(ring, direction)
        })
    }

    /// The queue, to be saved.
    pub fn save(&self, id: u32) -> saved::Wq {
        saved::Wq {
            id,
            pages: Pages::from_addresses(self.ring.pages()),
            tail: self.tail,
            next: self.next,
            done: self.done,
            announced: self.announced.then_some(true),
            bad_doorbells: self.bad_doorbells.count(),
            malformed: self.malformed.count(),
        }
    }

    /// Goes on behind the last entry that has a completion: `tail` is what the
    /// driver said last, and `done` where that entry ends, if known. A tail that
    /// can't be is one that was ignored.
    pub fn recover(&mut self, tail: Option<u32>, done: Option<u32>) {
        let whole = |position: &u32| position.is_multiple_of(WQE_UNIT);
        self.done = done.filter(whole).unwrap_or(self.done);
        let held = |tail: &u32| tail.wrapping_sub(self.done) <= self.ring.size();
        let said = tail.filter(whole).filter(held);
        let saved = Some(self.tail).filter(held);
        self.tail = said.or(saved).unwrap_or(self.done);
        self.next = self.done;
    }

    /// Takes a doorbell. False if it makes no sense (no whole units,
    /// backwards, or more than the queue holds) and was ignored.
    #[must_use]
    pub fn ring_doorbell(&mut self, tail: u32) -> bool {
        let forward = tail.wrapping_sub(self.tail);
        let held = tail.wrapping_sub(self.done);
        let size = self.ring.size();
        if !tail.is_multiple_of(WQE_UNIT) || forward > size || held > size {
            self.bad_doorbells.hit();
            return false;
        }
        self.tail = tail;
        self.announced |= forward != 0;
        true
    }

    /// Whether the driver announced work since this was last asked.
    #[inline]
    pub fn take_announced(&mut self) -> bool {
        core::mem::take(&mut self.announced)
    }

    /// The entries that are posted and were not read, at most `most`, as if
    /// all were of one unit; each is read once, when it is taken, and only
    /// [passed](Self::pass_units) ones count as read. None if there is no window.
    #[inline]
    pub fn units(&self, most: usize) -> Option<impl Iterator<Item = Unit>> {
        let size = self.ring.size();
        let posted = self.tail.wrapping_sub(self.next);
        let window = self.ring.window().filter(|_| posted <= size)?;
        let most = most.min((posted / WQE_UNIT) as usize);
        // A window of a work queue has its pages twice in a row.
        window.entries(self.next & (size - 1), most)
    }

    /// Passes so many of the entries that [`units`](Self::units) read.
    #[inline]
    pub fn pass_units(&mut self, count: usize) {
        self.next = self.next.wrapping_add(count as u32 * WQE_UNIT);
    }

    /// Where the next entry begins, whether there is one or not.
    #[inline]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Reads the next entry, once, into `entry`, and passes it.
    #[inline]
    pub fn fetch(&mut self, platform: &mut impl Platform, entry: &mut Entry) -> Fetched {
        let posted = self.tail.wrapping_sub(self.next);
        if posted == 0 {
            return Fetched::Nothing;
        }
        if posted > self.ring.size() {
            self.contradiction();
        }
        entry.position = self.next;
        let fetched = self.fetch_posted(platform, entry, posted);
        if fetched != Fetched::Entry {
            self.malformed.hit();
        }
        self.next = entry.end;
        fetched
    }

    #[inline]
    fn fetch_posted(
        &self,
        platform: &mut impl Platform,
        entry: &mut Entry,
        posted: u32,
    ) -> Fetched {
        entry.end = self.tail;
        let (first, rest) = entry.words.split_at_mut((WQE_UNIT / 8) as usize);
        if self.ring.read(platform, self.next, first).is_err() {
            return Fetched::Unreadable;
        }
        let header = WqeHeader::from_bits(first[0]);
        entry.header = header;
        let size = header.size();
        if size > posted {
            return Fetched::Malformed;
        }
        entry.end = self.next.wrapping_add(size);
        if size > self.max_entry() || !header.is_known() {
            return Fetched::Malformed;
        }
        let rest = &mut rest[..((size - WQE_UNIT) / 8) as usize];
        let behind = self.next.wrapping_add(WQE_UNIT);
        if !rest.is_empty() && self.ring.read(platform, behind, rest).is_err() {
            return Fetched::Unreadable;
        }
        Fetched::Entry
    }

    /// What the device knows of this queue can't be: its memory was corrupted.
    /// Better no device than one that acts on it.
    #[cold]
    #[inline(never)]
    fn contradiction(&self) -> ! {
        let Self {
            tail, next, done, ..
        } = self;
        panic!("positions contradict each other: {done:#x}, {next:#x}, {tail:#x}")
    }

    /// Goes back to `position`, so that what was read from there on is read
    /// again.
    pub fn rewind_to(&mut self, position: u32) {
        self.next = position;
    }

    /// Everything before `position` is completed.
    #[inline]
    pub fn complete_to(&mut self, position: u32) {
        self.done = position;
    }

    /// Where the next entry begins, if there is one.
    pub fn next_entry(&self) -> Option<u32> {
        self.has_work().then_some(self.next)
    }

    /// Whether entries are posted that are not completed.
    pub fn has_outstanding(&self) -> bool {
        self.tail != self.done
    }

    /// Whether entries are posted that were not read.
    pub fn has_work(&self) -> bool {
        self.tail != self.next
    }

    /// The position below which the driver has used the memory again.
    #[inline]
    pub fn reused_below(&self) -> u32 {
        self.tail.wrapping_sub(self.ring.size())
    }

    /// Bytes posted, read and completed.
    pub fn positions(&self) -> (u32, u32, u32) {
        (self.tail, self.next, self.done)
    }

    fn max_entry(&self) -> u32 {
        match self.direction {
            Direction::Send => MAX_SQE_SIZE,
            Direction::Receive => MAX_RQE_SIZE,
        }
    }
}
