//! The device survives any guest: random sequences of actions, after which a
//! well-behaved driver is served as usual.
//!
//! The bench panics if the device violates its contract with the platform: accesses
//! outside guest memory, vectors beyond the table, segments that do not match the
//! packets. Cases are the same every time; `PROPTEST_CASES` sets their number, and
//! `PROPTEST_RNG_SEED` chooses others.

use device_kit::platform::{Features, RxFlags, TxStatus};
use mana_wire::oob::TxLongOob;
use mana_wire::queue::QueueType;
use manatee_conformance::bench::{Bench, Workshop};
use manatee_conformance::driver::Driver;
use manatee_conformance::driver::message::Request;
use manatee_conformance::driver::nic::{self, Object, Sizes, Vport};
use manatee_conformance::driver::pairs::{Rss, in_turn};
use manatee_conformance::driver::traffic::{frame, long};
use manatee_conformance::driver::wqe::{Wqe, sge};
use manatee_conformance::driver::{requests, shm};
use manatee_conformance::failure::Outcome;
use manatee_conformance::native::{NativeBench, NativeWorkshop};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, RngSeed, TestRng, TestRunner};

/// Sequences that are tested with windows, and by copies.
const CASES: u32 = 300;
const PORTS: u32 = 2;
/// Queue pairs of each port.
const QUEUES: u16 = 4;
/// Queue pairs that the guest opens.
const PAIRS: u16 = 3;

/// An action of a guest, or of the host.
#[derive(Clone, Debug)]
enum Action {
    /// A write to any register.
    Register(u64, u8, u64),
    /// A doorbell of any queue, with a position near a valid one or any other.
    Doorbell(u8, u32, u32, bool),
    /// A write of bytes anywhere in memory.
    Scribble(u64, Vec<u8>),
    /// Bytes in a queue of the vport, and a doorbell for them.
    Post(bool, Vec<u8>),
    /// A packet with some of its bits flipped.
    SpoiledPacket(Vec<(usize, u8)>, u8, u32),
    /// A request with some of its bytes changed.
    SpoiledRequest(u8, Vec<(usize, u8)>, usize),
    /// Any bytes as a message.
    Message(Vec<u8>),
    /// Frames arrive.
    Arrive(u32, Vec<usize>),
    /// Transmits are pending, or end.
    Plan(u32, u8),
    Finish(u32),
    /// A link changes.
    Link(u32, bool),
    /// The driver consumes everything.
    Consume,
    /// Another queue pair is used from now on.
    Turn(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let edits = || prop::collection::vec((0..256usize, any::<u8>()), 0..5);
    let bytes =
        |most| prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..most);
    let address = prop_oneof![0u64..0x40_0000, any::<u64>()];
    let offset = prop_oneof![0u64..0x60, 0x1000u64..0x2000, any::<u64>()];
    let width = prop_oneof![Just(1u8), Just(2), Just(4), Just(8), any::<u8>()];
    let tail = prop_oneof![(0u32..64).prop_map(|n| 32 * n), 0u32..600, any::<u32>()];
    prop_oneof![
        2 => (offset, width, any::<u64>()).prop_map(|(o, w, v)| Action::Register(o, w, v)),
        4 => (0u8..4, 0u32..12, tail, any::<bool>())
            .prop_map(|(kind, id, tail, arm)| Action::Doorbell(kind, id, tail, arm)),
        3 => (address, bytes(64)).prop_map(|(at, data)| Action::Scribble(at, data)),
        3 => (any::<bool>(), bytes(512)).prop_map(|(tx, data)| Action::Post(tx, data)),
        5 => (edits(), 0u8..40, any::<u32>())
            .prop_map(|(edits, pieces, size)| Action::SpoiledPacket(edits, pieces, size)),
        5 => (any::<u8>(), edits(), 0usize..128)
            .prop_map(|(which, edits, cut)| Action::SpoiledRequest(which, edits, cut)),
        1 => bytes(4096).prop_map(Action::Message),
        2 => (0..PORTS, prop::collection::vec(0usize..3000, 0..8))
            .prop_map(|(port, lengths)| Action::Arrive(port, lengths)),
        1 => (0..PORTS, 0u8..6).prop_map(|(port, count)| Action::Plan(port, count)),
        1 => (0..PORTS).prop_map(Action::Finish),
        1 => (0..PORTS, any::<bool>()).prop_map(|(port, up)| Action::Link(port, up)),
        2 => Just(Action::Consume),
        2 => (0..PAIRS as u8).prop_map(Action::Turn),
    ]
}

/// The state of a driver.
struct Guest<'a> {
    driver: Driver<'a>,
    /// Queue pairs of port 0.
    pairs: Vec<Vport>,
    /// Which of them is used.
    turn: usize,
}

