//! Work queues: WQEs are read as they were posted, and invalid doorbells change
//! nothing.

use std::vec::Vec;

use crate::gdma::queue::wq::{Direction, Fetched, Wq, Wqe as Copied};
use device_kit::ring::Layout;
use manatee_conformance::driver::wqe::{Wqe, sge};
use proptest::prelude::*;

fn entry() -> impl Strategy<Value = Wqe> {
    let oob = prop_oneof![Just(8usize), Just(24), Just(32)];
    (oob, 0usize..28, any::<u64>()).prop_map(|(oob, pieces, seed)| {
        let oob: Vec<u8> = (0..oob).map(|n| (seed >> (n % 8)) as u8).collect();
        let sgl: Vec<_> = (0..pieces as u64)
            .map(|n| sge(seed.wrapping_mul(n + 1), n as u32))
            .collect();
        let mut wqe = Wqe::new(&oob, &sgl);
        if oob.len() == 32 {
            wqe.header.set_inline_oob_size_div4(7);
        }
        wqe
    })
}

#[test]
fn wqes_are_read_as_they_were_posted() {
    let strategy = (
        any::<bool>(),
        0u32..4,
        prop::collection::vec((entry(), any::<bool>()), 1..60),
    );
    super::check(96, strategy, |(windows, log2, entries)| {
        let pages = 1 << log2;
        let mut world = super::world(windows);
        let ring = super::ring(&mut world, pages, Layout::Wrapping);
        let mut wq = Wq::new(ring, Direction::Send);
        let mut found = Copied::default();
        let (mut tail, mut rung) = (0u32, 0u32);
        let mut posted = Vec::new();
        for (wqe, ring_now) in entries {
            let bytes = wqe.to_bytes();
            if ring_now || tail - rung + bytes.len() as u32 > wq.ring.size() - 512 {
                prop_assert!(wq.ring_doorbell(tail));
                for (expected, at) in posted.drain(..) {
                    let expected: Wqe = expected;
                    prop_assert_eq!(wq.fetch(&mut world, &mut found), Fetched::Wqe);
                    prop_assert_eq!(found.position, at);
                    prop_assert_eq!(found.sgl(), &expected.sgl[..]);
                    let oob: Vec<u8> = found.oob().iter().flat_map(|w| w.to_le_bytes()).collect();
                    prop_assert_eq!(oob, expected.oob);
                    wq.complete_to(found.end);
                }
                prop_assert_eq!(wq.fetch(&mut world, &mut found), Fetched::Nothing);
                rung = tail;
            }
            super::put(&world, pages, tail, &bytes);
            posted.push((wqe, tail));
            tail += bytes.len() as u32;
        }
        Ok(())
    });
}

#[test]
fn any_bytes_are_read_to_the_end() {
    let byte = || prop_oneof![Just(0u8), Just(0xff), any::<u8>()];
    let strategy = (
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(byte(), 4096),
        1u32..=128,
    );
    super::check(96, strategy, |(windows, send, data, units)| {
        let mut world = super::world(windows);
        let ring = super::ring(&mut world, 1, Layout::Wrapping);
        super::put(&world, 1, 0, &data);
        let (direction, most) = if send {
            (Direction::Send, 512)
        } else {
            (Direction::Receive, 256)
        };
        let mut wq = Wq::new(ring, direction);
        prop_assert!(wq.ring_doorbell(units * 32));
        let mut entry = Copied::default();
        let mut before = 0;
        loop {
            match wq.fetch(&mut world, &mut entry) {
                Fetched::Nothing => break,
                Fetched::Wqe => prop_assert!(entry.end - entry.position <= most),
                Fetched::Malformed => {}
                Fetched::Unreadable | Fetched::Skipped => {
                    prop_assert!(false, "the memory is there");
                }
            }
            prop_assert_eq!(entry.position, before);
            prop_assert!(entry.end > before && entry.end <= units * 32);
            before = entry.end;
        }
        prop_assert_eq!(before, units * 32);
        Ok(())
    });
}

#[test]
fn doorbells_move_only_forward_into_what_is_free() {
    let tails = prop::collection::vec(
        prop_oneof![0u32..9000, any::<u32>(), (0u32..300).prop_map(|n| n * 32)],
        1..60,
    );
    super::check(256, tails, |tails| {
        let mut world = super::world(false);
        let ring = super::ring(&mut world, 1, Layout::Wrapping);
        let mut wq = Wq::new(ring, Direction::Send);
        let (mut posted, mut done) = (0u32, 0u32);
        for (turn, tail) in tails.into_iter().enumerate() {
            let good = tail >= posted && tail - done <= 4096 && tail.is_multiple_of(32);
            prop_assert_eq!(wq.ring_doorbell(tail), good);
            if good {
                posted = tail;
            }
            if turn % 3 == 0 {
                wq.complete_to(posted);
                done = posted;
            }
            prop_assert_eq!(wq.positions().producer, posted);
        }
        Ok(())
    });
}
