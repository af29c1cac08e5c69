//! Work queues, to which the driver posts WQEs.

use device_kit::FaultCounter;
use device_kit::platform::{MemoryError, Platform};
use device_kit::ring::Ring;
use device_kit::window::View;
use mana_wire::queue::{MAX_RQE_SIZE, MAX_SQE_SIZE, Sge, WQE_UNIT, WqeHeader};
use zerocopy::{FromBytes, IntoBytes};

use crate::state as saved;

/// The direction of a work queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A send queue.
    Send,
    /// A receive queue.
    Receive,
}

/// The owner of a work queue, which works on its WQEs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// None: the queue was made by `CREATE_QUEUE` and is not part of an object.
    Nobody,
    /// The hardware channel.
    Channel,
    /// The NIC, with the key that it knows the queue by.
    Nic(u32),
}

/// A send or receive queue. Positions are bytes modulo 2^32.
#[derive(Debug)]
pub struct Wq {
    /// The owner, which is notified of doorbells.
    pub owner: Owner,
    /// Its memory.
    pub ring: Ring,
    direction: Direction,
    positions: Positions,
    /// Whether the driver announced work since a completion was last posted.
    announced: bool,
    /// Doorbells that were not valid.
    pub bad_doorbells: FaultCounter,
    /// WQEs that were not valid.
    pub malformed: FaultCounter,
}

/// How far a work queue has got, in bytes modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Posted by the driver.
    pub producer: u32,
    /// Read by the device.
    pub read: u32,
    /// Completed by the device.
    pub completed: u32,
}

/// A copy of a WQE, checked against its queue.
#[derive(Debug)]
pub struct Wqe {
    words: [u64; (MAX_SQE_SIZE / 8) as usize],
    header: WqeHeader,
    /// Where it begins.
    pub position: u32,
    /// Where it ends.
    pub end: u32,
}

/// Number of words of a unit.
pub const UNIT_WORDS: usize = (WQE_UNIT / 8) as usize;

/// The longest WQE, in units, that is not read one by one: one of four SGEs.
pub const SEVERAL_UNITS: usize = 3;

/// The first unit of a WQE.
pub type Unit = [u64; UNIT_WORDS];

/// A WQE of the most common layout, if [`is_short`](Self::is_short): one unit with an
/// inline OOB of 8 bytes and one SGE.
#[derive(Clone, Copy, Debug)]
pub struct ShortWqe {
    header: WqeHeader,
    /// The inline OOB.
    pub oob: u64,
    /// The SGE.
    pub sge: Sge,
}

impl ShortWqe {
    /// Splits the WQE that begins with this unit.
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

    /// Returns whether it has that layout; if not, the other fields are meaningless.
    #[inline]
    pub fn is_short(&self) -> bool {
        self.header.is_short()
    }
}

/// The outcome of fetching the next WQE of a work queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing is posted.
    Nothing,
    /// The WQE was copied.
    Wqe,
    /// The WQE's position and end are known, but it is malformed: longer than
    /// a WQE can be or than what is posted, or with an OOB of no known length.
    Malformed,
    /// As `Malformed`, but its memory is gone.
    Unreadable,
    /// The WQE was copied, and must not be worked on: it ended the device
    /// before.
    Skipped,
}

impl Default for Wqe {
    fn default() -> Self {
        Self {
            words: [0; (MAX_SQE_SIZE / 8) as usize],
            header: WqeHeader::new(),
            position: 0,
            end: 0,
        }
    }
}

impl Wqe {
    /// Returns the first 8 bytes.
    #[inline]
    pub fn header(&self) -> WqeHeader {
        self.header
    }

    /// Returns the inline OOB; at least 8 bytes.
    #[inline]
    pub fn oob(&self) -> &[u64] {
        &self.words[1..1 + self.header.oob_size().unwrap_or(8) as usize / 8]
    }

    /// Returns the first 8 bytes of the inline OOB, and the next if there are
    /// more.
    #[inline]
    pub fn oob_words(&self) -> (u64, Option<u64>) {
        let is_long = self.header.sgl_offset() > 16;
        (self.words[1], is_long.then_some(self.words[2]))
    }

