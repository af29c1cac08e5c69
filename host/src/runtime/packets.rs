//! The imports that packets go through, on behalf of one device.

use wasmtime::component::Linker;
use wasmtime::{Result, StoreContextMut, bail};

use super::records::Records;
use super::state::HostState;
use crate::bindings::manatee::device::packet_endpoint::TransmitResult;
use crate::bindings::manatee::device::types::{RxBuffer, Segment, TxPacket, TxStatus};
use crate::endpoint::{Groups, TxBatch};

/// What the lists of a call are copied to; keeps its allocation between calls.
#[derive(Debug, Default)]
pub struct Scratch {
    packets: Vec<TxPacket>,
    buffers: Vec<RxBuffer>,
    segments: Vec<Segment>,
    statuses: Vec<TxStatus>,
}

/// Defines the interface `packet-endpoint`.
pub fn add_to_linker(linker: &mut Linker<HostState>) -> Result<()> {
    let mut interface = linker.instance("manatee:device/packet-endpoint@0.1.0")?;
    interface.func_wrap("transmit", transmit)?;
    interface.func_wrap("post-receive", post_receive)?;
    interface.func_wrap("cancel-receive", |mut store, (port, _queue): (u32, u32)| {
        store.data().loud("took buffers back")?;
        if let Some(port) = port_of(&mut store, port) {
            port.cancel_receive();
        }
        Ok(())
    })?;
    interface.func_wrap(
        "cancel-transmit",
        |mut store, (port, _queue): (u32, u32)| {
            store.data().loud("gave transmits up")?;
            if let Some(port) = port_of(&mut store, port) {
                port.cancel_transmit();
            }
            Ok(())
        },
    )
}

fn port_of<'a>(
    store: &'a mut StoreContextMut<'_, HostState>,
    port: u32,
) -> Option<&'a mut super::PortState> {
    store.data_mut().ports.get_mut(port as usize)
}

type TransmitParams = (u32, u32, Records<TxPacket, 4>, Records<Segment, 4>);

fn transmit(
    mut store: StoreContextMut<'_, HostState>,
    (port, queue, packets, segments): TransmitParams,
) -> Result<(TransmitResult,)> {
    let mut scratch = std::mem::take(&mut store.data_mut().scratch);
    scratch.packets.clear();
    packets.append_to(&store, &mut scratch.packets);
    scratch.segments.clear();
    segments.append_to(&store, &mut scratch.segments);
    let result = store.data_mut().transmit(port, queue, &mut scratch);
    store.data_mut().scratch = scratch;
    Ok((result?,))
}

type PostReceiveParams = (u32, u32, Records<RxBuffer, 2>, Records<Segment, 4>);

fn post_receive(
    mut store: StoreContextMut<'_, HostState>,
    (port, queue, buffers, segments): PostReceiveParams,
) -> Result<(u32,)> {
    let mut scratch = std::mem::take(&mut store.data_mut().scratch);
    scratch.buffers.clear();
    buffers.append_to(&store, &mut scratch.buffers);
    scratch.segments.clear();
    segments.append_to(&store, &mut scratch.segments);
    let taken = store.data_mut().post_receive(port, queue, &scratch);
    store.data_mut().scratch = scratch;
    Ok((taken?,))
}

impl HostState {
    fn transmit(&mut self, port: u32, queue: u32, scratch: &mut Scratch) -> Result<TransmitResult> {
        self.loud("transmitted")?;
        let bus_master = self.function.bus_master();
        let batch = TxBatch::new(&scratch.packets, &scratch.segments)?;
        let Some(state) = self.ports.get_mut(port as usize).filter(|_| queue == 0) else {
            bail!("transmitted on port {port}, queue {queue}, which does not exist");
        };
        if let Some(last) = scratch.packets.last() {
            state.handed_over = Some(last.id);
        }
        let statuses = &mut scratch.statuses;
        statuses.clear();
        if bus_master {
            let (endpoint, mut io) = state.split(&self.memory);
            endpoint.transmit(&mut io, batch, statuses);
        } else {
            statuses.resize(batch.len(), TxStatus::MemoryFault);
        }
        let groups = Groups::of(batch, statuses, &self.memory);
        let all_sent = statuses.iter().all(|status| *status == TxStatus::Sent);
        Ok(TransmitResult {
            statuses: if all_sent {
                Vec::new()
            } else {
                statuses.clone()
            },
            multicast_packets: groups.multicast.0,
            multicast_bytes: groups.multicast.1,
            broadcast_packets: groups.broadcast.0,
            broadcast_bytes: groups.broadcast.1,
        })
    }

    fn post_receive(&mut self, port: u32, queue: u32, scratch: &Scratch) -> Result<u32> {
        self.loud("posted buffers")?;
        let Some(state) = self.ports.get_mut(port as usize).filter(|_| queue == 0) else {
            bail!("posted to port {port}, queue {queue}, which does not exist");
        };
        state.poll |= state.rx().is_empty();
        match state.rx().post(&scratch.buffers, &scratch.segments) {
            Some(taken) => Ok(taken),
            None => bail!("posted buffers that do not add up to their segments"),
        }
    }
}
