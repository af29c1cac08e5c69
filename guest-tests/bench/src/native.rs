//! The same device without a sandbox: the crate compiled natively, with the host's
//! guest memory and endpoints.

use std::fmt;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use device_kit::Adapter;
use device_kit::adapter::PortConfig;
use device_kit::platform::{
    Features, Level, MemoryError, Offloads, Platform, RxBuffer, RxFlags, RxPacket, Segment,
    TransmitResult, TxCompletion, TxPacket, TxStatus,
};
use device_kit::window::Window;
use manatee::endpoint as wit;
use manatee::endpoint::{
    Completions, Endpoint, Groups, Queue, QueueIo, QueueSet, RxQueue, TxBatch,
};
use manatee::interrupt::VectorSink;
use manatee::memory::GuestMemory;
use manatee_device::Device;

use crate::machine::{InterruptController, Machine};
use crate::ram::Ram;
use crate::sandboxed;

/// A machine with the native device in it.
pub struct Native {
    device: Device<Host>,
    ram: Arc<Ram>,
    interrupts: InterruptController,
    done: Completions,
    received: Vec<RxPacket>,
    transmitted: Vec<TxCompletion>,
}

/// The host of a native device.
struct Host {
    ram: Arc<Ram>,
    memory: GuestMemory,
    ports: Vec<Port>,
    sink: Box<dyn VectorSink>,
    // Kept for their allocation.
    packets: Vec<wit::TxPacket>,
    buffers: Vec<wit::RxBuffer>,
    segments: Vec<wit::Segment>,
    statuses: Vec<wit::TxStatus>,
}

/// A port and its only queue.
struct Port {
    queue: Box<dyn Queue>,
    rx: RxQueue,
    done: Completions,
    /// Whether buffers were posted to an empty queue.
    poll: bool,
}

impl Native {
    /// Creates a device with these ports and this much guest memory.
    ///
    /// # Errors
    ///
    /// The host's error.
    pub fn new(endpoints: Vec<Box<dyn Endpoint>>, size: u64) -> Result<Self> {
        let interrupts = InterruptController::new();
        let sink = Box::new(interrupts.clone());
        Self::with_sink(endpoints, size, interrupts, sink)
    }

    /// Creates a device as [`new`](Self::new), with interrupts that are also sent
    /// elsewhere.
    ///
    /// # Errors
    ///
    /// The host's error.
    pub fn with_sink(
        endpoints: Vec<Box<dyn Endpoint>>,
        size: u64,
        interrupts: InterruptController,
        sink: Box<dyn VectorSink>,
    ) -> Result<Self> {
        let ram = Arc::new(Ram::new(size)?);
        let mut memory = GuestMemory::new();
        memory.map(0, size, ram.share()?, 0, true)?;
        let configs: Vec<PortConfig> = (0..endpoints.len()).map(config).collect();
        let mut device = Device::new(Host {
            ram: ram.clone(),
            memory,
            ports: endpoints.into_iter().map(Port::new).collect(),
            sink,
            packets: Vec::new(),
            buffers: Vec::new(),
            segments: Vec::new(),
            statuses: Vec::new(),
        });
        let configured = device.configure(Features::empty(), &configs);
        configured.map_err(|error| anyhow!("the device refuses its ports: {error:?}"))?;
        Ok(Self {
            device,
            ram,
            interrupts,
            done: Completions::default(),
            received: Vec::new(),
            transmitted: Vec::new(),
        })
    }

    /// Processes until nothing is left, as the host does (`device/work.rs`).
    fn settle(&mut self, mut more: bool) {
        loop {
            let mut busy = false;
            for index in 0..self.device.platform().ports.len() {
                busy |= self.device.platform().receive(index);
                busy |= self.deliver(index, &mut more);
            }
            if std::mem::take(&mut more) {
                busy = true;
                more = self.device.service();
            }
            if !busy {
                return;
            }
        }
    }

    fn deliver(&mut self, index: usize, more: &mut bool) -> bool {
        let port = &mut self.device.platform().ports[index];
        if port.done.is_empty() {
            return false;
        }
        std::mem::swap(&mut port.done, &mut self.done);
        let port = index as u32;
        if !self.done.transmitted.is_empty() {
            let all = self.done.transmitted.drain(..).map(completion);
            self.transmitted.extend(all);
            *more |= self.device.transmitted(port, 0, &self.transmitted);
            self.transmitted.clear();
        }
        if !self.done.received.is_empty() {
            self.received
                .extend(self.done.received.drain(..).map(received));
            *more |= self.device.received(port, 0, &self.received);
            self.received.clear();
        }
        true
    }
}

impl Machine for Native {
    #[inline]
    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let more = self.device.write_register(0, offset, width, value);
        self.settle(more);
    }

    #[inline]
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.device.read_register(0, offset, width)
    }

    fn ram(&self) -> &Ram {
        &self.ram
    }

    fn interrupts(&self) -> &InterruptController {
        &self.interrupts
    }
}

impl Port {
    fn new(mut endpoint: Box<dyn Endpoint>) -> Self {
        Self {
            queue: endpoint.take_queues().remove(0),
            rx: RxQueue::new(),
            done: Completions::default(),
            poll: false,
        }
    }
}

