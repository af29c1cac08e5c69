//! The state that a port keeps for its queues.

use super::*;
use crate::contract::{HashTypes, Offloads, TxPacket};
use crate::endpoint::{KEY_BYTES, Loopback, Null};
use crate::memory::tests::{LARGE, guest_memory, segment};

fn port(endpoint: impl Endpoint + 'static) -> Result<PortState, InvalidPort> {
    PortState::try_from(Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(endpoint),
    })
}

fn steering(table: &[u16]) -> Steering {
    Steering {
        hash_types: HashTypes::all(),
        key: [7; KEY_BYTES],
        table: table.to_vec(),
        default_queue: table[0].into(),
    }
}

/// Sends packets of 60 bytes on a queue.
fn send(port: &mut PortState, queue: u16, memory: &GuestMemory, ids: &[u32]) -> Vec<TxStatus> {
    let packet = |id: &u32| TxPacket {
        id: *id,
        segments: 1,
        l4_offset: 0,
        segment_size: 0,
        vlan_tci: 0,
        offloads: Offloads::empty(),
    };
    let packets: Vec<_> = ids.iter().map(packet).collect();
    let segments = vec![segment(LARGE, 60); ids.len()];
    let mut statuses = Vec::new();
    port.set_handed_over(queue, ids.last().copied());
    let batch = TxBatch::new(&packets, &segments).unwrap();
    port.transmit(queue, memory, batch, &mut statuses);
    statuses
}

fn post(port: &mut PortState, queue: u16, count: u32) {
    let buffers: Vec<_> = (0..count).map(|id| RxBuffer { id, segments: 1 }).collect();
    let segments = vec![segment(LARGE + 4096, 2048); buffers.len()];
    assert_eq!(port.post(queue, &buffers, &segments), Some(count));
}

/// Receives until no queue has work. Returns the number of packets of each queue.
fn receive(port: &mut PortState, memory: &GuestMemory) -> Vec<usize> {
    let mut rounds = 0;
    loop {
        let mut busy = false;
        for queue in port.work() {
            busy |= port.receive(queue, memory);
        }
        if !busy {
            break;
        }
        rounds += 1;
        assert!(rounds < 100, "queues wake each other for ever");
    }
    let received = port.queues().iter().map(|queue| queue.done.received.len());
    received.collect()
}

#[test]
fn ports_have_1_to_64_queues() {
    for count in [1, 2, 64] {
        let port = port(Null::with_queues(count)).unwrap();
        assert_eq!((port.count(), port.config().queues), (count, count));
        assert_eq!(port.find(u32::from(count) - 1), Some(count - 1));
        for beyond in [u32::from(count), 0x1_0000, u32::MAX] {
            assert_eq!(port.find(beyond), None);
        }
    }
    for count in [0, 65] {
        let refused = port(Null::with_queues(count)).unwrap_err();
        assert_eq!(refused, InvalidPort::Queues(count.into()));
    }
}

#[test]
fn packets_find_their_queue_and_wake_it() {
    let memory = guest_memory();
    let mut port = port(Loopback::with_queues(3)).unwrap();
    assert!(!port.has_work());
    for queue in 0..3 {
        post(&mut port, queue, 8);
    }
    assert_eq!(receive(&mut port, &memory), [0, 0, 0]);
    // Without steering all go to the first queue.
    send(&mut port, 2, &memory, &[1, 2]);
    assert_eq!(receive(&mut port, &memory), [2, 0, 0]);
    port.steer(Some(&memory), Some(steering(&[1])), true);
    send(&mut port, 2, &memory, &[3, 4, 5]);
    assert_eq!(receive(&mut port, &memory), [2, 3, 0]);
    assert!(port.finished().eq(QueueSet::first(2)));
    // Packets are reported once.
    let done = port.take_done(1);
    assert_eq!(done.received.len(), 3);
    port.give_back_done(1, Completions::default());
    assert!(port.finished().eq(QueueSet::first(1)));
}

#[test]
fn the_device_hears_of_what_came_before_a_change_first() {
    let memory = guest_memory();
    let mut port = port(Loopback::with_queues(2)).unwrap();
    port.steer(Some(&memory), Some(steering(&[1])), true);
    assert!(port.take_turned().is_empty());
    send(&mut port, 0, &memory, &[1, 2, 3]);
    post(&mut port, 1, 2);
    port.steer(Some(&memory), Some(steering(&[0])), true);
    assert_eq!(port.take_turned().collect::<Vec<_>>(), [1]);
    assert_eq!(port.queues()[1].done.received.len(), 2);
    assert!(port.take_turned().is_empty());
    post(&mut port, 0, 2);
    post(&mut port, 1, 1);
    assert_eq!(
        receive(&mut port, &memory),
        [0, 2],
        "the third is not delivered later"
    );
    // While memory can't be written, nothing is delivered.
    port.steer(Some(&memory), Some(steering(&[1])), true);
    send(&mut port, 0, &memory, &[4]);
    port.steer(None, None, true);
    assert_eq!(receive(&mut port, &memory), [0, 2]);
}

