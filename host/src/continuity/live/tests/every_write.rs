//! The process dies after any write to its file, in the middle of whatever it does: a successor
//! continues from copies of what was there, and the guest notices nothing but lost packets.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::OnceLock;

use manatee_conformance::driver::Driver;
use manatee_conformance::driver::nic::Vport;
use manatee_conformance::driver::wqe::sge;
use manatee_conformance::failure::{Failure, Outcome};
use manatee_conformance::guest::{Guest, MEMORY_SIZE, Unwired};
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, seek};
use rustix::io::Errno;

use super::*;
use crate::continuity::live::cells::tests::Watch;
use crate::endpoint::{Queue, QueueIo, Received, RxFlags, Single, TxBatch, TxStatus};

/// The most packets of a batch: at most so many are lost each way.
const BATCH: u16 = 3;
/// Bytes of a packet, and where its number is.
const LENGTH: usize = 60;
const NUMBER: usize = 14;
/// The vectors that the guest uses.
const VECTORS: Range<u16> = 0..3;
/// The guest's second region.
const SECOND: u64 = 1 << 32;

/// The network, which outlives processes.
#[derive(Clone, Debug, Default)]
struct Wire(Arc<Mutex<Lying>>);

#[derive(Debug, Default)]
struct Lying {
    /// The number of processes that have died.
    deaths: u32,
    sent: Vec<u16>,
    arriving: VecDeque<u16>,
    raised: BTreeSet<u16>,
}

/// A process's end of the network, which is dead when the process is.
struct End {
    wire: Wire,
    life: u32,
}

impl End {
    fn alive(&self) -> Option<parking_lot::MutexGuard<'_, Lying>> {
        let lying = self.wire.0.lock();
        (lying.deaths == self.life).then_some(lying)
    }
}

impl Queue for End {
    fn transmit(&mut self, io: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        for (_, segments) in batch.iter() {
            let mut frame = [0; LENGTH];
            io.memory.read(segments[0].address, &mut frame).unwrap();
            if let Some(mut lying) = self.alive() {
                lying.sent.push(number(&frame));
            }
            status.push(TxStatus::Sent);
        }
    }

    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool {
        let Some(mut lying) = self.alive() else {
            return false;
        };
        while let Some(buffer) = io.rx.front()
            && let Some(number) = lying.arriving.pop_front()
        {
            let at = buffer.segments().next().unwrap().address;
            io.memory.write(at, &frame(number)).unwrap();
            let received = Received {
                length: LENGTH as u32,
                flags: RxFlags::empty(),
                vlan_tci: 0,
                hash: 0,
            };
            buffer.complete(received, io.done);
        }
        false
    }

    fn cancel_transmit(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl VectorSink for End {
    fn raise(&self, vector: u16) {
        if let Some(mut lying) = self.alive() {
            lying.raised.insert(vector);
        }
    }
}

fn frame(number: u16) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..NUMBER].copy_from_slice(&[0x88, 0xb5]);
    frame[NUMBER..NUMBER + 2].copy_from_slice(&number.to_le_bytes());
    frame
}

fn number(frame: &[u8]) -> u16 {
    u16::from_le_bytes([frame[NUMBER], frame[NUMBER + 1]])
}

/// Copies a file, of which only little is in use, to another in memory.
fn copy(file: &File) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = File::from(memfd_create("copy", flags).unwrap());
    copy.set_len(file.metadata().unwrap().len()).unwrap();
    let mut at = 0;
    loop {
        at = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            data => data.unwrap(),
        };
        let end = seek(file, SeekFrom::Hole(at)).unwrap();
        let mut bytes = vec![0; (end - at) as usize];
        file.read_exact_at(&mut bytes, at).unwrap();
        copy.write_all_at(&bytes, at).unwrap();
        at = end;
    }
    fcntl_add_seals(&copy, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    copy
}

/// The position in a request of the VMM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Before,
    During,
    After,
}

/// What a process leaves that dies.
struct Left {
    /// The live state's file, and the guest's first region.
    file: File,
    memory: File,
    others: Vec<(String, OwnedFd)>,
    stage: Stage,
}

/// A planned death.
struct Plan {
    /// The number of the write after which the process dies; 0 if it does not.
    at: usize,
    writes: usize,
    /// The numbers of the writes that changed what a successor would read, if it does not die.
    changes: Vec<usize>,
    last: u64,
    stage: Stage,
    left: Option<Left>,
}