impl Host {
    /// Lets an endpoint fill posted buffers. Returns whether there may be more packets.
    fn receive(&mut self, index: usize) -> bool {
        let port = &mut self.ports[index];
        if !std::mem::take(&mut port.poll) {
            return false;
        }
        let mut io = QueueIo {
            memory: &self.memory,
            rx: &mut port.rx,
            done: &mut port.done,
            woken: &mut QueueSet::default(),
            policy: None,
        };
        port.poll = port.queue.receive(&mut io);
        port.poll
    }
}

impl Platform for Host {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(address, data).map_err(|_| MemoryError)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(address, data).map_err(|_| MemoryError)
    }

    fn map_window(&mut self, pages: &[u64], repeats: usize) -> Option<Window> {
        self.ram.window(pages, repeats).ok()
    }

    fn unmap_window(&mut self, _window: Window) {}

    fn raise(&mut self, vectors: &[u16]) {
        for vector in vectors {
            self.sink.raise(*vector);
        }
    }

    fn transmit(
        &mut self,
        port: u32,
        _queue: u32,
        packets: &[TxPacket],
        segments: &[Segment],
    ) -> TransmitResult {
        self.packets.clear();
        self.packets.extend(packets.iter().map(packet));
        self.segments.clear();
        self.segments.extend(segments.iter().map(segment));
        self.statuses.clear();
        let port = &mut self.ports[port as usize];
        let mut io = QueueIo {
            memory: &self.memory,
            rx: &mut port.rx,
            done: &mut port.done,
            woken: &mut QueueSet::default(),
            policy: None,
        };
        let batch = TxBatch::new(&self.packets, &self.segments).expect("a batch that adds up");
        port.queue.transmit(&mut io, batch, &mut self.statuses);
        let sent = |status: &wit::TxStatus| *status == wit::TxStatus::Sent;
        let groups = Groups::of(batch, &self.statuses, &self.memory);
        let mut result = TransmitResult {
            statuses: Vec::new(),
            multicast: groups.multicast,
            broadcast: groups.broadcast,
        };
        if !self.statuses.iter().all(sent) {
            result.statuses = self.statuses.iter().map(|s| status(*s)).collect();
        }
        result
    }

    fn post_receive(
        &mut self,
        port: u32,
        _queue: u32,
        buffers: &[RxBuffer],
        segments: &[Segment],
    ) -> u32 {
        self.buffers.clear();
        self.buffers
            .extend(buffers.iter().map(|buffer| wit::RxBuffer {
                id: buffer.id,
                segments: buffer.segments,
            }));
        self.segments.clear();
        self.segments.extend(segments.iter().map(segment));
        let port = &mut self.ports[port as usize];
        port.poll |= port.rx.is_empty();
        let taken = port.rx.post(&self.buffers, &self.segments);
        taken.expect("buffers that add up")
    }

    fn cancel_receive(&mut self, port: u32, _queue: u32) {
        self.ports[port as usize].rx.clear();
    }

    fn cancel_transmit(&mut self, port: u32, _queue: u32) {
        self.ports[port as usize].queue.cancel_transmit();
    }

    // Nobody saves or recovers this device.
    fn changed(&mut self) {}

    fn attempt(&mut self, _entry: u64) {}

    fn log(&mut self, level: Level, message: fmt::Arguments<'_>) {
        eprintln!("the native device ({level:?}): {message}");
    }
}

fn config(index: usize) -> PortConfig {
    let port = sandboxed::port(index, Box::new(manatee::endpoint::Null::new()));
    PortConfig {
        mac: port.mac,
        mtu: port.mtu,
        link_speed_mbps: port.link_speed_mbps,
        link_up: true,
        queues: 1,
    }
}

// Both sides generate their own types of the WIT world.

fn packet(packet: &TxPacket) -> wit::TxPacket {
    wit::TxPacket {
        id: packet.id,
        segments: packet.segments,
        l4_offset: packet.l4_offset,
        segment_size: packet.segment_size,
        vlan_tci: packet.vlan_tci,
        offloads: offloads(packet.offloads),
    }
}

fn offloads(offloads: Offloads) -> wit::Offloads {
    wit::Offloads::from_bits_truncate(offloads.bits())
}

fn segment(segment: &Segment) -> wit::Segment {
    wit::Segment {
        address: segment.address,
        length: segment.length,
    }
}

fn status(status: wit::TxStatus) -> TxStatus {
    match status {
        wit::TxStatus::Sent => TxStatus::Sent,
        wit::TxStatus::Pending => TxStatus::Pending,
        wit::TxStatus::Dropped => TxStatus::Dropped,
        wit::TxStatus::MemoryFault => TxStatus::MemoryFault,
        wit::TxStatus::TooLong => TxStatus::TooLong,
        wit::TxStatus::BadHeaders => TxStatus::BadHeaders,
    }
}

fn completion(completion: wit::TxCompletion) -> TxCompletion {
    TxCompletion {
        id: completion.id,
        status: status(completion.status),
    }
}

fn received(packet: wit::RxPacket) -> RxPacket {
    RxPacket {
        id: packet.id,
        length: packet.length,
        vlan_tci: packet.vlan_tci,
        flags: RxFlags::from_bits_truncate(packet.flags.bits()),
        hash: packet.hash,
    }
}
