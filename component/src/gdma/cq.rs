//! Completion queues, and the arithmetic of rings that a driver consumes.
//!
//! # When a completion may be written over another one
//!
//! A driver says how far it consumed by a doorbell of the completion queue, but
//! it need not do so often: hardware asks for one in eight laps, which is as many
//! as owner bits tell apart, and Linux polls for four in silence
//! (`mana_cq_handler`; its commit dabffd08545f, "net: mana: Ring doorbell at 4 CQ
//! wraparounds"). How much a driver has consumed meanwhile follows from another
//! rule, which it keeps because hardware does not wait either: it never has more
//! work outstanding than its completion queue has room for. So when it announces
//! work by a doorbell of the work queue, as many completions fit as the queue has
//! entries ([`Position::work_announced`]).
//!
//! More completions than that without a doorbell of either queue are an overrun
//! for certain: those that find no room are dropped, counted and logged, and
//! nothing is written over what the driver has not seen. A driver that breaks the
//! rule in steps that each look right finds an overflow, as with hardware.
//!
//! # Arming
//!
//! A doorbell with the arm bit asks for one event. One without it says how far the
//! driver consumed, and takes no request back: Linux rings without the bit only
//! while it polls, when the event it asked for has come (`mana_cq_handler`), and
//! may do so on one processor right after another one armed. Disarming could lose
//! the event that the other one waits for; staying armed costs at most an event
//! that finds nothing to do.

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZero;

use crate::state::{self as saved, Pages};
use device_kit::FaultCounter;
use device_kit::envelope::RestoreError;
use device_kit::platform::{Level, Platform};
use device_kit::ring::Ring;
use device_kit::window::Place;
use mana_wire::queue::{CQE_SIZE, CqeInfo, WQE_UNIT};

use crate::gdma::position::{Position, find_head};

/// Word of an entry whose lower half no kind of completion uses, and whose upper
/// half those of the hardware channel do not: it says where the work queue entry
/// ended, and something about it. Drivers ignore it; a device whose predecessor
/// failed learns from it how far that had got.
const JOURNAL: usize = 6;

/// The end of the last entry of a work queue that has a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastCompleted {
    /// From a send queue.
    pub is_sq: bool,
    /// Queue id.
    pub wq: u32,
    /// Byte position behind the entry, modulo 2^32.
    pub end: u32,
    /// [`Completes::note`] of the completion.
    pub note: u32,
}

/// A completion queue reports for at most this many work queues: those of the
/// hardware channel.
const MAX_WQS_OF_A_CQ: usize = 2;

/// A completion queue.
#[derive(Debug)]
pub struct Cq {
    /// Its memory.
    pub ring: Ring,
    /// The event queue that says when there are completions.
    pub eq: Option<u32>,
    /// The driver wants an event for the next completion.
    pub armed: bool,
    /// Completions since the last look at [`armed`](Self::armed).
    pub dirty: bool,
    /// Completions posted and consumed.
    pub position: Position,
    /// For each entry, where the work queue entry ended that it completed: a
    /// work queue entry whose memory the driver used again was seen completed,
    /// even if no doorbell of this queue said so.
    completed: Vec<u32>,
    /// Completions that found no room, or no memory.
    pub lost: FaultCounter,
    /// Doorbells that made no sense.
    pub bad_doorbells: FaultCounter,
}

/// Publishes completions, and notes what they complete. By itself, so that all
/// of it fits registers.
#[inline(never)]
fn publish<'a, T>(
    places: impl Iterator<Item = Place<'a, 7>>,
    completed: &mut [u32],
    items: &[T],
    info: u64,
    plain: impl Fn(&T) -> Plain,
) {
    for ((place, completed), item) in places.zip(completed).zip(items) {
        let Plain { words, rest, end } = plain(item);
        let [first, second] = words;
        let words = [first, second, 0, 0, 0, 0, end.into()];
        place.publish(words, u64::from(rest) | info);
        *completed = end;
    }
}

/// The work queue entry that a completion is for.
#[derive(Clone, Copy, Debug)]
pub struct Completes {
    /// Queue id.
    pub wq: u32,
    /// From a send queue.
    pub is_sq: bool,
    /// Byte position behind the entry, modulo 2^32.
    pub end: u32,
    /// What a successor should know of the entry besides; 0 where the kind of
    /// completion has no room for it.
    pub note: u32,
}

/// A completion that says little.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// Its first 16 bytes; the others are zero up to `rest`.
    pub words: [u64; 2],
    /// The 4 bytes before its information word.
    pub rest: u32,
    /// Where the work queue entry ends that it completes, modulo 2^32.
    pub end: u32,
}