    /// Returns the scatter/gather list.
    #[inline]
    pub fn sgl(&self) -> &[Sge] {
        let first = (self.header.sgl_offset() / 8) as usize;
        let end = first + 2 * self.header.sges() as usize;
        let bytes = self.words.get(first..end).unwrap_or_default().as_bytes();
        <[Sge]>::ref_from_bytes(bytes).unwrap_or_default()
    }

    /// Returns how many units it has.
    #[inline]
    pub fn units(&self) -> usize {
        (self.header.size() / WQE_UNIT) as usize
    }

    /// Copies the WQE after this one, where `view` begins. Returns false if it is malformed,
    /// or longer than [`SEVERAL_UNITS`] or the view.
    #[inline(always)]
    pub fn copy_shown(&mut self, view: View<'_>) -> bool {
        let position = self.end;
        let (first, rest) = self.words.split_at_mut(UNIT_WORDS);
        if !view.copy_to(first) {
            return false;
        }
        let header = WqeHeader::from_bits(first[0]);
        let units = (header.size() / WQE_UNIT) as usize;
        self.header = header;
        (self.position, self.end) = (position, position.wrapping_add(units as u32 * WQE_UNIT));
        // A length that the compiler knows, so that it unrolls the loop.
        let rest_of = view.skip(UNIT_WORDS);
        header.is_known()
            && match units {
                1 => true,
                2 => rest_of.copy_to(&mut rest[..UNIT_WORDS]),
                SEVERAL_UNITS => rest_of.copy_to(&mut rest[..(SEVERAL_UNITS - 1) * UNIT_WORDS]),
                _ => false,
            }
    }

    /// Copies the WQE at `position`, of which the view shows up to `posted` bytes;
    /// `most` is the longest WQE of the queue's type.
    fn copy(&mut self, view: View<'_>, posted: u32, most: u32) -> Fetched {
        let (first, rest) = self.words.split_at_mut(UNIT_WORDS);
        if !view.copy_to(first) {
            return Fetched::Unreadable;
        }
        let header = WqeHeader::from_bits(first[0]);
        self.header = header;
        let size = header.size();
        if size > posted {
            return Fetched::Malformed;
        }
        self.end = self.position.wrapping_add(size);
        if size > most || !header.is_known() {
            return Fetched::Malformed;
        }
        let rest = &mut rest[..((size - WQE_UNIT) / 8) as usize];
        if view.skip(UNIT_WORDS).copy_to(rest) {
            Fetched::Wqe
        } else {
            Fetched::Unreadable
        }
    }
}

impl Wq {
    /// Creates a work queue.
    pub fn new(ring: Ring, direction: Direction) -> Self {
        Self {
            owner: Owner::Nobody,
            ring,
            direction,
            positions: Positions::default(),
            announced: false,
            bad_doorbells: FaultCounter::default(),
            malformed: FaultCounter::default(),
        }
    }

    /// Continues a work queue that was saved and checked, over its memory;
    /// nobody owns it yet.
    pub fn resume(ring: Ring, direction: Direction, saved: &saved::Wq) -> Self {
        Self {
            positions: Positions {
                producer: saved.producer,
                read: saved.read,
                completed: saved.completed,
            },
            announced: saved.announced.unwrap_or(false),
            bad_doorbells: FaultCounter::from_count(saved.bad_doorbells),
            malformed: FaultCounter::from_count(saved.malformed),
            ..Self::new(ring, direction)
        }
    }

    /// Returns the queue to be saved.
    pub fn save(&self, id: u32) -> saved::Wq {
        saved::Wq {
            id,
            pages: saved::Pages::from_addresses(self.ring.pages()),
            producer: self.positions.producer,
            read: self.positions.read,
            completed: self.positions.completed,
            announced: self.announced.then_some(true),
            bad_doorbells: self.bad_doorbells.count(),
            malformed: self.malformed.count(),
        }
    }

    /// Continues after the last WQE that has a completion. `producer` is the last
    /// doorbell's, and `completed` where that WQE ends, if known. An impossible
    /// producer is ignored, as it was before the failure.
    pub fn recover(&mut self, producer: Option<u32>, completed: Option<u32>) {
        let is_whole = |position: &u32| position.is_multiple_of(WQE_UNIT);
        let completed = completed.filter(is_whole);
        let completed = completed.unwrap_or(self.positions.completed);
        let is_held = |producer: &u32| producer.wrapping_sub(completed) <= self.ring.size();
        let said = producer.filter(is_whole).filter(is_held);
        let saved = Some(self.positions.producer).filter(is_held);
        self.positions = Positions {
            producer: said.or(saved).unwrap_or(completed),
            read: completed,
            completed,
        };
    }

