//! A queue's memory is the same through a window as by copies.

use device_kit::ring::Layout;
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
            let rings = worlds.each_mut().map(|world| {
                super::put(world, pages, 0, &data);
                super::ring(world, pages, Layout::Wrapping)
            });
            prop_assert_eq!(rings.each_ref().map(|r| r.has_window()), [false, true]);
            for (position, words, _) in reads {
                let position = position & !7;
                let mut found = [vec![0; words], vec![0; words]];
                for index in 0..2 {
                    let read = rings[index].read(&mut worlds[index], position, &mut found[index]);
                    prop_assert_eq!(read, Ok(()));
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
        let rings = worlds
            .each_mut()
            .map(|world| super::ring(world, pages, Layout::Fixed));
        for (position, words, seed) in writes {
            // Entries of 16 or 64 bytes that straddle nothing.
            let entry = if words % 2 == 0 { 2 } else { 8 };
            let position = position & !(8 * entry - 1);
            let words: Vec<u64> = (1..u64::from(entry))
                .map(|n| seed.wrapping_mul(n))
                .collect();
            for index in 0..2 {
                let written = rings[index].publish(&mut worlds[index], position, &words, !seed);
                prop_assert_eq!(written, Ok(()));
            }
        }
        let all = pages * 4096;
        let found = worlds
            .each_ref()
            .map(|world| super::bytes(world, pages, 0, all));
        prop_assert_eq!(&found[0], &found[1]);
        Ok(())
    });
}
