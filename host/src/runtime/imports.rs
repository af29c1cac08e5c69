//! The imports of the world, on behalf of one device.

use wasmtime::bail;

use super::linear_memory::WindowError;
use super::state::{HostState, Phase};
use crate::bindings::manatee::device::guest_memory::{
    self, MemoryError, WindowError as WitWindowError,
};
use crate::bindings::manatee::device::interrupts;
use crate::bindings::manatee::device::log::{self, Level};
use crate::bindings::manatee::device::packet_endpoint::{self, TransmitResult};
use crate::bindings::manatee::device::recovery;
use crate::bindings::manatee::device::types::{self, RxBuffer, Segment, TxPacket, TxStatus};
use crate::endpoint::TxBatch;
use crate::memory::{Access, GuestMemory};

/// Longest copy in one call.
const MAX_COPY: usize = 1 << 20;
/// Longest line of a component that is logged, in bytes.
const MAX_LINE: usize = 1024;

impl types::Host for HostState {}

impl guest_memory::Host for HostState {
    fn read(
        &mut self,
        address: u64,
        length: u32,
    ) -> wasmtime::Result<Result<Vec<u8>, MemoryError>> {
        let length = length as usize;
        if length > MAX_COPY {
            return Ok(Err(MemoryError::TooLong));
        }
        if !self.may_access(address, length, Access::Read) {
            return Ok(Err(MemoryError::Unmapped));
        }
        let mut data = vec![0; length];
        let read = self.memory.read(address, &mut data);
        Ok(read.map(|()| data).map_err(|_| MemoryError::Unmapped))
    }

    fn write(&mut self, address: u64, data: Vec<u8>) -> wasmtime::Result<Result<(), MemoryError>> {
        self.loud("wrote guest memory")?;
        if data.len() > MAX_COPY {
            return Ok(Err(MemoryError::TooLong));
        }
        if !self.function.bus_master() {
            return Ok(Err(MemoryError::Unmapped));
        }
        Ok(self
            .memory
            .write(address, &data)
            .map_err(|_| MemoryError::Unmapped))
    }

    fn map_window(
        &mut self,
        offset: u32,
        pages: Vec<u64>,
    ) -> wasmtime::Result<Result<(), WitWindowError>> {
        let Some(linear_memory) = self.linear_memory.as_ref().filter(|_| self.limits.windows)
        else {
            return Ok(Err(WitWindowError::Unsupported));
        };
        let mapped = linear_memory.map(offset, &pages, &self.memory);
        Ok(mapped.map_err(|error| match error {
            WindowError::Invalid => WitWindowError::Invalid,
            WindowError::Exhausted => WitWindowError::Exhausted,
            WindowError::Mmap(error) => {
                tracing::warn!(%error, "a window could not be laid; the device copies instead");
                WitWindowError::Unsupported
            }
        }))
    }

    fn unmap_window(&mut self, offset: u32) -> wasmtime::Result<()> {
        if let Some(linear_memory) = &self.linear_memory {
            linear_memory.unmap(offset);
        }
        Ok(())
    }
}

impl recovery::Host for HostState {
    fn changed(&mut self) -> wasmtime::Result<()> {
        self.changed = true;
        Ok(())
    }

    fn attempt(&mut self, entry: u64) -> wasmtime::Result<()> {
        self.attempt = Some(entry);
        Ok(())
    }
}

impl HostState {
    /// Fails if the instance is to keep quiet.
    fn loud(&self, what: &str) -> wasmtime::Result<()> {
        if self.phase == Phase::Quiet {
            bail!("it {what} while it saved or took over a state");
        }
        Ok(())
    }

    fn may_access(&self, address: u64, length: usize, access: Access) -> bool {
        self.function.bus_master() && self.memory.check(address, length as u64, access).is_ok()
    }
}

impl interrupts::Host for HostState {
    fn raise(&mut self, vectors: Vec<u16>) -> wasmtime::Result<()> {
        self.loud("raised interrupts")?;
        let table = usize::from(self.function.msix_vectors());
        if vectors.len() > table {
            bail!(
                "raised {} vectors at once; there are {table}",
                vectors.len()
            );
        }
        for vector in vectors {
            HostState::raise(self, vector);
        }
        Ok(())
    }
}

