//! States with the right checksum that contradict themselves: each rule refuses one, with its
//! own message.

use device_kit::Adapter;
use device_kit::envelope::RestoreError;
use device_kit::fault_counter::COUNTABLE;
use manatee_device::state::{InFlight, Pages, Region, State};

use super::{fresh, released};

/// The message of the rule that is violated, and the change to a valid state.
type Lie = (&'static str, fn(&mut State));

fn region(number: u64, page_count: u32) -> Region {
    Region {
        number,
        length: u64::from(page_count) << 12,
        page_count,
        ..Region::default()
    }
}

fn many_pages(count: u64) -> Pages {
    Pages::from_addresses(&(1..=count).map(|page| page << 12).collect::<Vec<_>>())
}

fn in_flight(units: u32, outcome: Option<u8>) -> Option<Vec<InFlight>> {
    let one = InFlight {
        units,
        outcome,
        ..InFlight::default()
    };
    Some([one].into())
}

/// The third object of the state is port 1's send queue, with one WQE of one unit that
/// was read and not completed; the second is port 0's receive queue.
const LIES: &[Lie] = &[
    ("it has another number of ports", |it| {
        it.nic.vports.pop();
    }),
    ("an object that does not exist waits", |it| {
        it.waiting = [it.nic.objects[0].handle() + 100].into();
    }),
    ("an object waits twice", |it| {
        it.waiting = [it.nic.objects[0].handle(); 2].into();
    }),
    ("objects out of order", |it| it.nic.objects.swap(0, 1)),
    ("an object that was never made", |it| it.nic.sequence = 3),
    ("an object of no vport", |it| it.nic.objects[0].vport = 2),
    ("a queue number beyond the last", |it| {
        it.nic.objects[0].queue = 4;
    }),
    ("an object without a completion queue of its own", |it| {
        it.nic.objects[1].cq = it.nic.objects[0].cq;
    }),
    ("an object without a completion queue of its own", |it| {
        // The hardware channel's.
        it.nic.objects[0].cq = 1;
    }),
    ("an object without a completion queue of its own", |it| {
        it.nic.objects[0].cq = 99;
    }),
    ("an object of no direction", |it| {
        it.nic.objects[1].in_flight = Some(Vec::new());
    }),
    ("an object of no direction", |it| {
        it.nic.objects[1].posted = None;
    }),
    ("an object without a work queue of its own", |it| {
        it.nic.objects[2].wq = it.nic.objects[0].wq;
    }),
    ("an object without a work queue of its own", |it| {
        it.nic.objects[1].wq = 1;
    }),
    ("two objects for one queue", |it| {
        it.nic.objects[2].vport = 0;
    }),
    ("too many regions", |it| {
        it.regions.sequence = 2000;
        it.regions.regions = (1..=1025).map(|number| region(number, 1)).collect();
    }),
    ("an impossible region", |it| it.regions.sequence = 1 << 48),
    ("an impossible region", |it| {
        it.regions.regions = [region(1, 5000)].into();
    }),
    ("regions out of order", |it| {
        it.regions.regions = [region(2, 1), region(1, 1)].into();
    }),
    ("regions out of order", |it| {
        it.regions.regions = [region(it.regions.sequence + 1, 1)].into();
    }),
    ("too many pages", |it| {
        let pages = many_pages(2);
        it.regions.regions = [Region {
            pages,
            ..region(1, 1)
        }]
        .into();
    }),
    ("too many pages", |it| {
        it.regions.sequence = 100;
        it.regions.regions = (1..=20).map(|number| region(number, 4096)).collect();
    }),
    ("too many pages", |it| {
        it.queues.sqs[1].pages = many_pages(8192);
    }),
    ("a page beyond all memory", |it| {
        it.queues.sqs[1].pages = Pages::from_addresses(&[u64::MAX]);
    }),
    ("an impossible queue size", |it| {
        it.queues.sqs[1].pages = many_pages(3);
    }),
    ("an impossible queue size", |it| {
        it.queues.eqs[1].ring.pages = Pages::default();
    }),
    ("a queue's id is impossible or taken", |it| {
        it.queues.eqs[1].id = it.queues.eqs[0].id;
    }),
    ("a queue's id is impossible or taken", |it| {
        it.queues.cqs[4].id = 0;
    }),
    ("a queue's id is impossible or taken", |it| {
        it.queues.sqs[2].id = u32::MAX;
    }),
    ("a queue's id is impossible or taken", |it| {
        it.queues.rqs[2].id = 1026;
    }),
    (
        "an interrupt that waits longer than a driver can ask for",
        |it| it.queues.cqs[1].moderation = Some((8, 1024)),
    ),
    (
        "an interrupt that waits longer than a driver can ask for",
        |it| it.queues.eqs[1].due = Some((false, Some(1024))),
    ),
    (
        "an interrupt that waits longer than a driver can ask for",
        |it| it.queues.eqs[1].raised = Some((true, Some(u16::MAX))),
    ),
    ("a vector beyond the table", |it| {
        it.queues.eqs[0].vector = 65;
    }),
    ("a completion queue without its event queue", |it| {
        it.queues.cqs[1].eq = Some(9);
    }),
    ("a ring's position beyond its last lap", |it| {
        it.queues.eqs[0].ring.producer = 256 << 3;
    }),
    ("a ring's position beyond its last lap", |it| {
        it.queues.cqs[0].ring.consumer = 64 << 3;
    }),
    ("more room in a ring than it has entries", |it| {
        it.queues.cqs[0].room = Some(65);
    }),
    ("a completion queue's history of another length", |it| {
        it.queues.cqs[0].completed = [(1, 1)].into();
    }),
    ("a completion queue's history of another length", |it| {
        it.queues.cqs[0].ring.producer += 1;
    }),
    ("a work queue's positions contradict each other", |it| {
        // Read beyond what was posted.
        it.queues.sqs[1].read += 32;
    }),
    ("a work queue's positions contradict each other", |it| {
        // Completed beyond what was read.
        it.queues.sqs[1].completed += 32;
    }),
    ("a work queue's positions contradict each other", |it| {
        it.queues.sqs[1].producer += 4096 + 32;
    }),
    ("a work queue's positions contradict each other", |it| {
        it.queues.sqs[1].producer += 16;
    }),
    ("a hardware channel without its queues", |it| {
        it.hwc.as_mut().unwrap().queues[0] = 2;
    }),
    ("a hardware channel without its queues", |it| {
        it.hwc.as_mut().unwrap().queues[2] = 9;
    }),
    ("a hardware channel without its queues", |it| {
        it.hwc.as_mut().unwrap().queues[3] = 9;
    }),
    ("impossible counters", |it| {
        it.hwc.as_mut().unwrap().answered.1 = COUNTABLE;
    }),
    ("impossible counters", |it| {
        it.nic.vports[1].stats[0] = COUNTABLE;
    }),
    ("counters of another number", |it| {
        it.nic.vports[1].stats.pop();
    }),
    ("a port has another MAC address", |it| {
        it.nic.vports[1].mac[5] ^= 1;
    }),
    ("a port has another MTU", |it| it.nic.vports[1].mtu += 1),
    ("a long indirection table", |it| {
        it.nic.vports[0].steering.table = vec![0; 257];
    }),
    ("a hash key of another length", |it| {
        it.nic.vports[0].steering.hash_key.pop();
    }),
    ("more entries than were read", |it| {
        it.nic.objects[2].in_flight = in_flight(2, None);
    }),
    ("more entries than were read", |it| {
        it.nic.objects[2].in_flight = in_flight(0, None);
    }),
    ("fewer entries than were read", |it| {
        it.nic.objects[2].in_flight = Some(Vec::new());
    }),
    ("fewer entries than were read", |it| {
        it.nic.objects[1].posted.as_mut().unwrap().pop();
    }),
    ("a transmit with an impossible end", |it| {
        it.nic.objects[2].in_flight = in_flight(1, Some(0xff));
    }),
];

fn good() -> State {
    let (_, state) = released().remove(0);
    State::from_bytes(&state).expect("a state")
}

#[test]
fn each_is_refused_by_name() {
    for (index, (rule, lie)) in LIES.iter().enumerate() {
        let mut state = good();
        lie(&mut state);
        let mut device = fresh(2);
        let refused = match device.restore(&state.to_bytes()) {
            Err(RestoreError::Malformed(what) | RestoreError::Mismatch(what)) => what,
            other => panic!("lie {index}, against \"{rule}\": {other:?}"),
        };
        assert_eq!(refused, *rule, "lie {index}");
        assert_eq!(device.platform().windows, 0, "lie {index}");
        // The refused state left nothing behind.
        let restored = device.restore(&good().to_bytes());
        assert_eq!(restored, Ok(()), "after lie {index}");
    }
}

/// A rule without a lie could be removed without failing a test.
#[test]
fn every_rule_has_a_lie() {
    let source = include_str!("../../src/state/check.rs");
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let texts = code.flat_map(|line| line.split('"').skip(1).step_by(2));
    let texts: Vec<&str> = texts.collect();
    assert!(texts.len() > 20);
    for text in texts {
        assert!(LIES.iter().any(|(rule, _)| *rule == text), "{text}");
    }
}

#[test]
fn a_wrong_checksum_is_refused_whichever_way_it_is_wrong() {
    let (_, state) = released().remove(0);
    // The lowest and the highest bit of each byte: the checksum's own become
    // higher by some and lower by others.
    for at in 0..state.len() {
        for bit in [1, 0x80] {
            let mut damaged = state.clone();
            damaged[at] ^= bit;
            assert!(fresh(2).restore(&damaged).is_err(), "byte {at} ^ {bit:#x}");
        }
    }
}
