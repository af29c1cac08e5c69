//! Event queues: a driver reads every posted event once and in order.

use std::vec::Vec;

use std::collections::VecDeque;

use crate::gdma::queue::eq::{Eq, Overrun};
use crate::gdma::queue::moderation::Urgency;
use device_kit::ring::Layout;
use proptest::prelude::*;

const ENTRIES: u32 = 256;

#[test]
fn the_driver_reads_what_was_posted() {
    let steps = prop::collection::vec((0u32..300, 0u32..300, any::<bool>()), 1..40);
    super::check(64, (any::<bool>(), steps), |(windows, steps)| {
        let mut world = super::world(windows);
        let ring = super::ring(&mut world, 1, Layout::Fixed);
        let mut eq = Eq::new(ring, 3);
        let (mut posted, mut read) = (0u32, 0u32);
        let mut waiting = VecDeque::new();
        let mut armed = true;
        for (post, take, arm) in steps {
            for _ in 0..post {
                let details = [posted, posted ^ 0xffff, !posted];
                let result = eq.post(&mut world, posted as u8, details, Urgency::PLAIN);
                if waiting.len() as u32 == ENTRIES {
                    prop_assert_eq!(result, Err(Overrun));
                    continue;
                }
                prop_assert_eq!(result, Ok(()));
                waiting.push_back((posted as u8, details));
                posted += 1;
            }
            let due = armed && !waiting.is_empty();
            prop_assert_eq!(eq.take_interrupt().is_some(), due);
            armed &= !due;
            for _ in 0..take {
                let Some((event_type, details)) = waiting.pop_front() else {
                    break;
                };
                let entry = super::bytes(&world, 1, read % ENTRIES * 16, 16);
                let expected: Vec<u8> = details.iter().flat_map(|d| d.to_le_bytes()).collect();
                prop_assert_eq!(&entry[..12], &expected[..]);
                prop_assert_eq!(entry[12], event_type);
                let lap = (read / ENTRIES + 1) % 8;
                prop_assert_eq!(u32::from(entry[15] >> 5), lap);
                read += 1;
            }
            let tail = (read + ENTRIES) % (8 * ENTRIES);
            prop_assert!(eq.ring_doorbell(tail, arm));
            armed |= arm;
        }
        Ok(())
    });
}