/// Returns a hash of what a successor would read.
fn reading(cells: &Cells) -> u64 {
    let mut hash = DefaultHasher::new();
    let request = cells.load(layout::REQUEST_AT);
    for section in [layout::DEVICE, layout::VECTORS, layout::NOTES] {
        let copy = section.read(cells);
        copy.as_ref()
            .map(|copy| (copy.word, &copy.bytes))
            .hash(&mut hash);
        let rung = copy.and_then(|copy| doorbells::read(cells, copy.number));
        format!("{rung:?}").hash(&mut hash);
    }
    let cells_of = [
        layout::PHASE_AT,
        layout::PROGRESS_AT,
        layout::ATTEMPT_AT,
        layout::handed(0, 0),
    ];
    cells_of.map(|at| cells.load(at)).hash(&mut hash);
    format!("{:?}", regions::read(cells, request)).hash(&mut hash);
    request.hash(&mut hash);
    hash.finish()
}

/// A request of the VMM's.
#[derive(Clone, Debug)]
enum Request {
    Register(u64, Vec<u8>),
    Config(u64, u8),
    Map(u64),
    Unmap(u64),
}

/// The guest's machine, served by one process and then perhaps by another.
struct Machine {
    device: Device,
    live: LiveState,
    kept: Kept,
    memory: Arc<Mutex<File>>,
    second: File,
    wire: Wire,
    plan: Arc<Mutex<Plan>>,
    _vmm: (UnixStream, UnixStream),
}

/// Makes a process's device.
fn device_at(wire: &Wire) -> Device {
    let end = || End {
        wire: wire.clone(),
        life: wire.0.lock().deaths,
    };
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(Single::new("test", end())),
    };
    static COMPONENT: OnceLock<Component> = OnceLock::new();
    let component = COMPONENT.get_or_init(|| Component::embedded().unwrap());
    Device::new(component, vec![port], Interrupts::Vectors(Box::new(end()))).unwrap()
}

impl Machine {
    /// Creates one whose process dies after a write; 0 if it does not.
    fn new(at: usize) -> Self {
        let (wire, kept) = (Wire::default(), Kept::default());
        let device = device_at(&wire);
        let memory = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        memory.set_len(MEMORY_SIZE).unwrap();
        let shared = Some((memory.try_clone().unwrap(), 0));
        device.map_memory(0, MEMORY_SIZE, shared, true).unwrap();
        device.config_write(4, &[6, 0]);
        let live = kept.live(1);
        device.record(&live);
        let vmm = UnixStream::pair().unwrap();
        live.open_session(vmm.0.as_fd()).unwrap();
        live.note_attached();
        live.activate();
        let plan = Plan {
            at,
            writes: 0,
            changes: Vec::new(),
            last: reading(&live.0.cells),
            stage: Stage::After,
            left: None,
        };
        let machine = Self {
            device,
            live,
            kept,
            memory: Arc::new(Mutex::new(memory)),
            second: self::memory(),
            wire,
            plan: Arc::new(Mutex::new(plan)),
            _vmm: vmm,
        };
        machine.watch();
        machine
    }

    /// Has the process die as planned.
    fn watch(&self) {
        let (plan, kept) = (self.plan.clone(), self.kept.clone());
        let (memory, wire) = (self.memory.clone(), self.wire.clone());
        let watch = move |cells: &Cells| {
            let mut plan = plan.lock();
            plan.writes += 1;
            if plan.at == 0 {
                let now = reading(cells);
                if now != plan.last {
                    let number = plan.writes;
                    plan.changes.push(number);
                    plan.last = now;
                }
            }
            if plan.writes == plan.at {
                // From now on nothing of the process has any effect.
                wire.0.lock().deaths += 1;
                plan.left = Some(Left {
                    file: copy(&File::from(cells.as_fd().try_clone_to_owned().unwrap())),
                    memory: copy(&memory.lock()),
                    others: kept.copies(),
                    stage: plan.stage,
                });
            }
        };
        let watched = self.live.0.cells.watch.set(Watch(Box::new(watch)));
        assert!(watched.is_ok());
    }

    fn stage(&self, stage: Stage) {
        self.plan.lock().stage = stage;
    }