#[test]
fn an_instance_that_ends_leaves_what_the_next_one_needs() {
    let memory = guest_memory();
    let mut port = port(Loopback::with_queues(2)).unwrap();
    port.steer(Some(&memory), Some(steering(&[1])), true);
    port.limit_rate(Some(100_000));
    post(&mut port, 0, 4);
    send(&mut port, 0, &memory, &[7, 8]);
    port.abandon();
    assert!(port.queues().iter().all(|queue| queue.rx.is_empty()));
    assert_eq!(port.queues()[0].handed_over(), Some(8));
    assert_eq!(port.steering(), Some(&steering(&[1])));
    assert_eq!(port.rate(), Some(100_000));
    // Packets in the backlog arrive.
    post(&mut port, 1, 4);
    assert_eq!(receive(&mut port, &memory), [0, 2]);

    send(&mut port, 0, &memory, &[9]);
    port.reset();
    let queue = &port.queues()[0];
    assert_eq!((queue.handed_over(), queue.pending()), (None, 0));
    assert_eq!((port.steering(), port.rate()), (None, None));
    post(&mut port, 0, 4);
    post(&mut port, 1, 4);
    assert_eq!(receive(&mut port, &memory), [0, 0]);
}

#[test]
fn a_queue_whose_buffers_are_taken_back_gets_nothing_that_waited() {
    let memory = guest_memory();
    let mut port = port(Loopback::with_queues(2)).unwrap();
    port.steer(Some(&memory), Some(steering(&[1])), true);
    let many: Vec<u32> = (0..300).collect();
    let statuses = send(&mut port, 0, &memory, &many);
    let pending = statuses
        .iter()
        .filter(|it| **it == TxStatus::Pending)
        .count();
    assert_eq!(pending, 300 - 256);
    port.cancel_receive(1);
    post(&mut port, 1, 400);
    // Those that had not been passed on arrive now.
    assert_eq!(receive(&mut port, &memory), [0, pending]);
    let statistics = port.statistics();
    assert_eq!(
        (statistics.tx_packets, statistics.rx_packets),
        (300, pending as u64)
    );
    assert_eq!(statistics.rx_dropped, 256);
}

#[test]
fn the_lower_of_two_rates_holds_and_the_operators_outlives_a_reset() {
    let memory = guest_memory();
    let mut port = port(Null::with_queues(1)).unwrap();
    let shown = |port: &PortState| {
        let settings = port.gauges.settings.lock();
        let own = (settings.guest_rate_mbps, settings.operator_rate_mbps);
        (settings.rate_mbps, own)
    };
    port.limit_rate_by_operator(Some(100));
    assert_eq!(shown(&port), (Some(100), (None, Some(100))));
    port.limit_rate(Some(0));
    assert_eq!(shown(&port), (Some(0), (Some(0), Some(100))));
    assert_eq!(send(&mut port, 0, &memory, &[1]), [TxStatus::Pending]);
    port.limit_rate(Some(200));
    assert_eq!((shown(&port).0, port.rate()), (Some(100), Some(200)));
    port.limit_rate_by_operator(None);
    assert_eq!(shown(&port), (Some(200), (Some(200), None)));
    port.limit_rate_by_operator(Some(1));
    port.reset();
    assert_eq!(shown(&port), (Some(1), (None, Some(1))));
    // At 1 Mbit/s the first leaves, and the second waits at least half a millisecond.
    send(&mut port, 0, &memory, &[2, 3]);
    assert_eq!(port.queues()[0].pending(), 1);
    port.release_all(&memory);
    assert_eq!((port.queues()[0].pending(), shown(&port).0), (0, Some(1)));
    assert!(port.due().is_none(), "none waits");
}

#[test]
fn what_a_rate_holds_is_there_until_it_is_lifted() {
    let memory = guest_memory();
    let mut port = port(Null::with_queues(2)).unwrap();
    assert_eq!(port.due(), None);
    port.limit_rate(Some(0));
    assert!(port.take_alarm());
    for queue in 0..2 {
        assert_eq!(
            send(&mut port, queue, &memory, &[1, 2]),
            [TxStatus::Pending; 2]
        );
    }
    assert!(port.take_alarm() && !port.take_alarm());
    // Traffic continues after an idle time.
    port.wake_all();
    assert!(port.take_alarm());
    port.release(&memory);
    assert_eq!((port.due(), port.queues()[1].pending()), (None, 2));
    port.limit_rate(Some(1));
    assert!(port.due().is_some());
    port.limit_rate(None);
    port.release(&memory);
    assert_eq!(port.due(), None);
    let ended = port
        .queues()
        .iter()
        .map(|queue| queue.done.transmitted.len());
    assert_eq!(ended.collect::<Vec<_>>(), [2, 2]);
    assert!(port.finished().eq(QueueSet::first(2)));
    assert_eq!(port.statistics().tx_packets, 4);
}
