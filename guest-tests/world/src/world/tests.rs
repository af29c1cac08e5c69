use alloc::vec;

use device_kit::platform::Offloads;

use super::*;
use crate::contract::HashTypes;

fn packet(segments: u16) -> TxPacket {
    TxPacket::with_offloads(1, segments, Offloads::empty())
}

/// Transmits a frame of 60 bytes to this address, in segments of these lengths.
fn transmit(world: &mut World, destination: &[u8; 6], lengths: &[u32]) -> TransmitResult {
    world.memory.poke(0, destination).expect("guest memory");
    let mut address = 0;
    let segments: Vec<Segment> = lengths
        .iter()
        .map(|&length| {
            let segment = Segment { address, length };
            address += u64::from(length);
            segment
        })
        .collect();
    world.transmit(0, 0, &[packet(lengths.len() as u16)], &segments)
}

const BROADCAST: [u8; 6] = [0xff; 6];
const MULTICAST: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];

#[test]
fn offences_are_told_once() {
    let mut world = World::with_ports(1, 2);
    world.vectors = 3;
    world.raise(&[1, 2, 1, 3]);
    assert_eq!(world.take_interrupts(), [1, 2, 1]);
    assert_eq!(world.post_receive(1, 0, &[], &[]), 0);
    assert_eq!(world.post_receive(0, 1, &[], &[]), 0);
    world.cancel_receive(0, 2);
    world.cancel_transmit(2, 0);
    let offences = world.take_offences();
    assert_eq!(offences.len(), 5, "{offences:?}");
    assert!(world.take_offences().is_empty());
}

#[test]
fn lists_that_do_not_add_up_are_an_offence() {
    let segment = Segment {
        address: 0,
        length: 60,
    };
    for (count, given) in [(1, 2), (2, 1), (0, 0)] {
        let mut world = World::with_ports(1, 1);
        let given = vec![segment; given];
        world.transmit(0, 0, &[packet(count)], &given);
        let buffer = RxBuffer {
            id: 1,
            segments: count,
        };
        assert_eq!(world.post_receive(0, 0, &[buffer], &given), 0);
        assert_eq!(world.take_offences().len(), 2);
        assert!(world.queue(0, 0).take_transmitted().is_empty());
    }
}

#[test]
fn group_packets_are_counted() {
    let mut world = World::with_ports(1, 1);
    let result = transmit(&mut world, &BROADCAST, &[60]);
    assert!(result.statuses.is_empty());
    assert_eq!((result.broadcast, result.multicast), ((1, 60), (0, 0)));
    let result = transmit(&mut world, &MULTICAST, &[60]);
    assert_eq!((result.broadcast, result.multicast), ((0, 0), (1, 60)));
    let result = transmit(&mut world, &[2, 0, 0, 0, 0, 1], &[60]);
    assert_eq!(result, TransmitResult::default());
}

#[test]
fn group_packets_are_counted_unless_they_fail() {
    let counted = [TxStatus::Sent, TxStatus::Pending, TxStatus::Dropped];
    let others = [
        TxStatus::MemoryFault,
        TxStatus::TooLong,
        TxStatus::BadHeaders,
    ];
    for (statuses, expected) in [(counted, (1, 60)), (others, (0, 0))] {
        for status in statuses {
            let mut world = World::with_ports(1, 1);
            world.queue(0, 0).plan_transmits(&[status]);
            let result = transmit(&mut world, &MULTICAST, &[60]);
            assert_eq!(result.multicast, expected, "{status:?}");
        }
    }
}

#[test]
fn group_packets_are_counted_if_the_first_segment_has_the_address() {
    let mut world = World::with_ports(1, 1);
    let result = transmit(&mut world, &BROADCAST, &[6, 54]);
    assert_eq!(result.broadcast, (1, 60));
    let result = transmit(&mut world, &BROADCAST, &[5, 55]);
    assert_eq!(result.broadcast, (0, 0));
}

#[test]
fn a_packet_in_memory_that_is_gone_fails_alone() {
    let mut world = World::with_ports(1, 1);
    world.memory.revoke(4096, 1);
    let segments = [0, 4096, 0].map(|address| Segment {
        address,
        length: 60,
    });
    let result = world.transmit(0, 0, &[packet(1); 3], &segments);
    let expected = [TxStatus::Sent, TxStatus::MemoryFault, TxStatus::Sent];
    assert_eq!(result.statuses, expected);
    assert_eq!(world.queue(0, 0).take_transmitted().len(), 2);
}

#[test]
fn steering_is_recorded_if_it_was_offered() {
    let steering = |queue| Steering {
        hash_types: HashTypes::IPV4,
        key: vec![0; 40],
        table: vec![0, queue],
        default_queue: 0,
    };
    let mut world = World::with_ports(1, 2);
    world.steer(0, steering(1));
    assert_eq!(world.take_offences().len(), 1);
    world.offered = Features::STEERING;
    world.steer(0, steering(2));
    assert_eq!(world.take_offences().len(), 1, "there is no queue 2");
    assert_eq!(world.port(0).steering(), None);
    world.steer(0, steering(1));
    assert_eq!(world.port(0).steering(), Some(&steering(1)));
    let mut short = steering(1);
    short.key.pop();
    world.steer(0, short);
    assert_eq!(world.take_offences().len(), 1, "39 bytes are no key");
}

#[test]
fn what_a_failed_device_had_is_taken_back() {
    let mut world = World::with_ports(2, 2);
    let segment = Segment {
        address: 0,
        length: 60,
    };
    world.queue(1, 1).plan_transmits(&[TxStatus::Pending]);
    world.transmit(1, 1, &[packet(1)], &[segment]);
    world.post_receive(0, 1, &[RxBuffer { id: 3, segments: 1 }], &[segment]);
    let expected = HandedOver {
        port: 1,
        queue: 1,
        id: 1,
    };
    assert_eq!(world.take_back(), [expected]);
    assert_eq!(world.queue(1, 1).pending_transmits(), 0);
    assert_eq!(world.queue(0, 1).posted_buffers(), 0);
    assert_eq!(world.take_back(), []);
}