impl Guest<'_> {
    /// Carries out an action. Failures that a driver would report are ignored.
    fn act(&mut self, action: &Action) {
        let bench = &mut *self.driver.bench;
        match action {
            Action::Register(offset, width, value) => {
                bench.write_register(*offset, *width, *value);
                bench.read_register(*offset, *width);
            }
            Action::Doorbell(kind, id, tail, arm) => match kind {
                0 => self.driver.ring_wq(0, *id, *tail),
                1 => self.driver.ring_wq(0x400, *id, *tail),
                2 => self.driver.ring_cq(*id, tail & 0x7fff_ffff, *arm),
                _ => self.driver.ring_eq(*id, tail & 0x7fff_ffff, *arm),
            },
            Action::Scribble(address, data) => scribble(bench, *address, data),
            Action::Post(tx, data) => {
                let mut object = self.object(*tx);
                object.wq.write_bytes(&mut self.driver, data);
                object.wq.ring(&mut self.driver);
                self.keep(object);
            }
            Action::SpoiledPacket(edits, pieces, size) => self.packet(edits, *pieces, *size),
            Action::SpoiledRequest(which, edits, cut) => self.request(*which, edits, *cut),
            Action::Message(data) => self.message(data),
            Action::Arrive(port, lengths) => {
                let frames: Vec<_> = lengths.iter().map(|length| frame(*length)).collect();
                let batch: Vec<_> = frames.iter().map(|f| (&f[..], RxFlags::IPV4)).collect();
                bench.receive(*port, &batch);
            }
            Action::Plan(port, count) => {
                bench.plan_transmits(*port, &vec![TxStatus::Pending; (*count).into()]);
            }
            Action::Finish(port) => {
                let pending = bench.pending_transmits(*port);
                bench.finish_transmit(*port, &vec![TxStatus::Sent; pending]);
            }
            Action::Link(port, up) => bench.set_link(*port, *up),
            Action::Consume => self.consume(),
            Action::Turn(number) => {
                bench.on_queue((*number).into());
                self.turn = (*number).into();
            }
        }
    }

    fn object(&self, tx: bool) -> Object {
        if tx {
            &self.pairs[self.turn].tx
        } else {
            &self.pairs[self.turn].rx
        }
        .clone()
    }

    fn keep(&mut self, object: Object) {
        match object.queue_type {
            QueueType::Sq => self.pairs[self.turn].tx = object,
            _ => self.pairs[self.turn].rx = object,
        }
    }

    fn packet(&mut self, edits: &[(usize, u8)], pieces: u8, size: u32) {
        let size = if size.is_multiple_of(3) {
            size
        } else {
            size % 3000
        };
        let pieces = vec![sge(0x10_0000, size); pieces.into()];
        let oob = long(self.pairs[self.turn].oob(), TxLongOob::new());
        let mut bytes = Wqe::new(&oob, &pieces).to_bytes();
        spoil(&mut bytes, edits);
        self.act(&Action::Post(true, bytes));
        let receive = Wqe::receive(&pieces).to_bytes();
        self.act(&Action::Post(false, receive));
    }

    fn request(&mut self, which: u8, edits: &[(usize, u8)], cut: usize) {
        let mut bytes = self.template(which).to_bytes();
        // Mostly, the type of the request is left as it is.
        spoil(&mut bytes[8..], edits);
        if cut < bytes.len() && cut.is_multiple_of(4) {
            bytes.truncate(cut);
        }
        self.message(&bytes);
    }

    /// Returns a valid request.
    fn template(&self, which: u8) -> Request {
        use mana_wire::bnic::code as nic_code;
        use mana_wire::gdma::{DEV_MANA, code};
        let Vport { handle, tx, rx, .. } = &self.pairs[self.turn];
        let page = [u64::from(which) << 12];
        let queue = requests::create_queue(QueueType::Eq, 1 << 32 | 1, 4096);
        match which % 14 {
            0 => requests::create_region(&page, 1),
            1 => requests::create_region(&[0x1000, 0x2000, 0x3000], 1),
            2 => requests::add_pages(u64::from(which) << 32 | 1, &page),
            3 => requests::destroy_region(u64::from(which) << 32 | 1),
            4 => Request::new(code::CREATE_QUEUE, &queue, 4),
            5 => requests::disable_queue(QueueType::Eq, (which / 14).into()),
            6 => nic::destroy_object(QueueType::Sq, tx.handle),
            7 => nic::destroy_object(QueueType::Rq, rx.handle),
            8 => self.rss(which / 14).request(*handle),
            9 => Request::new(nic_code::FENCE_RQ, &rx.handle, 0),
            10 => Request::new(code::GENERATE_TEST_EQE, &u32::from(which / 14), 0),
            11 => Request::of_bytes(code::DEREGISTER_DEVICE, &[], 0).to(DEV_MANA),
            12 => Request::of_bytes(code::REGISTER_DEVICE, &[], 12).to(DEV_MANA),
            _ => Request::of_bytes(u32::from(which), &[0; 96], 96),
        }
    }

    /// Returns a configuration of how the port receives.
    fn rss(&self, which: u8) -> Rss {
        let is_asked = |bit: u8| which & 1 << bit != 0;
        Rss {
            enable: is_asked(0).then_some(is_asked(1)),
            spread: is_asked(2).then_some(true),
            default: is_asked(1).then_some(self.pairs[self.turn].rx.handle),
            key: is_asked(3).then_some([which; 40]),
            coalesces: is_asked(4),
            table: is_asked(0).then(|| in_turn(&self.pairs, 1 << (which % 8))),
        }
    }

    fn message(&mut self, data: &[u8]) {
        let _ = self.driver.with_hwc(|hwc, driver| {
            driver.bench.write_memory(hwc.request_page, data);
            hwc.post_response(driver, &[hwc.sge(hwc.response_page, 4096)]);
            hwc.post_request(driver, &[hwc.sge(hwc.request_page, data.len() as u32)]);
            hwc.poll(driver)
        });
    }

    fn consume(&mut self) {
        let _ = self.pairs[self.turn].eq.drain(&mut self.driver);
        self.pairs[self.turn].eq.ring(&mut self.driver, true);
        for tx in [true, false] {
            let mut object = self.object(tx);
            let _ = object.cq.drain(&mut self.driver);
            object.cq.ring(&mut self.driver, true);
            self.keep(object);
        }
    }
}

