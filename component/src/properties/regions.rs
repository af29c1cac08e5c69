//! DMA regions against a list of them.

use std::vec;
use std::vec::Vec;

use crate::gdma::regions::{Created, DmaRegions};
use crate::limits::Shape;
use mana_wire::gdma::Status;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Create(u32, usize),
    Add(usize, usize),
    Destroy(usize),
    Take(usize),
    Release(usize),
    /// Uses a handle that is of no region.
    Stale(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u32..6, 1usize..7).prop_map(|(pages, first)| Step::Create(pages, first)),
        (any::<usize>(), 0usize..4).prop_map(|(which, count)| Step::Add(which, count)),
        any::<usize>().prop_map(Step::Destroy),
        any::<usize>().prop_map(Step::Take),
        any::<usize>().prop_map(Step::Release),
        any::<u64>().prop_map(Step::Stale),
    ]
}

struct Region {
    handle: u64,
    pages: usize,
    given: usize,
}

fn pages(from: usize, count: usize) -> Vec<u64> {
    (from..from + count)
        .map(|n| 0x10_0000 + 0x1000 * n as u64)
        .collect()
}

fn outcome(given: usize, wanted: usize) -> Option<bool> {
    (given <= wanted).then_some(given == wanted)
}

#[test]
fn regions_are_what_a_list_says() {
    let steps = prop::collection::vec(step(), 1..80);
    super::check(256, steps, |steps| {
        let mut world = super::world(false);
        let mut regions = DmaRegions::default();
        let mut live: Vec<Region> = Vec::new();
        let mut queues: Vec<Vec<u64>> = Vec::new();
        let mut gone = vec![0];
        for step in steps {
            match step {
                Step::Create(count, first) => {
                    let shape = Shape {
                        length: u64::from(count) * 4096,
                        offset_in_page: 0,
                        page_count: count,
                    };
                    let made = regions.create(&mut world, shape, &pages(0, first));
                    let complete = outcome(first, count as usize);
                    prop_assert_eq!(made.ok().map(|it| it.is_complete), complete);
                    if let Ok(Created { handle, .. }) = made {
                        prop_assert!(!gone.contains(&handle), "a handle was used again");
                        prop_assert!(live.iter().all(|r| r.handle != handle));
                        let pages = count as usize;
                        live.push(Region {
                            handle,
                            pages,
                            given: first,
                        });
                    }
                }
                Step::Add(which, count) if !live.is_empty() => {
                    let index = which % live.len();
                    let region = &mut live[index];
                    let list = pages(region.given, count);
                    let added = regions.add_pages(&mut world, region.handle, &list);
                    let expected = outcome(region.given + count, region.pages);
                    prop_assert_eq!(added.ok(), expected.filter(|_| count > 0));
                    if added.is_ok() {
                        region.given += count;
                    }
                }
                Step::Destroy(which) if !live.is_empty() => {
                    let region = live.swap_remove(which % live.len());
                    prop_assert_eq!(regions.destroy(region.handle), Ok(()));
                    gone.push(region.handle);
                }
                Step::Take(which) if !live.is_empty() => {
                    let index = which % live.len();
                    let region = &live[index];
                    let size = region.pages as u32 * 4096;
                    let taken = regions.take_for_queue(region.handle, size);
                    let good = region.given == region.pages && region.pages.is_power_of_two();
                    prop_assert_eq!(taken.is_ok(), good);
                    if let Ok(taken) = taken {
                        prop_assert_eq!(&taken, &pages(0, region.pages));
                        queues.push(taken);
                        gone.push(live.swap_remove(index).handle);
                    }
                }
                Step::Release(which) if !queues.is_empty() => {
                    let pages = queues.swap_remove(which % queues.len());
                    regions.release(&pages);
                }
                Step::Stale(any) => {
                    let stale = gone[any as usize % gone.len()];
                    for handle in [stale, any] {
                        if live.iter().all(|region| region.handle != handle) {
                            let end = regions.destroy(handle);
                            prop_assert_eq!(end, Err(Status::InvalidHandle));
                        }
                    }
                }
                _ => {}
            }
            let used: usize = live.iter().map(|region| region.pages).sum();
            let queued: usize = queues.iter().map(Vec::len).sum();
            prop_assert_eq!(regions.usage(), (live.len(), used + queued));
        }
        Ok(())
    });
}
