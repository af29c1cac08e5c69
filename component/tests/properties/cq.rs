//! Completion queues: nothing is overwritten that the driver may not have
//! seen.

use std::collections::VecDeque;

use manatee_device::cq::{Completes, Cq};
use manatee_device::ring::Layout;
use proptest::prelude::*;

const ENTRIES: u32 = 64;

fn completes(end: u32, reused_below: u32) -> Completes {
    Completes {
        wq: 0x12_3456,
        is_sq: true,
        end,
        reused_below,
        note: 0,
    }
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
                let words = [u64::from(posted) << 7; 7];
                // A work queue so large that no memory of it is used again.
                let taken = cq.post(&mut world, words, posted, completes(posted * 32 + 32, 0));
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

/// A driver with a send queue of as many entries that polls without a word:
/// as long as it uses its entries again only once it saw them completed, no
/// completion is lost, for as many laps as owner bits can tell apart.
#[test]
fn a_silent_driver_loses_nothing_for_six_laps() {
    let strategy = (any::<bool>(), 1u32..=ENTRIES, 1u32..=6);
    super::check(64, strategy, |(windows, outstanding, laps)| {
        let mut world = super::world(windows);
        let ring = super::ring(&mut world, 1, Layout::Fixed);
        let mut cq = Cq::new(ring, None);
        let (size, mut tail, mut done) = (ENTRIES * 32, 0u32, 0u32);
        while done < laps * ENTRIES {
            tail += outstanding;
            while done < tail {
                let reused_below = (tail * 32).wrapping_sub(size);
                let taken = cq.post(
                    &mut world,
                    [0; 7],
                    0,
                    completes(done * 32 + 32, reused_below),
                );
                prop_assert!(taken, "completion {} was lost", done);
                done += 1;
            }
        }
        Ok(())
    });
}
