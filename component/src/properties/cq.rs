//! Completion queues overwrite nothing that the driver may not have seen.

use std::collections::VecDeque;

use crate::gdma::ids::{SqId, WqId};
use crate::gdma::journal::{self, Record};
use crate::gdma::queue::cq::{Completion, Cq};
use device_kit::ring::Layout;
use manatee_conformance::native::World;
use proptest::prelude::*;

const ENTRIES: u32 = 64;

const WQ: WqId = WqId::Sq(SqId(0x12_3456));

/// Posts a completion. Returns whether it found room.
fn complete(cq: &mut Cq, world: &mut World, word: u64, rest: u32, end: u32) -> bool {
    let lost = cq.lost.count();
    let mut words = [word; 7];
    words[journal::WORD] = 0;
    let completion = Completion {
        words,
        rest,
        record: Record::completed(end),
    };
    cq.post(world, WQ, &[completion], |it| *it);
    cq.lost.count() == lost
}

#[test]
fn an_overrun_loses_the_new_completion_and_no_other() {
    let steps = prop::collection::vec((0u32..100, 0u32..100), 1..60);
    super::check(64, (any::<bool>(), steps), |(windows, steps)| {
        let mut world = super::world(windows);
        let ring = super::ring(&mut world, 1, Layout::Fixed);
        let mut cq = Cq::new(ring, None);
        let (mut posted, mut read) = (0u32, 0u32);
        let mut waiting = VecDeque::new();
        for (post, take) in steps {
            for _ in 0..post {
                let word = u64::from(posted) << 7;
                let taken = complete(&mut cq, &mut world, word, posted, posted * 32 + 32);
                prop_assert_eq!(taken, (waiting.len() as u32) < ENTRIES);
                if taken {
                    waiting.push_back(posted);
                    posted += 1;
                }
            }
            for _ in 0..take {
                let Some(number) = waiting.pop_front() else {
                    break;
                };
                let entry = super::bytes(&world, 1, read % ENTRIES * 64, 64);
                prop_assert_eq!(&entry[..8], &(u64::from(number) << 7).to_le_bytes()[..]);
                prop_assert_eq!(&entry[56..60], &number.to_le_bytes()[..]);
                prop_assert_eq!(&entry[60..63], &[0x56, 0x34, 0x12][..]);
                let lap = (read / ENTRIES + 1) % 8;
                prop_assert_eq!(u32::from(entry[63]), lap << 5 | 1);
                read += 1;
            }
            prop_assert!(cq.ring_doorbell((read + ENTRIES) % (8 * ENTRIES), false));
        }
        Ok(())
    });
}

/// A driver polls without doorbells, and has no more work outstanding than fits: no
/// completion is lost in any number of laps, and its doorbell is valid when it comes.
#[test]
fn a_silent_driver_loses_nothing() {
    let strategy = (any::<bool>(), 1u32..=ENTRIES, 1u32..=20);
    super::check(64, strategy, |(windows, outstanding, laps)| {
        let mut world = super::world(windows);
        let ring = super::ring(&mut world, 1, Layout::Fixed);
        let mut cq = Cq::new(ring, None);
        let mut done = 0u32;
        while done < laps * ENTRIES {
            cq.position.work_announced();
            for _ in 0..outstanding {
                let taken = complete(&mut cq, &mut world, 0, 0, done * 32 + 32);
                prop_assert!(taken, "completion {} was lost", done);
                done += 1;
            }
        }
        prop_assert!(cq.is_event_due());
        prop_assert!(cq.ring_doorbell((done + ENTRIES) % (8 * ENTRIES), true));
        prop_assert_eq!(cq.position.pending(), 0);
        Ok(())
    });
}

/// A completion without a WQE finds room only where one was certainly consumed.
#[test]
fn spare_room_is_where_memory_was_reused() {
    let mut world = super::world(true);
    let ring = super::ring(&mut world, 1, Layout::Fixed);
    let mut cq = Cq::new(ring, None);
    for done in 0..ENTRIES {
        assert!(cq.has_spare(0), "{done} of {ENTRIES} are posted");
        assert!(complete(&mut cq, &mut world, 0, 0, done * 32 + 32));
    }
    assert!(!cq.has_spare(0));
    assert!(!cq.has_spare(31));
    assert!(cq.has_spare(32), "the first WQE's memory is reused");
    assert!(cq.ring_doorbell(ENTRIES + 1, false));
    assert!(cq.has_spare(0));
}
