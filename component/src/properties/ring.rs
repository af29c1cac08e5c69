//! A queue's memory is the same through a window and by copies.

use std::vec;
use std::vec::Vec;

use device_kit::ring::{Layout, Ring};
use proptest::prelude::*;

/// Positions and lengths in words of entries to read, and of entries to
/// write.
type Accesses = Vec<(u32, usize, u64)>;

fn accesses() -> impl Strategy<Value = Accesses> {
    prop::collection::vec((any::<u32>(), 1usize..64, any::<u64>()), 1..40)
}

#[test]
fn both_paths_read_the_same_bytes() {
    super::check(
        96,
        (0u32..4, any::<u64>(), accesses()),
        |(log2, seed, reads)| {
            let pages = 1 << log2;
            let data: Vec<u8> = (0..pages * 4096)
                .map(|n| (seed >> (n % 57)) as u8 ^ n as u8)
                .collect();
            let mut worlds = [super::world(false), super::world(true)];
            let mut rings = worlds.each_mut().map(|world| {
                super::put(world, pages, 0, &data);
                super::ring(world, pages, Layout::Wrapping)
            });
            prop_assert_eq!(
                rings.each_ref().map(|r| r.window().is_some()),
                [false, true]
            );
            for (position, words, _) in reads {
                let position = position & !7;
                let mut found = [vec![0; words], vec![0; words]];
                for index in 0..2 {
                    let length = 8 * words as u32;
                    let view = rings[index].view(&mut worlds[index], position, length);
                    prop_assert!(view.is_ok_and(|view| view.copy_to(&mut found[index])));
                }
                let expected = super::bytes(&worlds[0], pages, position, 8 * words);
                let (expected, _) = expected.as_chunks();
                let expected: Vec<u64> = expected.iter().map(|w| u64::from_le_bytes(*w)).collect();
                prop_assert_eq!(&found[0], &expected);
                prop_assert_eq!(&found[1], &expected);
            }
            Ok(())
        },
    );
}

#[test]
fn both_paths_write_the_same_bytes() {
    super::check(96, (0u32..4, accesses()), |(log2, writes)| {
        let pages = 1 << log2;
        let mut worlds = [super::world(false), super::world(true)];
        let mut rings = worlds
            .each_mut()
            .map(|world| super::ring(world, pages, Layout::Fixed));
        let windows = |rings: &[Ring; 2]| rings.each_ref().map(|ring| ring.window().is_some());
        prop_assert_eq!(windows(&rings), [false, false], "laid by the first use");
        let is_used = !writes.is_empty();
        for (position, words, seed) in writes {
            // One or more entries of 64 bytes, aligned so that none straddles a page.
            let offset = (position % (pages as u32 * 4096)) & !63;
            let count = words.min(((pages as u32 * 4096 - offset) / 64) as usize);
            let entries = (0..count as u64).map(|entry| {
                let words = std::array::from_fn(|n| seed.wrapping_mul(entry + n as u64));
                (words, !seed.rotate_left(entry as u32))
            });
            for index in 0..2 {
                let world = &mut worlds[index];
                let failed = rings[index].publish::<7>(world, offset, count, entries.clone());
                prop_assert_eq!(failed, 0);
            }
        }
        prop_assert_eq!(windows(&rings), [false, is_used]);
        let all = pages * 4096;
        let found = worlds
            .each_ref()
            .map(|world| super::bytes(world, pages, 0, all));
        prop_assert_eq!(&found[0], &found[1]);
        Ok(())
    });
}
