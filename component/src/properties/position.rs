//! `cq::Position` against counters that never wrap.

use crate::gdma::queue::position::Position;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Post(u32),
    /// Consumes a part of what is pending.
    Consume(u32),
    /// Any doorbell.
    Any(u32),
    /// Announces work.
    Work,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u32..600).prop_map(Step::Post),
        any::<u32>().prop_map(Step::Consume),
        prop_oneof![0u32..5000, any::<u32>()].prop_map(Step::Any),
        Just(Step::Work),
    ]
}

#[test]
fn counts_like_counters_that_never_wrap() {
    let entries = (0u32..9).prop_map(|log2| 1 << log2);
    let steps = prop::collection::vec(step(), 0..60);
    super::check(512, (entries, steps), |(entries, steps)| {
        let mut position = Position::new(entries);
        let period = u64::from(entries) * 8;
        let (mut posted, mut consumed) = (0u64, 0u64);
        let mut room = u64::from(entries);
        for step in steps {
            let tail = match step {
                Step::Post(count) => {
                    for _ in 0..count {
                        if posted - consumed + 1 >= period {
                            break;
                        }
                        prop_assert_eq!(u64::from(position.index()), posted % u64::from(entries));
                        let lap = posted / u64::from(entries) + 1;
                        prop_assert_eq!(u64::from(position.owner()), lap % 8);
                        position.advance(1);
                        posted += 1;
                        room = room.saturating_sub(1);
                    }
                    prop_assert_eq!(position.is_full(), room == 0);
                    continue;
                }
                Step::Consume(share) => {
                    let to = consumed + u64::from(share) % (posted - consumed + 1);
                    ((to + u64::from(entries)) % period) as u32
                }
                Step::Any(tail) => tail,
                Step::Work => {
                    position.work_announced();
                    room = u64::from(entries);
                    // Counts repeat after eight laps.
                    if posted - consumed > (period - 1) / 2 {
                        consumed = posted - room;
                    }
                    prop_assert!(!position.is_full());
                    prop_assert_eq!(u64::from(position.pending()), posted - consumed);
                    continue;
                }
            };
            let meant = (consumed..=posted)
                .find(|count| (count + u64::from(entries)) % period == u64::from(tail));
            prop_assert_eq!(position.consume_to(tail), meant.is_some());
            if let Some(meant) = meant {
                consumed = meant;
                room = room.max(u64::from(entries).saturating_sub(posted - consumed));
            }
            prop_assert_eq!(u64::from(position.pending()), posted - consumed);
            prop_assert_eq!(position.is_full(), room == 0);
        }
        Ok(())
    });
}
