//! A minimal driver: WQEs and CQEs are written and read in place, without locks or
//! allocations.
//!
//! The conformance suite's driver brings the device up; this one takes its
//! queues over.

use anyhow::{Result, anyhow};
use mana_wire::oob::{CqeHeader, CqeType, LONG_FORMAT, SHORT_FORMAT, TxShortOob};
use mana_wire::queue::{
    CQE_SIZE, EQE_SIZE, OWNER_BITS, PAGE_SIZE, RingDoorbell, WqDoorbell, WqeHeader, doorbell,
};
use manatee_conformance::driver::Driver;
use manatee_conformance::driver::MEM_KEY;
use manatee_conformance::driver::nic::{Object, Sizes, Vport};
use manatee_conformance::driver::ring::Ring;
use manatee_conformance::failure::Failure;
use manatee_conformance::guest::{MEMORY_SIZE, Unwired};

use crate::machine::{BringUp, Machine};
use crate::ram::{Ram, View};

/// Queues with just room for a batch, so that 64 pairs of them fit the driver's memory.
pub const SMALL: Sizes = Sizes {
    eq: PAGE_SIZE,
    wq: PAGE_SIZE,
    cq: 2 * PAGE_SIZE,
};

/// Packets, and buffers, that the driver cycles through.
pub const PACKETS: u64 = 64;

/// The layout of the driver's packets and buffers.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Guest address of the first packet, and from one to the next.
    pub packets: (u64, u64),
    /// SGEs of a packet, and the bytes of each.
    pub segments: (u32, u32),
    /// Kind of a packet's WQE.
    pub kind: Kind,
    /// Guest address of the first buffer, and from one to the next.
    pub buffers: (u64, u64),
    /// Bytes of a buffer.
    pub room: u32,
}

/// Kinds of WQEs of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With a short OOB and no offloads.
    Plain,
    /// With a long OOB and no offloads.
    LongOob,
    /// Large sends over IPv4: the first segment holds the headers.
    LargeSend,
}

impl Kind {
    /// Returns the header of a WQE with this number of SGEs of this length.
    fn header(self, (segments, length): (u32, u32)) -> WqeHeader {
        let header = WqeHeader::new().with_num_sge(segments as u8);
        match self {
            Self::Plain => header.with_inline_oob_size_div4(2),
            Self::LongOob => header.with_inline_oob_size_div4(6),
            Self::LargeSend => header
                .with_inline_oob_size_div4(2)
                .with_client_oob_in_sgl(true)
                .with_client_data_unit(1448)
                .with_last_vbytes(length as u8),
        }
    }

    /// Returns the short OOB of a WQE.
    fn oob(self, oob: TxShortOob) -> TxShortOob {
        match self {
            Self::Plain => oob.with_pkt_fmt(SHORT_FORMAT),
            Self::LongOob => oob.with_pkt_fmt(LONG_FORMAT),
            Self::LargeSend => oob
                .with_pkt_fmt(SHORT_FORMAT)
                .with_is_outer_ipv4(true)
                .with_comp_iphdr_csum(true)
                .with_comp_tcp_csum(true)
                .with_trans_off(34),
        }
    }
}

impl Layout {
    /// Returns the layout for plain packets of one segment of this many bytes, and buffers of
    /// 2 KiB, after the memory that the conformance suite's driver uses.
    pub fn of(bytes: u32) -> Self {
        Self {
            packets: (MEMORY_SIZE, 2048),
            segments: (1, bytes),
            kind: Kind::Plain,
            buffers: (MEMORY_SIZE + 2048 * PACKETS, 2048),
            room: 2048,
        }
    }

    /// Returns the bytes of guest memory that hold it all.
    pub fn ram(self) -> u64 {
        2 * MEMORY_SIZE
    }
}

/// A driver with the device it drives.
pub struct Thin<M> {
    /// The machine.
    pub machine: M,
    ports: Vec<Port>,
    doorbells: u64,
}

/// The queues of a port.
struct Port {
    send: Posted,
    sent: Consumed,
    receive: Posted,
    received: Consumed,
    events: Consumed,
    layout: Layout,
    oob: u64,
}

/// A work queue.
struct Posted {
    id: u32,
    ring: View,
    /// Header and size of a WQE, and where its SGEs begin.
    header: u64,
    size: u32,
    segments: usize,
    /// Bytes posted.
    head: u32,
    /// WQEs posted.
    count: u64,
}

