//! The exports, by the functions that wasmtime's macro makes.

use wasmtime::{Result, Store};

use crate::bindings::exports::manatee::device::device::{
    ConfigureError, Description, Guest, Observations, PortConfig, RestoreError,
};
use crate::bindings::{Adapter, AdapterPre};
use crate::endpoint::{RxPacket, TxCompletion};
use crate::runtime::exports::Exports;
use crate::runtime::state::HostState;

/// An instance's functions.
struct ByModel(Adapter);

/// Makes an instance.
///
/// # Errors
///
/// wasmtime's.
pub fn instantiate(
    component: &AdapterPre<HostState>,
    store: &mut Store<HostState>,
) -> Result<Box<dyn Exports>> {
    Ok(Box::new(ByModel(component.instantiate(store)?)))
}

impl ByModel {
    fn device(&self) -> &Guest {
        self.0.manatee_device_device()
    }
}

impl Exports for ByModel {
    fn describe(&mut self, store: &mut Store<HostState>) -> Result<Description> {
        self.device().call_describe(store)
    }

    fn configure(
        &mut self,
        store: &mut Store<HostState>,
        ports: &[PortConfig],
    ) -> Result<Result<(), ConfigureError>> {
        self.device().call_configure(store, ports)
    }

    fn read_register(
        &mut self,
        store: &mut Store<HostState>,
        bar: u8,
        offset: u64,
        width: u8,
    ) -> Result<u64> {
        self.device().call_read_register(store, bar, offset, width)
    }

    fn write_register(
        &mut self,
        store: &mut Store<HostState>,
        bar: u8,
        offset: u64,
        width: u8,
        value: u64,
    ) -> Result<bool> {
        let device = self.device();
        device.call_write_register(store, bar, offset, width, value)
    }

    fn service(&mut self, store: &mut Store<HostState>) -> Result<bool> {
        self.device().call_service(store)
    }

    fn received(
        &mut self,
        store: &mut Store<HostState>,
        port: u32,
        packets: &[RxPacket],
    ) -> Result<bool> {
        self.device().call_received(store, port, 0, packets)
    }

    fn transmitted(
        &mut self,
        store: &mut Store<HostState>,
        port: u32,
        packets: &[TxCompletion],
    ) -> Result<bool> {
        self.device().call_transmitted(store, port, 0, packets)
    }

    fn link_changed(&mut self, store: &mut Store<HostState>, port: u32, up: bool) -> Result<()> {
        self.device().call_link_changed(store, port, up)
    }

    fn reset(&mut self, store: &mut Store<HostState>) -> Result<()> {
        self.device().call_reset(store)
    }

    fn save(&mut self, store: &mut Store<HostState>) -> Result<Vec<u8>> {
        self.device().call_save(store)
    }

    fn restore(
        &mut self,
        store: &mut Store<HostState>,
        state: &[u8],
    ) -> Result<Result<(), RestoreError>> {
        self.device().call_restore(store, state)
    }

    fn recover(
        &mut self,
        store: &mut Store<HostState>,
        state: &[u8],
        seen: &Observations,
    ) -> Result<Result<(), RestoreError>> {
        self.device().call_recover(store, state, seen)
    }

    fn request_reset(&mut self, store: &mut Store<HostState>) -> Result<()> {
        self.device().call_request_reset(store)
    }

    fn inspect(&mut self, store: &mut Store<HostState>) -> Result<Vec<u8>> {
        self.device().call_inspect(store)
    }
}