fn spoil(bytes: &mut [u8], edits: &[(usize, u8)]) {
    for (index, value) in edits {
        let index = index % bytes.len();
        bytes[index] ^= value;
    }
}

/// Writes the part that is inside guest memory.
fn scribble(bench: &mut dyn Bench, address: u64, data: &[u8]) {
    let address = address % (8 << 20);
    bench.write_memory(address, data);
}

/// Does what a well-behaved driver does.
fn behave(driver: &mut Driver<'_>) -> Outcome {
    for mut vport in driver.start_and_open_all(PORTS)? {
        vport.works(driver)?;
    }
    Ok(())
}

fn survives(bench: &mut NativeBench, actions: &[Action]) -> Outcome {
    let mut driver = Driver::new(bench);
    driver.start()?;
    let pairs = driver.open_pairs(0, PAIRS, Sizes::SMALL)?;
    let mut guest = Guest {
        driver,
        pairs,
        turn: 0,
    };
    for action in actions {
        guest.act(action);
    }
    let Driver { bench, memory, .. } = guest.driver;
    bench.inspect();
    // Half of the sequences end in a reset by the driver, half in one by the VMM.
    let mut driver = Driver::new(bench);
    driver.memory = memory;
    if actions.len().is_multiple_of(2) {
        driver.bench.reset();
    } else {
        driver.shm_write(&[0; 28], shm::destroy());
    }
    for queue in (0..QUEUES.into()).rev() {
        driver.bench.on_queue(queue);
        for port in 0..PORTS {
            driver.bench.take_transmitted(port);
            driver.bench.plan_transmits(port, &[]);
            driver.bench.set_link(port, true);
        }
    }
    driver.bench.take_interrupts();
    behave(&mut driver)
}

fn try_all(windows: bool) {
    let mut config = ProptestConfig::with_cases(CASES);
    let default = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() {
        config.cases = default.cases;
    }
    config.failure_persistence = None;
    let mut runner = match default.rng_seed {
        RngSeed::Fixed(_) => {
            config.rng_seed = default.rng_seed;
            TestRunner::new(config)
        }
        RngSeed::Random => {
            let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
            TestRunner::new_with_rng(config, rng)
        }
    };
    let sequence = prop::collection::vec(action(), 1..60);
    let tried = runner.run(&sequence, |actions| {
        let mut bench = NativeWorkshop {
            windows,
            queues: QUEUES,
            offered: Features::all(),
            ..NativeWorkshop::default()
        }
        .bench(PORTS);
        survives(&mut bench, &actions).map_err(|failure| TestCaseError::fail(failure.to_string()))
    });
    if let Err(error) = tried {
        panic!("{error}");
    }
}

#[test]
fn the_device_survives_any_guest_by_copies() {
    try_all(false);
}

#[test]
fn the_device_survives_any_guest_by_windows() {
    try_all(true);
}