impl Cq {
    /// A new completion queue, armed, as drivers expect it.
    pub fn new(ring: Ring, eq: Option<u32>) -> Self {
        let position = Position::new(ring.size() / CQE_SIZE);
        let completed = vec![0; position.entries() as usize];
        Self {
            ring,
            eq,
            armed: true,
            dirty: false,
            position,
            completed,
            lost: FaultCounter::default(),
            bad_doorbells: FaultCounter::default(),
        }
    }

    /// A completion queue that was saved, over its memory.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Malformed`].
    pub fn restore(ring: Ring, saved: &saved::Cq) -> Result<Self, (Ring, RestoreError)> {
        let mut position = match Position::restore(ring.size() / CQE_SIZE, &saved.ring) {
            Ok(position) => position,
            Err(error) => return Err((ring, error)),
        };
        position.room = saved.room.unwrap_or(position.entries);
        if position.room > position.entries {
            let error = RestoreError::Malformed("more room in a ring than it has entries");
            return Err((ring, error));
        }
        position.bound_silence(position.mask() - position.entries);
        let mut cq = Self {
            armed: saved.ring.armed,
            position,
            lost: FaultCounter::from_count(saved.ring.lost),
            bad_doorbells: FaultCounter::from_count(saved.ring.bad_doorbells),
            ..Self::new(ring, saved.eq)
        };
        let known = position.pending().min(position.entries());
        let counts = saved.completed.iter().map(|(_, count)| u64::from(*count));
        if counts.sum::<u64>() != u64::from(known) {
            let error = RestoreError::Malformed("a completion queue's history of another length");
            return Err((cq.ring, error));
        }
        let runs = saved.completed.iter();
        let distances = runs.flat_map(|(distance, count)| (0..*count).map(move |_| *distance));
        let mut end = 0u32;
        for (distance, back) in distances.zip((1..=known).rev()) {
            end = end.wrapping_add(distance.cast_unsigned().wrapping_mul(WQE_UNIT));
            let index = cq.index_back(back);
            cq.completed[index] = end;
        }
        Ok(cq)
    }

    /// The queue, to be saved.
    pub fn save(&self, id: u32) -> saved::Cq {
        let (head, tail) = self.position.counts();
        saved::Cq {
            id,
            completed: self.save_completed(),
            ring: saved::Ring {
                pages: Pages::from_addresses(self.ring.pages()),
                head,
                tail,
                armed: self.armed,
                lost: self.lost.count(),
                bad_doorbells: self.bad_doorbells.count(),
            },
            eq: self.eq,
            room: (self.position.room != self.position.entries).then_some(self.position.room),
        }
    }

    fn save_completed(&self) -> Vec<(i32, u32)> {
        let known = self.position.pending().min(self.position.entries());
        let mut runs: Vec<(i32, u32)> = Vec::new();
        let mut before = 0u32;
        for back in (1..=known).rev() {
            let end = self.completed[self.index_back(back)];
            let distance = end.wrapping_sub(before).cast_signed() / WQE_UNIT.cast_signed();
            before = end;
            match runs.last_mut() {
                Some((same, count)) if *same == distance => *count += 1,
                _ => runs.push((distance, 1)),
            }
        }
        runs
    }

    /// Goes on behind what a predecessor left in the ring. Returns, for each
    /// work queue, the last completion that is still there. `tail` is what
    /// the driver said last, if it said anything since the queue was saved.
    pub fn recover(
        &mut self,
        platform: &mut impl Platform,
        tail: Option<u32>,
    ) -> Vec<LastCompleted> {
        let mut last: Vec<LastCompleted> = Vec::new();
        let Some(head) = find_head(&self.ring, platform, CQE_SIZE) else {
            return last;
        };
        let (_, saved) = self.position.counts();
        let entries = self.position.entries();
        self.position = Position::recovered(entries, head, tail.unwrap_or(saved));
        self.position.work_announced();
        self.armed = true;
        for back in 1..=entries {
            let index = self.index_back(back);
            let mut words = [0; 2];
            let at = index as u32 * CQE_SIZE + 8 * JOURNAL as u32;
            if self.ring.read(platform, at, &mut words).is_err() {
                break;
            }
            let (end, note) = (words[0] as u32, (words[0] >> 32) as u32);
            self.completed[index] = end;
            let info = CqeInfo::from_bits((words[1] >> 32) as u32);
            let (is_sq, wq) = (info.is_sq(), info.wq_num());
            let known = last.iter().any(|l| (l.is_sq, l.wq) == (is_sq, wq));
            if wq != 0 && !known && last.len() < MAX_WQS_OF_A_CQ {
                last.push(LastCompleted {
                    is_sq,
                    wq,
                    end,
                    note,
                });
            }
        }
        last
    }

    /// Index of the entry that was posted this many before the next one.
    fn index_back(&self, back: u32) -> usize {
        let (head, _) = self.position.counts();
        (head.wrapping_sub(back) & (self.position.entries() - 1)) as usize
    }

