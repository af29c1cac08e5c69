//! A guest that is attached to a served device.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use mana_wire::oob::{CqeType, TxLongOob, TxShortOob};
use manatee_conformance::driver::Driver;
use manatee_conformance::driver::nic::Vport;
use manatee_conformance::driver::traffic::{long, short};
use manatee_conformance::driver::wqe::{Wqe, sge};
use manatee_conformance::guest::{Guest, MEMORY_SIZE, Unwired};
use rustix::event::EventfdFlags;
use vfio_user::Client;

use crate::harness;

/// The longest that any step may take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);
/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
const TRIGGER_BY_EVENTFD: u32 = 4 | 32;

/// A machine whose adapter is in another process.
struct Remote {
    client: Client,
    memory: File,
    /// The vector of the hardware channel.
    vector: OwnedFd,
}

impl Guest for Remote {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        let mut value = [0; 8];
        let bytes = &mut value[..width.into()];
        self.client.region_read(0, offset, bytes).unwrap();
        u64::from_le_bytes(value)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let bytes = &value.to_le_bytes()[..width.into()];
        self.client.region_write(0, offset, bytes).unwrap();
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        self.memory.read_exact_at(data, address).unwrap();
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        self.memory.write_all_at(data, address).unwrap();
    }

    /// Waits for the interrupt of the hardware channel, the only one that this driver uses.
    fn take_interrupts(&mut self) -> Vec<u16> {
        assert!(harness::readable(&self.vector, DEADLINE), "no interrupt");
        rustix::io::read(&self.vector, &mut [0; 8]).unwrap();
        vec![0]
    }
}

/// Attaches to a device, and opens its ports for a test.
pub fn with_ports(socket: &Path, ports: u32, test: impl FnOnce(&mut Driver<'_>, &mut [Vport])) {
    let mut client = Client::new(socket).unwrap();
    let memory = harness::memfd(MEMORY_SIZE);
    client
        .dma_map(0, 0, MEMORY_SIZE, memory.as_raw_fd())
        .unwrap();
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let vector = rustix::event::eventfd(0, flags).unwrap();
    let fds = [vector.as_raw_fd()];
    client
        .set_irqs(harness::MSIX, TRIGGER_BY_EVENTFD, 0, 1, &fds)
        .unwrap();
    client.region_write(harness::CONFIG, 4, &[6, 0]).unwrap();
    let mut bench = Unwired(Remote {
        client,
        memory: memory.into(),
        vector,
    });
    let mut driver = Driver::new(&mut bench);
    let mut vports = driver.start_and_open_all(ports).unwrap();
    test(&mut driver, &mut vports);
}

/// Calls a function until it returns a value.
pub fn wait_for<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(it) = what() {
            return it;
        }
        assert!(begun.elapsed() < DEADLINE, "nothing arrives");
        std::thread::yield_now();
    }
}

/// A packet that a guest sends.
pub struct Sending {
    pub frame: Vec<u8>,
    /// The offloads that it requests.
    pub oob: fn(TxShortOob) -> TxShortOob,
    pub tag: Option<u16>,
    /// The length of the headers, and the segment size.
    pub cut: Option<(usize, u16)>,
}

impl Sending {
    /// Returns a packet without offloads.
    pub fn plain(frame: Vec<u8>) -> Self {
        Self {
            frame,
            oob: |oob| oob,
            tag: None,
            cut: None,
        }
    }

    fn wqe(&self, driver: &mut Driver<'_>, vport: &Vport) -> Wqe {
        // These tests do not free memory, and each sends little.
        let address = driver.place(&self.frame).unwrap();
        let length = self.frame.len() as u32;
        let head = self.cut.map_or(length, |(head, _)| head as u32);
        let mut pieces = vec![sge(address, head)];
        if head < length {
            pieces.push(sge(address + u64::from(head), length - head));
        }
        let oob = (self.oob)(vport.oob());
        let mut wqe = match self.tag {
            Some(tag) => {
                let behind = TxLongOob::new().with_inject_vlan_pri_tag(true);
                Wqe::new(&long(oob, behind.with_vlan_id(tag)), &pieces)
            }
            None => Wqe::new(&short(oob), &pieces),
        };
        if let Some((head, unit)) = self.cut {
            wqe.header.set_client_oob_in_sgl(true);
            wqe.header.set_client_data_unit(unit);
            wqe.header.set_last_vbytes(head as u8);
        }
        wqe
    }

    /// Sends it. Returns the type of its completion.
    pub fn send(&self, driver: &mut Driver<'_>, vport: &mut Vport) -> u8 {
        let wqe = self.wqe(driver, vport);
        send_again(driver, vport, &wqe)
    }

    /// Sends it this many times, which must succeed.
    pub fn send_often(&self, driver: &mut Driver<'_>, vport: &mut Vport, times: usize) {
        let wqe = self.wqe(driver, vport);
        for _ in 0..times {
            assert_eq!(send_again(driver, vport, &wqe), CqeType::TxOkay as u8);
        }
    }
}

fn send_again(driver: &mut Driver<'_>, vport: &mut Vport, wqe: &Wqe) -> u8 {
    vport.tx.wq.post(driver, wqe);
    let completion = wait_for(|| vport.tx.cq.next(driver).unwrap());
    vport.tx.cq.ring(driver, true);
    completion.transmit().cqe_type.0
}

/// Waits for a packet in the oldest posted buffer, which is at this address. Returns its bytes.
pub fn receive(driver: &mut Driver<'_>, vport: &mut Vport, address: u64) -> Vec<u8> {
    let completion = wait_for(|| vport.rx.cq.next(driver).unwrap());
    vport.rx.cq.ring(driver, true);
    completion.check_type(CqeType::RxOkay as u8).unwrap();
    driver.read(address, completion.receive().length.into())
}

/// Returns a UDP packet over IPv4, with this many bytes of payload, from a UDP port of the test.
pub fn udp(payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1000, 2000);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![0x5a; payload]).unwrap();
    frame
}

/// Returns an unsegmented TCP packet over IPv4.
pub fn tcp(payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(1000, 2000, 7000, 512);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![0x5a; payload]).unwrap();
    frame
}
