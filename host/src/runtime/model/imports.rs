//! The imports, as wasmtime's component model hands over their parameters.

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Engine, Result};

use crate::bindings::Adapter;
use crate::bindings::manatee::device::guest_memory::{self, MemoryError, WindowError};
use crate::bindings::manatee::device::log::{self, Level};
use crate::bindings::manatee::device::packet_endpoint::{self, TransmitResult};
use crate::bindings::manatee::device::types::{self, RxBuffer, Segment, TxPacket};
use crate::bindings::manatee::device::{interrupts, recovery};
use crate::runtime::imports::Scratch;
use crate::runtime::state::HostState;

/// The imports of the world, and nothing else.
///
/// # Errors
///
/// wasmtime's, of which there is no cause.
pub fn linker(engine: &Engine) -> Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    Adapter::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    Ok(linker)
}

impl types::Host for HostState {}

impl guest_memory::Host for HostState {
    fn read(&mut self, address: u64, length: u32) -> Result<Result<Vec<u8>, MemoryError>> {
        if let Err(error) = self.check_read(address, length) {
            return Ok(Err(error));
        }
        let mut data = vec![0; length as usize];
        let read = self.memory.read(address, &mut data);
        Ok(read.map(|()| data).map_err(|_| MemoryError::Unmapped))
    }

    fn write(&mut self, address: u64, data: Vec<u8>) -> Result<Result<(), MemoryError>> {
        self.write_guest(address, &data)
    }

    fn map_window(&mut self, offset: u32, pages: Vec<u64>) -> Result<Result<(), WindowError>> {
        Ok(self.lay_window(offset, &pages))
    }

    fn unmap_window(&mut self, offset: u32) -> Result<()> {
        self.take_window_away(offset);
        Ok(())
    }
}

impl interrupts::Host for HostState {
    fn raise(&mut self, vectors: Vec<u16>) -> Result<()> {
        self.raise_all(vectors.into_iter())
    }
}

impl packet_endpoint::Host for HostState {
    fn transmit(
        &mut self,
        port: u32,
        queue: u32,
        packets: Vec<TxPacket>,
        segments: Vec<Segment>,
    ) -> Result<TransmitResult> {
        self.scratch = Scratch {
            packets,
            segments,
            ..Scratch::default()
        };
        let groups = self.transmit(port, queue)?;
        Ok(TransmitResult {
            statuses: std::mem::take(&mut self.scratch.statuses),
            multicast_packets: groups.multicast.0,
            multicast_bytes: groups.multicast.1,
            broadcast_packets: groups.broadcast.0,
            broadcast_bytes: groups.broadcast.1,
        })
    }

    fn post_receive(
        &mut self,
        port: u32,
        queue: u32,
        buffers: Vec<RxBuffer>,
        segments: Vec<Segment>,
    ) -> Result<u32> {
        self.scratch = Scratch {
            buffers,
            segments,
            ..Scratch::default()
        };
        self.post_receive(port, queue)
    }

    fn cancel_receive(&mut self, port: u32, _queue: u32) -> Result<()> {
        self.cancel_receive(port)
    }

    fn cancel_transmit(&mut self, port: u32, _queue: u32) -> Result<()> {
        self.cancel_transmit(port)
    }
}

impl recovery::Host for HostState {
    fn changed(&mut self) -> Result<()> {
        self.changed = true;
        Ok(())
    }

    fn attempt(&mut self, entry: u64) -> Result<()> {
        self.attempt = Some(entry);
        Ok(())
    }
}

impl log::Host for HostState {
    fn write(&mut self, level: Level, message: Vec<u8>) -> Result<()> {
        self.log_line(level, &message);
        Ok(())
    }
}