    /// Handles a doorbell. Returns false if it is invalid (not whole units, backwards,
    /// or more than the queue holds) and was ignored.
    #[must_use]
    pub fn ring_doorbell(&mut self, producer: u32) -> bool {
        let forward = producer.wrapping_sub(self.positions.producer);
        let held = producer.wrapping_sub(self.positions.completed);
        let size = self.ring.size();
        if !producer.is_multiple_of(WQE_UNIT) || forward > size || held > size {
            self.bad_doorbells.hit();
            return false;
        }
        self.positions.producer = producer;
        self.announced |= forward != 0;
        true
    }

    /// Returns whether the driver announced work since this was last asked.
    #[inline]
    pub fn take_announced(&mut self) -> bool {
        core::mem::take(&mut self.announced)
    }

    /// Returns how many bytes are posted and not read.
    #[inline]
    fn posted(&self) -> u32 {
        let Positions { producer, read, .. } = self.positions;
        let posted = producer.wrapping_sub(read);
        // Anything else means that the device's memory is corrupt, and it is better to
        // fail than to act on it.
        assert!(
            posted <= self.ring.size(),
            "positions contradict each other"
        );
        posted
    }

    /// Shows posted WQEs that are not read, as if all were of one unit: up to `most`,
    /// and possibly fewer than there are. Only those that are
    /// [passed](Self::pass_units) count as read.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if their memory is gone.
    #[inline]
    pub fn view_units(
        &mut self,
        platform: &mut impl Platform,
        most: usize,
    ) -> Result<View<'_>, MemoryError> {
        let length = self.posted().min(most as u32 * WQE_UNIT);
        self.ring.view(platform, self.positions.read, length)
    }

    /// Marks the first `count` of the units that [`view_units`](Self::view_units)
    /// showed as read.
    #[inline]
    pub fn pass_units(&mut self, count: usize) {
        let length = count as u32 * WQE_UNIT;
        self.positions.read = self.positions.read.wrapping_add(length);
    }

    /// Copies the next WQE, once, and marks it as read.
    #[inline]
    pub fn fetch(&mut self, platform: &mut impl Platform, wqe: &mut Wqe) -> Fetched {
        let posted = self.posted();
        if posted == 0 {
            return Fetched::Nothing;
        }
        let Positions { producer, read, .. } = self.positions;
        (wqe.position, wqe.end) = (read, producer);
        let most = match self.direction {
            Direction::Send => MAX_SQE_SIZE,
            Direction::Receive => MAX_RQE_SIZE,
        };
        let fetched = match self.ring.view(platform, read, posted.min(MAX_SQE_SIZE)) {
            Ok(view) => wqe.copy(view, posted, most),
            Err(MemoryError) => Fetched::Unreadable,
        };
        if fetched != Fetched::Wqe {
            self.malformed.hit();
        }
        self.positions.read = wqe.end;
        fetched
    }

    /// Returns to `position`, so that WQEs from there on are read again.
    pub fn rewind_to(&mut self, position: u32) {
        self.positions.read = position;
    }

    /// Marks everything before `position` as completed.
    #[inline]
    pub fn complete_to(&mut self, position: u32) {
        self.positions.completed = position;
    }

    /// Returns whether any posted WQE is not completed.
    pub fn has_outstanding(&self) -> bool {
        self.positions.producer != self.positions.completed
    }

    /// Returns whether any posted WQE is not read.
    #[inline]
    pub fn has_work(&self) -> bool {
        self.positions.producer != self.positions.read
    }

    /// Returns the position below which the driver has reused the memory.
    #[inline]
    pub fn reused_below(&self) -> u32 {
        self.positions.producer.wrapping_sub(self.ring.size())
    }

    /// Returns the positions.
    #[inline]
    pub fn positions(&self) -> Positions {
        self.positions
    }

    /// Returns the mask of a position that yields its offset in the ring.
    #[inline]
    pub fn mask(&self) -> u32 {
        self.ring.size() - 1
    }
}
