//! The exports of a device, independent of how they are called.

use wasmtime::{Result, Store};

use super::state::HostState;
use crate::contract::{
    Bounds, ConfigureError, Description, DeviceEvent, Features, Link, Observations, PortConfig,
    RxPacket, StateRefusal, TxCompletion,
};

/// An instance's functions, as the WIT interface `device` describes them. Every
/// call ends with wasmtime's error if the instance traps or breaks a rule.
pub trait Exports: Send + Sync {
    fn describe(&mut self, store: &mut Store<HostState>) -> Result<Description>;

    fn configure(
        &mut self,
        store: &mut Store<HostState>,
        offered: Features,
        bounds: &Bounds,
        ports: &[PortConfig],
    ) -> Result<Result<Features, ConfigureError>>;

    fn read_register(
        &mut self,
        store: &mut Store<HostState>,
        bar: u8,
        offset: u64,
        width: u8,
    ) -> Result<u64>;

    fn write_register(
        &mut self,
        store: &mut Store<HostState>,
        bar: u8,
        offset: u64,
        width: u8,
        value: u64,
    ) -> Result<bool>;

    fn service(&mut self, store: &mut Store<HostState>) -> Result<bool>;

    /// Calls the export of this name for a queue, by the numbers of its port and its own.
    fn received(
        &mut self,
        store: &mut Store<HostState>,
        queue: (u32, u32),
        packets: &[RxPacket],
    ) -> Result<bool>;

    /// Calls the export of this name for a queue, by the numbers of its port and its own.
    fn transmitted(
        &mut self,
        store: &mut Store<HostState>,
        queue: (u32, u32),
        packets: &[TxCompletion],
    ) -> Result<bool>;

    fn link_changed(&mut self, store: &mut Store<HostState>, port: u32, link: Link) -> Result<()>;

    fn windows_changed(
        &mut self,
        store: &mut Store<HostState>,
        offsets: &[u32],
        present: bool,
    ) -> Result<()>;

    fn reset(&mut self, store: &mut Store<HostState>) -> Result<()>;

    fn save(&mut self, store: &mut Store<HostState>) -> Result<Vec<u8>>;

    fn restore(
        &mut self,
        store: &mut Store<HostState>,
        state: &[u8],
    ) -> Result<Result<(), StateRefusal>>;

    fn recover(
        &mut self,
        store: &mut Store<HostState>,
        state: &[u8],
        seen: &Observations,
    ) -> Result<Result<(), StateRefusal>>;

    fn announce(&mut self, store: &mut Store<HostState>, event: DeviceEvent) -> Result<()>;

    fn inspect(&mut self, store: &mut Store<HostState>) -> Result<Vec<u8>>;
}
