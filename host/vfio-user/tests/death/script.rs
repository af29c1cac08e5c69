//! What a VMM asks for, and how it sends that.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::world::RAISES;

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const GET_INFO: u16 = 4;
const SET_IRQS: u16 = 8;
const READ: u16 = 9;
const WRITE: u16 = 10;
const RESET: u16 = 13;
const UNKNOWN: u16 = 99;

pub const NO_REPLY: u32 = 1 << 4;
pub const BAR: u32 = 0;
pub const CONFIG: u32 = 7;

/// Bytes that are sent at once, with descriptors.
pub struct Packet {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// Answers that a VMM waits for before it sends the next.
    answers: usize,
}

pub struct Script {
    pub packets: Vec<Packet>,
    /// The eventfd of the vector that is raised.
    pub interrupt: OwnedFd,
    pub interrupts: u64,
}

pub fn message(id: u16, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(id.to_ne_bytes());
    message.extend(command.to_ne_bytes());
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    message
}

fn access(offset: u64, region: u32, count: usize) -> Vec<u8> {
    let mut body = offset.to_ne_bytes().to_vec();
    body.extend(region.to_ne_bytes());
    body.extend((count as u32).to_ne_bytes());
    body
}

pub fn read(id: u16, region: u32, offset: u64, count: usize) -> Vec<u8> {
    message(id, READ, 0, &access(offset, region, count))
}

pub fn write(id: u16, flags: u32, region: u32, offset: u64, data: &[u8]) -> Vec<u8> {
    let body = [&access(offset, region, data.len())[..], data].concat();
    message(id, WRITE, flags, &body)
}

fn map(id: u16, address: u64) -> Vec<u8> {
    let mut body = 32_u32.to_ne_bytes().to_vec();
    body.extend(3_u32.to_ne_bytes());
    for word in [0, address, 4096_u64] {
        body.extend(word.to_ne_bytes());
    }
    message(id, DMA_MAP, 0, &body)
}

fn unmap(id: u16, address: u64) -> Vec<u8> {
    let mut body = 24_u32.to_ne_bytes().to_vec();
    body.extend(0_u32.to_ne_bytes());
    body.extend(address.to_ne_bytes());
    body.extend(4096_u64.to_ne_bytes());
    message(id, DMA_UNMAP, 0, &body)
}

fn set_irqs(id: u16, count: u32) -> Vec<u8> {
    // MSI-X, eventfds that trigger.
    let body: Vec<_> = [20, 4 | 32, 2, 0, count].map(u32::to_ne_bytes).concat();
    message(id, SET_IRQS, 0, &body)
}

/// Memory that begins with this byte.
fn memory(first: u8) -> OwnedFd {
    let fd = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&fd, &[first; 4096]).unwrap();
    fd
}

fn packet(answers: usize, messages: &[Vec<u8>]) -> Packet {
    Packet {
        bytes: messages.concat(),
        descriptors: Vec::new(),
        answers,
    }
}

fn packet_with<const N: usize>(
    answers: usize,
    messages: &[Vec<u8>],
    descriptors: [OwnedFd; N],
) -> Packet {
    Packet {
        descriptors: descriptors.into(),
        ..packet(answers, messages)
    }
}

