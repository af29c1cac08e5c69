//! The imports of the world, on behalf of one device.

use wasmtime::bail;

use super::linear_memory::WindowError;
use super::state::HostState;
use crate::bindings::manatee::device::guest_memory::{
    self, MemoryError, WindowError as WitWindowError,
};
use crate::bindings::manatee::device::interrupts;
use crate::bindings::manatee::device::log::{self, Level};
use crate::bindings::manatee::device::types;
use crate::memory::Access;

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

impl HostState {
    fn may_access(&self, address: u64, length: usize, access: Access) -> bool {
        self.function.bus_master() && self.memory.check(address, length as u64, access).is_ok()
    }
}

impl interrupts::Host for HostState {
    fn raise(&mut self, vectors: Vec<u16>) -> wasmtime::Result<()> {
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