impl packet_endpoint::Host for HostState {
    fn transmit(
        &mut self,
        port: u32,
        queue: u32,
        packets: Vec<TxPacket>,
        segments: Vec<Segment>,
    ) -> wasmtime::Result<TransmitResult> {
        self.loud("transmitted")?;
        let bus_master = self.function.bus_master();
        let batch = TxBatch::new(&packets, &segments)?;
        let Some(state) = self.ports.get_mut(port as usize).filter(|_| queue == 0) else {
            bail!("transmitted on port {port}, queue {queue}, which does not exist");
        };
        self.statuses.clear();
        if let Some(last) = packets.last() {
            state.handed_over = Some(last.id);
        }
        if bus_master {
            let (endpoint, mut io) = state.split(&self.memory);
            endpoint.transmit(&mut io, batch, &mut self.statuses);
        } else {
            self.statuses.resize(packets.len(), TxStatus::MemoryFault);
        }
        let mut result = count_groups(batch, &self.statuses, &self.memory);
        if self.statuses.iter().any(|status| *status != TxStatus::Sent) {
            result.statuses.clone_from(&self.statuses);
        }
        Ok(result)
    }

    fn post_receive(
        &mut self,
        port: u32,
        queue: u32,
        buffers: Vec<RxBuffer>,
        segments: Vec<Segment>,
    ) -> wasmtime::Result<u32> {
        self.loud("posted buffers")?;
        let Some(state) = self.ports.get_mut(port as usize).filter(|_| queue == 0) else {
            bail!("posted to port {port}, queue {queue}, which does not exist");
        };
        state.poll |= state.rx().is_empty();
        match state.rx().post(&buffers, &segments) {
            Some(taken) => Ok(taken),
            None => bail!("posted buffers that do not add up to their segments"),
        }
    }

    fn cancel_receive(&mut self, port: u32, _queue: u32) -> wasmtime::Result<()> {
        self.loud("took buffers back")?;
        if let Some(state) = self.ports.get_mut(port as usize) {
            state.cancel_receive();
        }
        Ok(())
    }

    fn cancel_transmit(&mut self, port: u32, _queue: u32) -> wasmtime::Result<()> {
        self.loud("gave up transmits")?;
        if let Some(state) = self.ports.get_mut(port as usize) {
            state.cancel_transmit();
        }
        Ok(())
    }
}

/// Counts packets to group addresses, which the device does not see.
fn count_groups(batch: TxBatch<'_>, statuses: &[TxStatus], memory: &GuestMemory) -> TransmitResult {
    let mut result = TransmitResult {
        statuses: Vec::new(),
        multicast_packets: 0,
        multicast_bytes: 0,
        broadcast_packets: 0,
        broadcast_bytes: 0,
    };
    for ((_, segments), status) in batch.iter().zip(statuses) {
        if !matches!(
            status,
            TxStatus::Sent | TxStatus::Pending | TxStatus::Dropped
        ) {
            continue;
        }
        let Some(first) = segments.first().filter(|first| first.length >= 6) else {
            continue;
        };
        let mut destination = [0; 6];
        if memory.read(first.address, &mut destination).is_err() || destination[0] & 1 == 0 {
            continue;
        }
        let bytes = segments
            .iter()
            .map(|segment| u64::from(segment.length))
            .sum::<u64>();
        if destination == [0xff; 6] {
            result.broadcast_packets += 1;
            result.broadcast_bytes += bytes;
        } else {
            result.multicast_packets += 1;
            result.multicast_bytes += bytes;
        }
    }
    result
}

impl log::Host for HostState {
    fn write(&mut self, level: Level, message: Vec<u8>) -> wasmtime::Result<()> {
        if !self.log_limit.allow(level as usize) {
            return Ok(());
        }
        let line = &message[..message.len().min(MAX_LINE)];
        let text: String = String::from_utf8_lossy(line)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        match level {
            Level::Error => tracing::error!(target: "manatee::component", "{text}"),
            Level::Warn => tracing::warn!(target: "manatee::component", "{text}"),
            Level::Info => tracing::info!(target: "manatee::component", "{text}"),
            Level::Debug => tracing::debug!(target: "manatee::component", "{text}"),
            Level::Trace => tracing::trace!(target: "manatee::component", "{text}"),
        }
        Ok(())
    }
}
