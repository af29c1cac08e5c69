//! The world as the platform of a native device.

use alloc::string::ToString;
use core::fmt;

use device_kit::platform::{
    Delayed, Level, LinkStatistics, MemoryError, Platform, RxBuffer, Segment, Steering,
    TransmitResult, TxPacket,
};
use device_kit::window::Window;

use crate::world::{Poison, World};

impl World {
    /// Makes the device fail if its steps are used up, as a trap would.
    fn burn(&mut self) {
        if let Some(left) = self.fuse.as_mut() {
            *left = left.saturating_sub(1);
            assert!(*left > 0, "the fuse is blown");
        }
    }

    /// Returns whether a frame has the number that makes the device fail.
    fn is_poisoned(&self, frames: &[Segment]) -> bool {
        let Some(Poison::Frame(number)) = self.poison else {
            return false;
        };
        frames.iter().any(|frame| {
            let mut found = [0];
            let read = self.memory.read(frame.address + 14, &mut found);
            read.is_ok() && found[0] == number
        })
    }

    /// Makes the device fail if there are offences, as a host does.
    fn punish(&mut self) {
        let offences = self.take_offences();
        assert!(offences.is_empty(), "the device {}", offences.join("; "));
    }
}

impl Platform for World {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        self.burn();
        self.memory.read(address, data).map_err(|_| MemoryError)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.burn();
        self.memory.write(address, data).map_err(|_| MemoryError)
    }

    fn map_window(&mut self, pages: &[u64], repeats: usize) -> Option<Window> {
        let full = self.window_limit.is_some_and(|most| self.windows >= most);
        if !self.with_windows || full {
            return None;
        }
        let window = self.memory.map_window(pages, repeats)?;
        self.windows += 1;
        self.laid += 1;
        Some(window)
    }

    fn unmap_window(&mut self, window: Window) {
        self.memory.unmap_window(window);
        self.windows -= 1;
    }

    fn raise(&mut self, vectors: &[u16]) {
        self.burn();
        World::raise(self, vectors);
        self.punish();
    }

    fn raise_within(&mut self, vectors: &[Delayed]) {
        self.burn();
        World::raise_within(self, vectors);
        self.punish();
    }

    fn transmit(
        &mut self,
        port: u32,
        queue: u32,
        packets: &[TxPacket],
        segments: &[Segment],
    ) -> TransmitResult {
        self.burn();
        assert!(!self.is_poisoned(segments), "the fuse is blown");
        let result = World::transmit(self, port, queue, packets, segments);
        self.punish();
        self.burn();
        result
    }

    fn post_receive(
        &mut self,
        port: u32,
        queue: u32,
        buffers: &[RxBuffer],
        segments: &[Segment],
    ) -> u32 {
        self.burn();
        let taken = World::post_receive(self, port, queue, buffers, segments);
        self.punish();
        self.burn();
        taken
    }

    fn cancel_receive(&mut self, port: u32, queue: u32) {
        World::cancel_receive(self, port, queue);
        self.punish();
    }

    fn cancel_transmit(&mut self, port: u32, queue: u32) {
        World::cancel_transmit(self, port, queue);
        self.punish();
    }

    fn steer(&mut self, port: u32, steering: &Steering) {
        self.burn();
        World::steer(self, port, steering.clone());
        self.punish();
        self.burn();
    }

    fn limit_rate(&mut self, port: u32, mbps: Option<u32>) {
        self.burn();
        World::limit_rate(self, port, mbps);
        self.punish();
        let is_poison = mbps.is_some_and(|mbps| self.poison == Some(Poison::Limit(mbps)));
        assert!(!is_poison, "the fuse is blown");
        self.burn();
    }

    fn statistics(&mut self, port: u32) -> LinkStatistics {
        self.burn();
        let counted = World::statistics(self, port);
        self.punish();
        counted
    }

    fn changed(&mut self) {
        self.changes += 1;
    }

    fn attempt(&mut self, entry: u64) {
        self.attempted = Some(entry);
    }

    fn log(&mut self, level: Level, message: fmt::Arguments<'_>) {
        World::log(self, level, message.to_string());
    }
}