impl Script {
    pub fn new() -> Self {
        let interrupt = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let other = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let version = message(1, VERSION, 0, &[0; 4]);
        let cut = read(13, BAR, 0x40, 8);
        let cut_map = map(29, 0x7000);
        let long: Vec<_> = (0..60_000).map(|at: u32| (at >> 3) as u8).collect();
        let irqs = [interrupt.try_clone().unwrap(), other];
        let packets = vec![
            packet(1, &[version]),
            packet(1, &[message(2, GET_INFO, 0, &[])]),
            packet(1, &[write(3, 0, CONFIG, 4, &[6, 0])]),
            packet(1, &[read(4, CONFIG, 4, 2)]),
            packet_with(1, &[map(5, 0x1000)], [memory(11)]),
            packet_with(1, &[map(6, 0x2000)], [memory(22)]),
            packet(
                3,
                &[
                    write(7, 0, BAR, 0x40, &[1; 8]),
                    write(8, NO_REPLY, BAR, 0x48, &[2; 4]),
                    read(9, BAR, 0x48, 4),
                    write(10, NO_REPLY, CONFIG, 8, &[3; 4]),
                    read(11, CONFIG, 8, 4),
                    // A message in two halves.
                    cut[..20].to_vec(),
                ],
            ),
            packet(2, &[cut[20..].to_vec(), write(14, 0, CONFIG, 12, &[9; 4])]),
            packet_with(1, &[set_irqs(15, 2)], irqs),
            packet(1, &[write(16, 0, BAR, RAISES, &[1; 4])]),
            packet_with(1, &[set_irqs(17, 1)], [memory(1)]),
            packet(
                1,
                &[
                    write(18, NO_REPLY, BAR, RAISES, &[2; 4]),
                    read(19, BAR, RAISES, 4),
                ],
            ),
            // More than is peeked at once.
            packet(
                2,
                &[
                    write(20, 0, BAR, 0x1000, &long),
                    read(21, BAR, 0x1000, 60_000),
                ],
            ),
            packet(2, &[unmap(22, 0x1000), unmap(23, 0x9000)]),
            packet(1, &[message(24, UNKNOWN, 0, &[0; 3])]),
            packet(1, &[read(25, 9, 0, 4)]),
            packet(1, &[write(26, 0, CONFIG, 16, &[5; 4])]),
            // Descriptors with the first half of a message, behind another one.
            packet_with(
                1,
                &[write(28, 0, CONFIG, 20, &[6; 4]), cut_map[..24].to_vec()],
                [memory(33)],
            ),
            packet(1, &[cut_map[24..].to_vec()]),
            packet(1, &[message(30, RESET, 0, &[])]),
            packet(1, &[read(31, BAR, 0x40, 8)]),
        ];
        Self {
            packets,
            interrupt,
            interrupts: 2,
        }
    }

    /// Adds descriptors in a packet of more than is peeked at once (512 bytes), which ends in
    /// the middle of their message.
    pub fn with_long_packet(mut self) -> Self {
        let messages = [write(40, 0, BAR, 0x2000, &[4; 460]), map(41, 0x3000)];
        let packet = packet_with(2, &messages, [memory(44)]);
        self.packets.insert(8, packet);
        self
    }

    pub fn answers(&self) -> usize {
        self.packets.iter().map(|packet| packet.answers).sum()
    }

    /// Sends everything, and returns the answers. In step, each packet is sent when those
    /// before are answered.
    pub fn drive(&self, vmm: UnixStream, in_step: bool) -> Vec<Vec<u8>> {
        // Somebody who waits in vain is a failure, and no reason to wait for ever.
        vmm.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        if in_step {
            let mut answers = Vec::new();
            for packet in &self.packets {
                packet.send(&vmm);
                answers.extend((0..packet.answers).map(|_| answer(&vmm)));
            }
            return answers;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| self.packets.iter().for_each(|packet| packet.send(&vmm)));
            (0..self.answers()).map(|_| answer(&vmm)).collect()
        })
    }

    /// Returns how often the vector was raised since the last call.
    pub fn raised(&self) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(&self.interrupt, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }
}

impl Packet {
    fn send(&self, mut vmm: &UnixStream) {
        let fds: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let slices = [IoSlice::new(&self.bytes)];
        let sent = sendmsg(vmm, &slices, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
        vmm.write_all(&self.bytes[sent..]).unwrap();
    }
}

pub fn answer(mut vmm: &UnixStream) -> Vec<u8> {
    let mut answer = vec![0; 16];
    vmm.read_exact(&mut answer).unwrap();
    let size = u32::from_ne_bytes(answer[4..8].try_into().unwrap());
    answer.resize(size as usize, 0);
    vmm.read_exact(&mut answer[16..]).unwrap();
    answer
}
