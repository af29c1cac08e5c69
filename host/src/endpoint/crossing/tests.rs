use std::convert::Infallible;

use super::*;
use crate::endpoint::rss::{HashTypes, Steering};
use crate::endpoint::testing::Guest;
use crate::memory::tests::{NOWHERE, segment};

const ABOUT: About = About {
    flags: RxFlags::IPV4,
    vlan_tci: 7,
    hash: 9,
};

/// Steers all packets to the queues of a table, by a hash.
fn steer(switch: &Switch, routes: &mut [Route], table: &[u16]) {
    let steering = Steering {
        hash_types: HashTypes::all(),
        key: [1; 40],
        table: table.to_vec(),
        default_queue: u32::from(table[0]),
    };
    switch.steer(Some(Arc::new(Rss::new(&steering, true))));
    routes.iter_mut().for_each(Route::refresh);
}

/// Passes a packet of `length` bytes, all equal to `value`. Returns whether it was accepted, and
/// which queues were woken.
fn pass(route: &Route, queue: u16, value: u8, length: usize) -> (bool, QueueSet) {
    let mut woken = QueueSet::default();
    let passed = route.pass(queue, ABOUT, &mut woken, |bytes| {
        bytes.resize(length, value);
        Ok::<_, Infallible>(())
    });
    (passed.unwrap(), woken)
}

#[test]
fn packets_arrive_in_order_where_they_were_passed_to() {
    let (_, routes) = Switch::new(3);
    let (mut guest, mut counters) = (Guest::new(), RxCounters::default());
    for value in 0..5 {
        let (taken, woken) = pass(&routes[1], 2, value, 60);
        assert!(taken);
        assert_eq!(woken.collect::<Vec<_>>(), [2]);
    }
    assert!(!routes[0].has_waiting() && routes[2].has_waiting());
    for _ in 0..3 {
        guest.post();
    }
    assert_eq!(routes[2].take_in(&mut guest.io(), &mut counters, 2), 2);
    assert!(routes[2].has_more(&guest.io()));
    assert_eq!(routes[2].take_in(&mut guest.io(), &mut counters, 9), 1);
    assert!(!routes[2].has_more(&guest.io()), "there is no buffer");
    let received = guest.received();
    let first: Vec<_> = received.iter().map(|p| guest.content(p)[0]).collect();
    assert_eq!(first, [0, 1, 2]);
    let about = (received[0].flags, received[0].vlan_tci, received[0].hash);
    assert_eq!(about, (ABOUT.flags, ABOUT.vlan_tci, ABOUT.hash));
    assert_eq!((counters.packets, counters.bytes), (3, 180));
}

#[test]
fn a_backlog_is_bounded_and_whoever_waits_for_room_is_woken() {
    let (switch, mut routes) = Switch::new(3);
    // All go to queue 0: packets without room wait.
    assert!(routes[1].holds());
    for _ in 0..MAX_PACKETS {
        assert!(pass(&routes[1], 0, 1, 60).0);
    }
    assert!(!pass(&routes[1], 0, 1, 60).0);
    let (mut guest, mut counters) = (Guest::new(), RxCounters::default());
    guest.post();
    assert_eq!(routes[0].take_in(&mut guest.io(), &mut counters, 9), 1);
    assert_eq!(guest.woken.collect::<Vec<_>>(), [1]);
    assert!(pass(&routes[1], 0, 1, 60).0);

    // They go to several: none waits.
    steer(&switch, &mut routes, &[0, 2]);
    assert!(!routes[1].holds());
    assert!(!pass(&routes[1], 0, 1, 60).0);
    guest.woken = QueueSet::default();
    guest.post();
    routes[0].take_in(&mut guest.io(), &mut counters, 9);
    assert!(guest.woken.is_empty());
    // A full queue does not affect others.
    assert!(pass(&routes[1], 2, 1, 60).0);
}

#[test]
fn long_packets_fill_a_backlog_sooner() {
    let (_, routes) = Switch::new(2);
    let long = 65_000;
    let most = MAX_BYTES.div_ceil(long);
    let taken = (0..100).filter(|_| pass(&routes[1], 0, 1, long).0).count();
    assert_eq!(taken, most);
    let waiting = routes[0].own().waiting.lock();
    assert_eq!(waiting.bytes, most * long);
}

#[test]
fn settling_delivers_what_it_can_and_drops_the_rest() {
    let (_, routes) = Switch::new(2);
    let (mut guest, mut counters) = (Guest::new(), RxCounters::default());
    for value in 0..5 {
        pass(&routes[1], 0, value, 60);
    }
    for _ in 0..2 {
        guest.post();
    }
    routes[0].settle(&mut guest.io(), &mut counters);
    assert_eq!(guest.received().len(), 2);
    assert_eq!((counters.packets, counters.dropped), (2, 3));
    assert!(!routes[0].has_waiting());
    let waiting = routes[0].own().waiting.lock();
    assert_eq!(waiting.bytes, 0);
}

#[test]
fn a_bad_buffer_does_not_cost_the_packet() {
    let (_, routes) = Switch::new(2);
    let (mut guest, mut counters) = (Guest::new(), RxCounters::default());
    pass(&routes[1], 0, 5, 60);
    guest.post_cut(&[segment(NOWHERE, 100)]);
    guest.post();
    assert_eq!(routes[0].take_in(&mut guest.io(), &mut counters, 9), 2);
    let received = guest.received();
    assert_eq!(received[0].flags, RxFlags::MEMORY_FAULT);
    assert_eq!(guest.content(&received[1]), [5; 60]);
    assert_eq!((counters.memory_faults, counters.packets), (1, 1));
    // A small buffer gets the beginning.
    pass(&routes[1], 0, 5, 60);
    guest.post_cut(&[segment(crate::memory::tests::LARGE, 20)]);
    routes[0].take_in(&mut guest.io(), &mut counters, 9);
    let received = guest.received();
    assert!(received[0].flags.contains(RxFlags::TRUNCATED));
    assert_eq!(received[0].length, 60);
}

#[test]
fn a_packet_that_cannot_be_read_is_not_passed() {
    let (_, routes) = Switch::new(2);
    let mut woken = QueueSet::default();
    let passed = routes[1].pass(0, ABOUT, &mut woken, |_| Err("unreadable"));
    assert_eq!(passed, Err("unreadable"));
    assert!(woken.is_empty() && !routes[0].has_waiting());
    // Neither is one for a queue that does not exist.
    assert!(!pass(&routes[1], 2, 0, 60).0);
}

#[test]
fn steering_takes_effect_when_a_queue_looks() {
    let (switch, mut routes) = Switch::new(4);
    assert!(routes[0].is_own() && !routes[1].is_own());
    assert!(routes[0].is_shared());
    steer(&switch, &mut routes, &[1, 1]);
    assert!(!routes[0].is_own() && routes[1].is_own());
    assert_eq!(routes[0].look(&[0; 60], None).queue, 1);
    switch.steer(None);
    assert!(routes[1].is_own(), "it has not polled");
    routes.iter_mut().for_each(Route::refresh);
    assert!(routes[0].is_own() && !routes[1].is_own());
    assert!(!Route::default().is_shared());
}
