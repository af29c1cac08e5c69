//! Frames of any content with any offloads, through the endpoints.

use std::fs::File;

use arbitrary::{Result, Unstructured};
use manatee::endpoint::{
    Completions, Endpoint, Loopback, Null, Offloads, Queue, QueueIo, QueueSet, RxQueue, Segment,
    TxBatch, TxPacket,
};
use manatee::memory::GuestMemory;
use rustix::fs::{MemfdFlags, memfd_create};

/// Guest memory, in bytes.
const MEMORY: u64 = 1 << 18;
/// Addresses of frames and of buffers.
const FRAMES: u64 = 0;
const BUFFERS: u64 = 0x2_0000;

/// Transmits what the input says, to both endpoints.
pub fn run(data: &[u8]) {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.set_len(MEMORY).expect("it can grow");
    let mut memory = GuestMemory::new();
    memory
        .map(0, MEMORY, file, 0, true)
        .expect("it can be mapped");
    let endpoints: [Box<dyn Endpoint>; 2] = [Box::new(Loopback::new()), Box::new(Null::new())];
    for mut endpoint in endpoints {
        let mut side = Side {
            memory: &memory,
            queue: endpoint.take_queues().remove(0),
            rx: RxQueue::new(),
            done: Completions::default(),
        };
        let mut input = Unstructured::new(data);
        while !input.is_empty() && side.step(&mut input).is_ok() {}
    }
}

struct Side<'a> {
    memory: &'a GuestMemory,
    queue: Box<dyn Queue>,
    rx: RxQueue,
    done: Completions,
}

impl Side<'_> {
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let length = input.int_in_range(0..=2048_usize)?;
        let offloads = input.arbitrary::<u8>()?;
        let cut = input.int_in_range(1..=4_u16)?;
        let packet = TxPacket {
            id: 1,
            segments: cut,
            l4_offset: input.arbitrary()?,
            segment_size: input.arbitrary()?,
            vlan_tci: input.arbitrary()?,
            offloads: flags(offloads),
        };
        self.post(input)?;
        let bytes = input.bytes(length.min(input.len()))?;
        self.memory.write(FRAMES, bytes).expect("it is memory");
        let each = (bytes.len() as u64 / u64::from(cut)).max(1);
        let segments: Vec<Segment> = (0..u64::from(cut))
            .map(|index| Segment {
                address: FRAMES + index * each,
                length: each as u32,
            })
            .collect();
        let batch = TxBatch::new(std::slice::from_ref(&packet), &segments);
        let batch = batch.expect("it adds up");
        let mut statuses = Vec::new();
        let mut io = QueueIo {
            memory: self.memory,
            rx: &mut self.rx,
            done: &mut self.done,
            woken: &mut QueueSet::default(),
            policy: None,
        };
        self.queue.transmit(&mut io, batch, &mut statuses);
        assert_eq!(statuses.len(), 1);
        while self.queue.receive(&mut io) {}
        for packet in self.done.received.drain(..) {
            assert!(
                packet.length <= 1 << 17,
                "a frame of {} bytes",
                packet.length
            );
        }
        Ok(())
    }

    /// Posts a buffer of one or two segments, possibly beyond memory.
    fn post(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let length = input.int_in_range(0..=4096)?;
        let address = match input.int_in_range(0..=15)? {
            0 => input.arbitrary()?,
            page => BUFFERS + page * 0x1000,
        };
        let buffer = manatee::endpoint::RxBuffer { id: 7, segments: 1 };
        let posted = self.rx.post(&[buffer], &[Segment { address, length }]);
        assert!(posted.is_some());
        Ok(())
    }
}

fn flags(bits: u8) -> Offloads {
    let all = [
        Offloads::IPV4,
        Offloads::IPV6,
        Offloads::IP_CHECKSUM,
        Offloads::TCP_CHECKSUM,
        Offloads::UDP_CHECKSUM,
        Offloads::TCP_SEGMENTATION,
        Offloads::INSERT_VLAN,
    ];
    let mut flags = Offloads::empty();
    for (bit, flag) in all.into_iter().enumerate() {
        if bits >> bit & 1 != 0 {
            flags |= flag;
        }
    }
    flags
}
