//! The imports of the world, on behalf of one device.

use wasmtime::component::{Linker, WasmList};
use wasmtime::{StoreContextMut, bail};

use super::linear_memory::WindowError;
use super::state::{HostState, Phase};
use crate::bindings::manatee::device::guest_memory::{
    self, MemoryError, WindowError as WitWindowError,
};
use crate::bindings::manatee::device::log::{self, Level};
use crate::bindings::manatee::device::recovery;
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
    pub(super) fn loud(&self, what: &str) -> wasmtime::Result<()> {
        if self.phase == Phase::Quiet {
            bail!("it {what} while it saved or took over a state");
        }
        Ok(())
    }

    fn may_access(&self, address: u64, length: usize, access: Access) -> bool {
        self.function.bus_master() && self.memory.check(address, length as u64, access).is_ok()
    }
}

/// Defines the interface `interrupts`, whose list is read where it lies.
pub fn add_interrupts_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    let mut interface = linker.instance("manatee:device/interrupts@0.1.0")?;
    interface.func_wrap("raise", raise)
}

fn raise(
    mut store: StoreContextMut<'_, HostState>,
    (vectors,): (WasmList<u16>,),
) -> wasmtime::Result<()> {
    store.data().loud("raised interrupts")?;
    let (count, table) = (vectors.len(), store.data().function.msix_vectors());
    if count > usize::from(table) {
        bail!("raised {count} vectors at once; there are {table}");
    }
    for index in 0..count {
        let vector = u16::from_le(vectors.as_le_slice(&store)[index]);
        store.data_mut().raise(vector);
    }
    Ok(())
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