    /// Carries a request out, as a server does: by the successor, if the process dies meanwhile
    /// and the request has not taken effect.
    fn request(&mut self, request: &Request) {
        self.stage(Stage::Before);
        self.live.set_progress(1, true);
        self.stage(Stage::During);
        self.act(request);
        self.stage(Stage::After);
        self.live.set_progress(0, false);
        let Some(left) = self.plan.lock().left.take() else {
            return;
        };
        let stage = left.stage;
        let took_effect = self.succeed(left);
        if stage == Stage::Before || stage == Stage::During && !took_effect {
            self.act(request);
        }
        self.wake();
    }

    fn act(&self, request: &Request) {
        match request {
            Request::Register(offset, bytes) => self.device.bar_write(0, *offset, bytes),
            Request::Config(offset, value) => self.device.config_write(*offset, &[*value]),
            Request::Map(address) => map(&self.device, *address, &self.second),
            Request::Unmap(address) => self.device.unmap_memory(*address, 1 << 20).unwrap(),
        }
        self.settle();
    }

    /// Lets the device look for packets.
    fn wake(&self) {
        self.device.wake(0, 0);
        self.settle();
    }

    fn settle(&self) {
        while self.device.has_work() {
            std::thread::yield_now();
        }
    }

    /// Continues by a fresh process. Returns whether the request in progress had taken effect.
    fn succeed(&mut self, left: Left) -> bool {
        let Left {
            file,
            memory,
            others,
            ..
        } = left;
        let inode = |file: &File| file.metadata().unwrap().ino();
        let first = inode(&self.memory.lock());
        let named = others.into_iter().map(|(name, fd)| {
            let other = File::from(fd);
            let file = match &*name {
                "live-1" => file.try_clone().unwrap(),
                _ if inode(&other) == first => memory.try_clone().unwrap(),
                _ => other,
            };
            (name, file.into())
        });
        let mut read = HandOver::from_live(named.collect()).unwrap().unwrap();
        *self.memory.lock() = memory;
        let took_effect = read.take_lost_session().unwrap().took_effect;
        let follow = read.take_follow().unwrap();
        self.device = device_at(&self.wire);
        read.take_over(&self.device).unwrap();
        // Each vector is raised once more.
        self.wire.0.lock().raised.extend(VECTORS);
        let next = LiveState::follow(Box::new(self.kept.clone()), 2, follow).unwrap();
        self.device.record(&next);
        next.activate();
        self.live.end();
        self.live = next;
        self.settle();
        took_effect
    }
}

/// The machine, as the driver sees it.
#[derive(Clone)]
struct Shared(Rc<RefCell<Machine>>);

impl Guest for Shared {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        let mut value = [0; 8];
        let bytes = &mut value[..width.into()];
        self.0.borrow().device.bar_read(0, offset, bytes);
        u64::from_le_bytes(value)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let bytes = value.to_le_bytes()[..width.into()].to_vec();
        self.0
            .borrow_mut()
            .request(&Request::Register(offset, bytes));
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        let machine = self.0.borrow();
        machine.memory.lock().read_exact_at(data, address).unwrap();
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        let machine = self.0.borrow();
        machine.memory.lock().write_all_at(data, address).unwrap();
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        let raised = std::mem::take(&mut self.0.borrow().wire.0.lock().raised);
        raised.into_iter().collect()
    }
}

/// The guest's view of its packets.
#[derive(Default)]
struct Traffic {
    /// The number of packets that were posted, and that arrived.
    posted: u16,
    arrived: u16,
    received: Vec<u16>,
    /// The address of a posted buffer, by the offset of its WQE.
    buffers: HashMap<u32, u64>,
}

impl Traffic {
    /// Sends packets by one doorbell; each is completed.
    fn send(&mut self, driver: &mut Driver<'_>, vport: &mut Vport, count: u16) -> Outcome {
        for _ in 0..count {
            let address = driver.place(&frame(self.posted))?;
            let wqe = vport.packet(&[sge(address, LENGTH as u32)]);
            vport.tx.wq.write(driver, &wqe);
            self.posted += 1;
        }
        vport.tx.wq.ring(driver);
        for _ in 0..count {
            let completion = vport.tx.cq.next(driver)?;
            completion.ok_or_else(|| Failure::new("a packet is not completed".to_owned()))?;
        }
        vport.tx.cq.ring(driver, true);
        Ok(())
    }

