//! BAR 0, and the work that a write to it starts.

use device_kit::platform::{Level, Platform};
use mana_wire::queue::{DimDoorbell, RingDoorbell, WqDoorbell, doorbell};
use mana_wire::registers::{self, DOORBELLS, SHARED_MEMORY, SHARED_MEMORY_END};

use super::{Device, Parts};
use crate::bnic::QueueKey;
use crate::gdma::ids::{RqId, SqId, WqId};
use crate::gdma::queue::wq::{Direction, Owner};
use crate::gdma::queues::Doorbell;

impl<P: Platform> Device<P> {
    /// Reads 1, 2, 4 or 8 bytes. What does not exist reads as zero.
    pub(super) fn read_bar0(&self, offset: u64, width: u8) -> u64 {
        let width = usize::from(width.min(8));
        if (SHARED_MEMORY..SHARED_MEMORY_END).contains(&offset) {
            return self.smc.read((offset - SHARED_MEMORY) as usize, width);
        }
        let map = registers::map();
        let mut value = [0; 8];
        let bytes = map
            .iter()
            .skip(usize::try_from(offset).unwrap_or(usize::MAX))
            .take(width);
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = *from;
        }
        u64::from_le_bytes(value)
    }

    /// Writes 1, 2, 4 or 8 bytes.
    #[inline]
    pub(super) fn write_bar0(&mut self, offset: u64, width: u8, value: u64) {
        match (offset, width) {
            (SHARED_MEMORY..SHARED_MEMORY_END, 1 | 2 | 4 | 8) => {
                let at = (offset - SHARED_MEMORY) as usize;
                if let Some(header) = self.smc.write(at, width.into(), value) {
                    self.shared_memory_request(header);
                }
            }
            (DOORBELLS.., 8) => self.ring(offset - DOORBELLS, value),
            (DOORBELLS.., 4) => self.ring_half(offset - DOORBELLS, value as u32),
            _ => self.stray(offset, width),
        }
    }

    /// Takes half of a doorbell: writing the upper half rings it.
    fn ring_half(&mut self, offset: u64, half: u32) {
        if offset.is_multiple_of(8) {
            self.doorbell_low = Some((offset, half));
            return;
        }
        match self.doorbell_low.take() {
            Some((at, low)) if at.checked_add(4) == Some(offset) => {
                self.ring(at, u64::from(low) | u64::from(half) << 32);
            }
            _ => self.stray(DOORBELLS + offset, 4),
        }
    }

    fn ring(&mut self, offset: u64, value: u64) {
        match offset {
            doorbell::SQ => {
                let bell = WqDoorbell::from_bits(value);
                self.ring_wq(WqId::Sq(SqId(bell.id())), bell.tail());
            }
            doorbell::RQ => {
                let bell = WqDoorbell::from_bits(value);
                self.ring_wq(WqId::Rq(RqId(bell.id())), bell.tail());
            }
            doorbell::RQ_CLIENT_DATA => {}
            doorbell::CQ => {
                let bell = RingDoorbell::from_bits(value);
                let bell = Doorbell {
                    id: bell.id(),
                    position: bell.tail(),
                    arm: bell.arm(),
                };
                self.queues.ring_cq(&mut self.platform, bell);
            }
            doorbell::DIM if self.is_moderated() => {
                let bell = DimDoorbell::from_bits(value);
                self.queues.ring_dim(&mut self.platform, bell);
            }
            doorbell::EQ => {
                let bell = RingDoorbell::from_bits(value);
                let bell = Doorbell {
                    id: bell.id() & 0xffff,
                    position: bell.tail(),
                    arm: bell.arm(),
                };
                self.queues.ring_eq(&mut self.platform, bell);
            }
            _ => self.stray(DOORBELLS + offset, 8),
        }
    }

    /// Returns whether the driver sets how interrupts are moderated.
    fn is_moderated(&self) -> bool {
        let hwc = self.hwc.as_ref();
        hwc.is_some_and(|hwc| self.nic.moderates(hwc.channel.driver_caps))
    }

    fn ring_wq(&mut self, id: WqId, producer: u32) {
        let wq = self.queues.wq(id);
        let rung = wq.and_then(|wq| wq.ring_doorbell(producer).then_some(wq.owner));
        let Some(owner) = rung else {
            let bell = Doorbell {
                id: id.number(),
                position: producer,
                arm: false,
            };
            return self
                .queues
                .bad_doorbell(&mut self.platform, id.queue_type(), bell);
        };
        match owner {
            Owner::Channel => self.process_hwc(),
            Owner::Nic(key) => {
                let direction = match id {
                    WqId::Sq(_) => Direction::Send,
                    WqId::Rq(_) => Direction::Receive,
                };
                let Parts { mut ctx, nic, .. } = self.parts();
                nic.process(&mut ctx, QueueKey::from_bits(direction, key));
            }
            Owner::Nobody => {}
        }
    }

    fn stray(&mut self, offset: u64, width: u8) {
        if self.stray_accesses.hit() {
            self.platform.log(
                Level::Debug,
                format_args!("ignored a write of {width} bytes at {offset:#x} of BAR 0"),
            );
        }
    }
}