/// A completion or event queue.
struct Consumed {
    id: u32,
    ring: View,
    entry: usize,
    /// Number of entries, a power of two of which this is the exponent.
    exponent: u32,
    /// Entries consumed, from the first lap on.
    head: u32,
    /// Entries consumed since the last doorbell.
    untold: u32,
}

impl<M: Machine> Thin<M> {
    /// Brings the device up with this number of ports and queues of these sizes.
    ///
    /// # Errors
    ///
    /// If the device does not behave as the driver expects.
    pub fn new(mut machine: M, ports: u32, sizes: Sizes, layout: Layout) -> Result<Self> {
        let (vports, doorbells) = {
            let mut guest = Unwired(BringUp(&mut machine));
            let mut driver = Driver::new(&mut guest);
            let mut open = || {
                driver.start()?;
                let all = (0..ports).map(|port| driver.open_with(port, sizes));
                all.collect::<Result<Vec<Vport>, Failure>>()
            };
            let vports = open().map_err(|error| anyhow!("bringing the device up: {error}"))?;
            (vports, driver.registers().doorbells)
        };
        let ram = machine.ram();
        let ports = vports.iter().map(|vport| Port::new(ram, vport, layout));
        let ports = ports.collect::<Result<_>>()?;
        Ok(Self {
            machine,
            ports,
            doorbells,
        })
    }

    /// Moves the driver to another machine, which wraps this one.
    pub fn map<N: Machine>(self, wrap: impl FnOnce(M) -> N) -> Thin<N> {
        Thin {
            machine: wrap(self.machine),
            ports: self.ports,
            doorbells: self.doorbells,
        }
    }

    /// Returns the machine that it drives.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Returns the number of ports.
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Posts packets, without a doorbell.
    #[inline]
    pub fn post_packets(&mut self, port: usize, count: u32) {
        let Port {
            send, layout, oob, ..
        } = &mut self.ports[port];
        for _ in 0..count {
            let address = layout.packets.0 + send.count % PACKETS * layout.packets.1;
            send.post(*oob, address, layout.segments);
        }
    }

    /// Rings the doorbell for posted packets.
    #[inline]
    pub fn ring_send(&mut self, port: usize) {
        let bits = self.ports[port].send.doorbell();
        self.doorbell(doorbell::SQ, bits);
    }

    /// Consumes the completions of packets, which must be there and report success.
    #[inline]
    pub fn take_sent(&mut self, port: usize, count: u32) {
        let sent = &mut self.ports[port].sent;
        let good = CqeHeader::of(CqeType::TxOkay).into_bits();
        for _ in 0..count {
            let header = sent.next().expect("a completion for each packet") as u32;
            assert_eq!(header, good, "a packet's completion");
        }
        self.tell_consumed(port, |port| &mut port.sent);
    }

    /// Consumes the next completion of a packet, of any type. Returns whether there is one.
    pub fn try_take_sent(&mut self, port: usize) -> bool {
        let taken = self.ports[port].sent.next().is_some();
        self.tell_consumed(port, |port| &mut port.sent);
        taken
    }

    /// Consumes the completions of packets, which must be there, of any type.
    pub fn take_sent_in_any_way(&mut self, port: usize, count: u32) {
        let sent = &mut self.ports[port].sent;
        for _ in 0..count {
            sent.next().expect("a completion for each packet");
        }
        self.tell_consumed(port, |port| &mut port.sent);
    }

    /// Posts buffers, without a doorbell.
    #[inline]
    pub fn post_buffers(&mut self, port: usize, count: u32) {
        let Port {
            receive, layout, ..
        } = &mut self.ports[port];
        for _ in 0..count {
            let address = layout.buffers.0 + receive.count % PACKETS * layout.buffers.1;
            receive.post(0, address, (1, layout.room));
        }
    }

    /// Rings the doorbell for posted buffers.
    #[inline]
    pub fn ring_receive(&mut self, port: usize) {
        let bits = self.ports[port].receive.doorbell();
        self.doorbell(doorbell::RQ, bits);
    }

    /// Consumes the completions of received packets, as many as there are.
    #[inline]
    pub fn take_received(&mut self, port: usize) -> u32 {
        let received = &mut self.ports[port].received;
        let good = CqeHeader::of(CqeType::RxOkay).into_bits();
        let mut count = 0;
        while let Some(first) = received.next() {
            assert_eq!(first as u32, good, "a received packet's completion");
            count += 1;
        }
        self.tell_consumed(port, |port| &mut port.received);
        count
    }