    /// Has packets arrive, for which there are buffers.
    fn receive(
        &mut self,
        machine: &Shared,
        driver: &mut Driver<'_>,
        vport: &mut Vport,
        count: u16,
    ) -> Outcome {
        for _ in 0..count {
            let (address, offset) = vport.post_buffer(driver, 2048)?;
            self.buffers.insert(offset, address);
            let wire = machine.0.borrow().wire.clone();
            wire.0.lock().arriving.push_back(self.arrived);
            self.arrived += 1;
        }
        // By a request that has no effect.
        machine.0.borrow().wake();
        machine.0.borrow_mut().request(&Request::Config(0x3c, 1));
        while let Some(completion) = vport.rx.cq.next(driver)? {
            let found = completion.receive();
            let address = self.buffers.remove(&found.wqe_offset);
            let address = address.ok_or_else(|| Failure::new("a buffer came twice".to_owned()))?;
            if usize::from(found.length) == LENGTH {
                self.received.push(number(&driver.read(address, LENGTH)));
            }
        }
        vport.rx.cq.ring(driver, true);
        Ok(())
    }
}

/// Checks that packets come in order, none twice, and that few are lost, next to one another.
fn check(what: &str, numbers: &[u16], all: u16) {
    let mut gaps = Vec::new();
    let mut next = 0;
    for number in numbers.iter().copied().chain([all]) {
        assert!(number >= next, "{what}: {numbers:?}");
        if number > next {
            gaps.push(number - next);
        }
        next = number + 1;
    }
    assert!(gaps.len() <= 1, "{what}: {numbers:?}");
    assert!(gaps.iter().all(|gap| *gap <= BATCH), "{what}: {numbers:?}");
}

/// A driver and a VMM do everything once.
fn live_through(machine: &Shared) -> Result<Traffic, Failure> {
    let mut bench = Unwired(machine.clone());
    let mut driver = Driver::new(&mut bench);
    let vmm = |request: Request| machine.0.borrow_mut().request(&request);
    let mut traffic = Traffic::default();
    let mut vport = driver.start_and_open()?;
    for count in [1, BATCH, 2] {
        traffic.send(&mut driver, &mut vport, count)?;
        traffic.receive(machine, &mut driver, &mut vport, count)?;
    }
    vmm(Request::Map(SECOND));
    vmm(Request::Config(4, 2));
    vmm(Request::Config(4, 6));
    traffic.send(&mut driver, &mut vport, BATCH)?;
    vmm(Request::Unmap(SECOND));
    traffic.receive(machine, &mut driver, &mut vport, BATCH)?;
    driver.close(&vport)?;
    let mut vport = driver.open(0)?;
    traffic.buffers.clear();
    traffic.send(&mut driver, &mut vport, 1)?;
    traffic.receive(machine, &mut driver, &mut vport, 1)?;
    Ok(traffic)
}

/// Lets the process die after a write. Returns how often it died, and which writes changed what a
/// successor would read.
fn die_at(at: usize) -> (u32, Vec<usize>) {
    let machine = Shared(Rc::new(RefCell::new(Machine::new(at))));
    let lived = live_through(&machine);
    let traffic = match lived {
        Ok(traffic) => traffic,
        Err(failure) => panic!("death at {at}: {failure}"),
    };
    let machine = machine.0.borrow();
    check(
        &format!("sent, death at {at}"),
        &machine.wire.0.lock().sent,
        traffic.posted,
    );
    check(
        &format!("received, death at {at}"),
        &traffic.received,
        traffic.arrived,
    );
    assert!(machine.device.failure().is_none(), "death at {at}");
    let regions = &machine.device.inspect()["memory"]["region_count"];
    assert_eq!(*regions, 1, "death at {at}");
    let deaths = machine.wire.0.lock().deaths;
    (deaths, std::mem::take(&mut machine.plan.lock().changes))
}

#[test]
fn a_successor_continues_from_every_write() {
    let (deaths, changes) = die_at(0);
    assert_eq!(deaths, 0);
    let deaths: u32 = changes.iter().map(|at| die_at(*at).0).sum();
    // One life has a few writes more than another: its device's thread is in it, or is not.
    assert!(deaths > 500, "{deaths} deaths at {} writes", changes.len());
}
