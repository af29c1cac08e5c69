//! Interfaces of several queues.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::{
    CHILDREN, DEADLINE, NAME, Tap, TapError, TapQueue, in_namespace, ioctl, ip, keep_quiet,
    open_queues,
};
use crate::endpoint::testing::Guest;
use crate::endpoint::{Endpoint, HashTypes, Queue, Rss, RxFlags, Steering, Toeplitz};

/// A key that distinguishes flows.
const KEY: &[u8; 40] = b"a key of forty bytes, of which all count";
const FLOWS: u16 = 16;

fn refusal(queues: u16) -> TapError {
    open_queues(Some(queues)).expect_err("an interface that should be refused")
}

#[test]
fn a_created_interface_has_as_many_queues_as_requested() {
    in_namespace(|| {
        for count in [1, 2, 5, 64] {
            let mut tap = open_queues(Some(count)).unwrap();
            assert_eq!(tap.inspect()["queues"], count);
            assert_eq!(tap.take_queues().len(), usize::from(count));
        }
        let processors = std::thread::available_parallelism().unwrap().get();
        let mut tap = open_queues(None).unwrap();
        assert_eq!(tap.take_queues().len(), processors.min(16));
    });
}

#[test]
fn an_existing_interface_has_one_queue_unless_more_are_requested() {
    in_namespace(|| {
        ip(&format!("tuntap add dev {NAME} mode tap multi_queue"));
        let _no_child = CHILDREN.lock();
        for (asked, has) in [(None, 1), (Some(1), 1), (Some(4), 4), (Some(64), 64)] {
            let mut tap = open_queues(asked).unwrap();
            assert_eq!(tap.take_queues().len(), has);
        }
        for count in [0, 65, u16::MAX] {
            let refused = refusal(count);
            assert!(matches!(refused, TapError::QueueCount(_)), "{refused}");
        }
    });
}

#[test]
fn one_of_one_queue_is_refused_by_name_if_several_are_asked_for() {
    in_namespace(|| {
        ip(&format!("tuntap add dev {NAME} mode tap"));
        let _no_child = CHILDREN.lock();
        let refused = refusal(4);
        assert!(matches!(refused, TapError::OneQueue(_, 4)), "{refused}");
        let said = refused.to_string();
        assert!(
            said.contains("tuntap add dev tap-test mode tap multi_queue"),
            "{said}"
        );
        // The same error is given while another process has it.
        let _tap = open_queues(Some(1)).unwrap();
        assert!(matches!(refusal(4), TapError::OneQueue(_, 4)));
    });
}

#[test]
fn queues_that_others_have_are_a_reason_to_refuse() {
    in_namespace(|| {
        ip(&format!("tuntap add dev {NAME} mode tap multi_queue"));
        let _no_child = CHILDREN.lock();
        let first = open_queues(Some(64)).unwrap();
        let refused = refusal(4);
        assert!(matches!(refused, TapError::Shared(_, 64)), "{refused}");
        // The kernel has 256.
        let others: Vec<_> = (0..190).map(|_| another_queue()).collect();
        let refused = refusal(4);
        assert!(
            matches!(refused, TapError::TooFewQueues(_, 2, 4)),
            "{refused}"
        );
        drop((first, others));
        assert!(open_queues(Some(4)).is_ok());
    });
}

/// Attaches another queue.
fn another_queue() -> OwnedFd {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).unwrap();
    let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    ioctl::set_interface(fd.as_fd(), NAME, kind).unwrap();
    fd
}

/// A TAP of several queues that receives a socket's datagrams, and the guest's side of each queue.
struct Flows {
    queues: Vec<TapQueue>,
    guests: Vec<Guest>,
    sockets: Vec<UdpSocket>,
    tap: Tap,
    /// What the interface dropped before it was open.
    missed: u64,
}

impl Flows {
    fn new(count: u16) -> Self {
        keep_quiet();
        let mut tap = open_queues(Some(count)).unwrap();
        ip(&format!("link set {NAME} address 02:00:00:00:00:02 up"));
        ip(&format!("address add 10.0.0.2/24 dev {NAME}"));
        ip(&format!(
            "neighbour add 10.0.0.1 lladdr 02:00:00:00:00:01 dev {NAME} nud permanent"
        ));
        let sockets = (0..FLOWS).map(|flow| {
            let socket = UdpSocket::bind(("10.0.0.2", 2000 + flow)).unwrap();
            socket.connect("10.0.0.1:1000").unwrap();
            socket
        });
        let mut flows = Self {
            sockets: sockets.collect(),
            guests: (0..count).map(|_| Guest::new()).collect(),
            queues: std::mem::take(&mut tap.queues),
            tap,
            missed: 0,
        };
        flows.wait_until_open();
        flows.missed = flows.tap.missed();
        flows
    }

    fn steer(&mut self, table: &[u16]) {
        let steering = Steering {
            hash_types: HashTypes::all(),
            key: *KEY,
            table: table.to_vec(),
            default_queue: table[0].into(),
        };
        self.tap.steer(Some(Arc::new(Rss::new(&steering, true))));
    }