    /// Consumes the event of a completion and arms again, as a driver does on an
    /// interrupt.
    #[inline]
    pub fn arm(&mut self, port: usize) {
        let Port { sent, events, .. } = &mut self.ports[port];
        while events.next().is_some() {}
        let (sent, events) = (sent.doorbell(true), events.doorbell(true));
        self.doorbell(doorbell::CQ, sent);
        self.doorbell(doorbell::EQ, events);
    }

    /// Rings as Linux does while it polls: not every time, and without the arm bit.
    #[inline]
    fn tell_consumed(&mut self, port: usize, queue: impl Fn(&mut Port) -> &mut Consumed) {
        let queue = queue(&mut self.ports[port]);
        if queue.untold > queue.entries() / 2 {
            let bits = queue.doorbell(false);
            self.doorbell(doorbell::CQ, bits);
        }
    }

    #[inline]
    fn doorbell(&mut self, offset: u64, bits: u64) {
        self.machine
            .write_register(self.doorbells + offset, 8, bits);
    }
}

impl Port {
    fn new(ram: &Ram, vport: &Vport, layout: Layout) -> Result<Self> {
        let oob = layout.kind.oob(vport.oob()).into_bits();
        let buffer = Kind::Plain.header((1, layout.room));
        Ok(Self {
            send: Posted::new(ram, &vport.tx, layout.kind.header(layout.segments))?,
            sent: Consumed::new(ram, vport.tx.cq.id, &vport.tx.cq.ring, CQE_SIZE)?,
            receive: Posted::new(ram, &vport.rx, buffer)?,
            received: Consumed::new(ram, vport.rx.cq.id, &vport.rx.cq.ring, CQE_SIZE)?,
            events: Consumed::new(ram, vport.eq.id, &vport.eq.ring, EQE_SIZE)?,
            layout,
            oob,
        })
    }
}

impl Posted {
    /// Creates a queue whose WQEs have this header.
    fn new(ram: &Ram, object: &Object, header: WqeHeader) -> Result<Self> {
        Ok(Self {
            id: object.wq.id,
            ring: ram.view(&object.wq.memory.pages)?,
            header: header.into_bits(),
            size: header.size(),
            segments: header.sgl_offset() as usize,
            head: object.wq.head,
            count: 0,
        })
    }

    /// Writes a WQE whose segments are contiguous. The rest of a long OOB stays zero.
    #[inline]
    fn post(&mut self, oob: u64, address: u64, (segments, length): (u32, u32)) {
        let mask = self.ring.size() - 1;
        let at = self.head as usize;
        self.ring.store(at & mask, self.header);
        self.ring.store((at + 8) & mask, oob);
        for segment in 0..segments {
            let at = at + self.segments + 16 * segment as usize;
            let address = address + u64::from(segment * length);
            self.ring.store(at & mask, address);
            let key_and_size = u64::from(MEM_KEY) | u64::from(length) << 32;
            self.ring.store((at + 8) & mask, key_and_size);
        }
        self.head = self.head.wrapping_add(self.size);
        self.count += 1;
    }

    #[inline]
    fn doorbell(&self) -> u64 {
        let bits = WqDoorbell::new().with_id(self.id).with_tail(self.head);
        bits.into_bits()
    }
}

impl Consumed {
    fn new(ram: &Ram, id: u32, queue: &Ring, entry: u32) -> Result<Self> {
        Ok(Self {
            id,
            ring: ram.view(&queue.memory.pages)?,
            entry: entry as usize,
            exponent: queue.entries().trailing_zeros(),
            head: queue.head,
            untold: 0,
        })
    }

    #[inline]
    fn entries(&self) -> u32 {
        1 << self.exponent
    }

    /// Returns the first word of the next entry, if there is one.
    #[inline]
    fn next(&mut self) -> Option<u64> {
        let at = (self.head as usize * self.entry) & (self.ring.size() - 1);
        let owner = self.ring.load(at + self.entry - 8) >> (64 - OWNER_BITS);
        let lap = u64::from(self.head >> self.exponent) & ((1 << OWNER_BITS) - 1);
        if owner != lap {
            return None;
        }
        self.head = self.head.wrapping_add(1);
        self.untold += 1;
        Some(self.ring.load(at))
    }

    #[inline]
    fn doorbell(&mut self, arm: bool) -> u64 {
        self.untold = 0;
        let tail = self.head & ((self.entries() << OWNER_BITS) - 1);
        let bits = RingDoorbell::new().with_id(self.id).with_tail(tail);
        bits.with_arm(arm).into_bits()
    }
}