    /// Posts a completion: 60 bytes as seven words and a half. False if there is
    /// no room; the entry that it would replace is left alone, and the completion
    /// is lost and counted.
    #[inline(always)]
    pub fn post(
        &mut self,
        platform: &mut impl Platform,
        mut words: [u64; 7],
        rest: u32,
        completes: Completes,
    ) -> bool {
        let last = u64::from(rest) | u64::from(self.info(completes).into_bits()) << 32;
        words[JOURNAL] |= u64::from(completes.end) | u64::from(completes.note) << 32;
        let index = self.position.index();
        let at = index * CQE_SIZE;
        if let Some(window) = self.ring.window()
            && !self.position.full()
            && let Some(completed) = self.completed.get_mut(index as usize)
            && window.publish(at, &words, last)
        {
            *completed = completes.end;
            self.position.advance();
            self.dirty = true;
            return true;
        }
        self.post_slowly(platform, words, last, completes)
    }

    /// Whether [`post_run`](Self::post_run) would post anything.
    #[inline]
    pub fn takes_runs(&self) -> bool {
        self.ring.window().is_some() && !self.position.full()
    }

    /// Posts completions of a work queue, one for each of `items`, for as long
    /// as there is a window with room. Returns how many it posted; the others
    /// are for [`post`](Self::post).
    #[inline(always)]
    pub fn post_run<T>(
        &mut self,
        wq: (u32, bool),
        items: &[T],
        plain: impl Fn(&T) -> Plain + Copy,
    ) -> usize {
        let mut count = 0;
        while let Some(posted) = self.post_stretch(wq, &items[count..], plain) {
            count += posted.get();
        }
        count
    }

    /// The part of [`post_run`](Self::post_run) up to the end of the ring; None
    /// if that is nothing.
    #[inline(always)]
    fn post_stretch<T>(
        &mut self,
        (wq, is_sq): (u32, bool),
        items: &[T],
        plain: impl Fn(&T) -> Plain,
    ) -> Option<NonZero<usize>> {
        let position = self.position;
        let room = position.room as usize;
        let completed = self.completed.get_mut(position.index() as usize..)?;
        let count = items.len().min(room).min(completed.len());
        let at = position.index() * CQE_SIZE;
        let places = self.ring.window()?.places(at, count)?;
        let info = CqeInfo::of(wq, is_sq, position.owner()).into_bits();
        publish(places, completed, items, u64::from(info) << 32, plain);
        self.position.advance_by(count as u32);
        self.dirty |= count > 0;
        NonZero::new(count)
    }

    #[inline]
    fn info(&self, completes: Completes) -> CqeInfo {
        CqeInfo::of(completes.wq, completes.is_sq, self.position.owner())
    }

    /// As `post`, where there is no window, no room, or the memory is gone.
    #[inline(never)]
    fn post_slowly(
        &mut self,
        platform: &mut impl Platform,
        words: [u64; 7],
        last: u64,
        completes: Completes,
    ) -> bool {
        let index = self.position.index();
        if self.position.full() {
            self.note_overrun(platform, completes.wq);
            return false;
        }
        if self
            .ring
            .publish(platform, index * CQE_SIZE, &words, last)
            .is_err()
        {
            self.lost.hit();
        }
        self.completed[index as usize] = completes.end;
        self.position.advance();
        self.dirty = true;
        true
    }

    #[cold]
    fn note_overrun(&mut self, platform: &mut impl Platform, wq: u32) {
        if self.lost.hit() {
            platform.log(
                Level::Warn,
                format_args!(
                    "completion queue of {} entries overrun by queue {wq}: the driver has more work outstanding than fits",
                    self.position.entries(),
                ),
            );
        }
    }

    /// Whether the driver consumed the entry that the next one replaces for sure,
    /// whatever work it has outstanding: it said so, or it has used the memory of
    /// the work queue entry again. `reused_below` is the oldest position whose
    /// memory it may still be using.
    pub fn has_spare(&self, reused_below: u32) -> bool {
        let completed = self.completed[self.position.index() as usize];
        let ahead = reused_below.wrapping_sub(completed);
        self.position.known_room() > 0 || ahead < 1 << 31
    }

    /// Takes a doorbell. False if it makes no sense and was ignored.
    #[must_use]
    pub fn ring_doorbell(&mut self, tail: u32, arm: bool) -> bool {
        if !self.position.consume_to(tail) {
            self.bad_doorbells.hit();
            return false;
        }
        self.armed |= arm;
        true
    }

    /// Whether an event is due: armed, with completions that the driver has
    /// not consumed.
    pub fn event_due(&self) -> bool {
        self.armed && self.position.pending() > 0
    }
}