    /// The kernel drops what is sent to a TAP that was just attached.
    fn wait_until_open(&mut self) {
        let end = std::time::Instant::now() + DEADLINE;
        loop {
            assert!(std::time::Instant::now() < end, "no datagram came");
            self.sockets[0].send(&[0xff]).unwrap();
            if self.receive().values().any(|received| !received.is_empty()) {
                break;
            }
        }
        while self.receive().values().any(|received| !received.is_empty()) {}
    }

    /// Receives all datagrams that have arrived. Returns flow and payload of each, by queue.
    fn receive(&mut self) -> BTreeMap<u16, Vec<(u16, u8)>> {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        let mut more = true;
        while more {
            more = false;
            for (index, guest) in (0..).zip(&mut self.guests) {
                while guest.rx.len() < 32 {
                    guest.post();
                }
                let queue = &mut self.queues[usize::from(index)];
                more |= queue.receive(&mut guest.io());
                let received = guest.received();
                more |= !received.is_empty() || !std::mem::take(&mut guest.woken).is_empty();
                for packet in received {
                    let frame = guest.content(&packet);
                    if packet.flags.contains(RxFlags::HASH_L4) {
                        let hash = Toeplitz::new(KEY).hash(&frame[26..34], &frame[34..38]);
                        assert_eq!(packet.hash, hash);
                    }
                    let port = u16::from_be_bytes([frame[34], frame[35]]);
                    all.entry(index).or_default().push((port - 2000, frame[42]));
                }
            }
        }
        all
    }
}

/// Returns the queue that a table names for a flow.
fn named(flow: u16, table: &[u16]) -> u16 {
    let ports = [(2000 + flow).to_be_bytes(), 1000_u16.to_be_bytes()].concat();
    let hash = Toeplitz::new(KEY).hash(&[10, 0, 0, 2, 10, 0, 0, 1], &ports);
    table[hash as usize % table.len()]
}

#[test]
fn packets_go_to_the_queue_that_the_table_names_whichever_they_came_on() {
    in_namespace(|| {
        let mut flows = Flows::new(4);
        for table in [
            &[0, 1, 2, 3][..],
            &[3, 3, 1, 1],
            &[2],
            &[0, 1, 0, 1, 0, 1, 0, 1],
        ] {
            flows.steer(table);
            for value in 0..4 {
                for socket in &flows.sockets {
                    socket.send(&[value]).unwrap();
                }
            }
            let received = flows.receive();
            let total: usize = received.values().map(Vec::len).sum();
            assert_eq!(total, 4 * usize::from(FLOWS), "{table:?}");
            for (queue, datagrams) in received {
                for (flow, _) in &datagrams {
                    assert_eq!(named(*flow, table), queue, "{table:?}");
                }
                // The order of a flow is kept: it came on one queue, and goes to one.
                for flow in 0..FLOWS {
                    let own = datagrams.iter().filter(|(other, _)| *other == flow);
                    let own: Vec<u8> = own.map(|(_, value)| *value).collect();
                    assert!(own.is_sorted(), "{own:?}");
                }
            }
        }
    });
}

#[test]
fn without_steering_all_goes_to_the_first_queue() {
    in_namespace(|| {
        let mut flows = Flows::new(4);
        for socket in &flows.sockets {
            socket.send(&[1]).unwrap();
        }
        let received = flows.receive();
        assert_eq!(received.keys().collect::<Vec<_>>(), [&0]);
        assert_eq!(received[&0].len(), usize::from(FLOWS));
    });
}

#[test]
fn a_flood_on_a_queue_without_buffers_stops_no_other() {
    in_namespace(|| {
        let mut flows = Flows::new(2);
        let table = [0, 1];
        flows.steer(&table);
        let of = |queue| {
            (0..FLOWS)
                .find(|flow| named(*flow, &table) == queue)
                .unwrap()
        };
        let (slow, quick) = (of(1), of(0));
        flows.guests[1].rx.clear();
        for _ in 0..10 {
            for _ in 0..100 {
                flows.sockets[usize::from(slow)].send(&[1]).unwrap();
            }
            flows.sockets[usize::from(quick)].send(&[2]).unwrap();
            let mut arrived = 0;
            let end = std::time::Instant::now() + DEADLINE;
            while arrived == 0 {
                assert!(
                    std::time::Instant::now() < end,
                    "the other queue is stopped"
                );
                for (queue, guest) in flows.queues.iter_mut().zip(&mut flows.guests) {
                    queue.receive(&mut guest.io());
                }
                while flows.guests[0].rx.len() < 32 {
                    flows.guests[0].post();
                }
                arrived += flows.guests[0].received().len();
            }
            assert_eq!(arrived, 1);
        }
        for (queue, guest) in flows.queues.iter_mut().zip(&mut flows.guests) {
            while queue.receive(&mut guest.io()) {}
        }
        let dropped = flows
            .queues
            .iter()
            .map(|queue| queue.counters.receive.dropped);
        assert_eq!(dropped.sum::<u64>(), 1000 - 256);
        assert_eq!(flows.tap.missed(), flows.missed);
        // Packets that the interface's own queue dropped are counted too.
        for _ in 0..3000 {
            flows.sockets[0].send(&[1]).unwrap();
        }
        assert!(flows.tap.missed() > flows.missed);
    });
}
