//! An instance of a component, with the host's side of its device.

use wasmtime::{Store, Trap};

use super::bounds;
use super::code::PreparedComponent;
use super::deadline::{Caller, Ticker};
use super::direct::GuestAbi;
use super::engine::Runtime;
use super::exports::Exports;
use super::failure::Failure;
use super::linear_memory::captured;
use super::reaper;
use super::state::{HostState, Phase};
use crate::contract::{
    ConfigureError, Description, DeviceEvent, Features, Link, Observations, PortConfig, RxPacket,
    StateRefusal, TxCompletion,
};

/// An instance. Once a call has failed, every later one fails.
pub struct Instance {
    store: Store<HostState>,
    exports: Box<dyn Exports>,
    runtime: &'static Runtime,
    /// The time slice of a stay under the device's lock, in ticks.
    deadline: u64,
    /// The tick at which the current stay is to end.
    until: u64,
    caller: Caller,
    failure: Option<Failure>,
}

impl Instance {
    /// Creates a fresh instance over a device's state.
    ///
    /// # Errors
    ///
    /// [`Failure`], and the state back, if it can't be instantiated within
    /// its limits.
    pub fn new(
        code: &PreparedComponent,
        state: HostState,
    ) -> Result<Self, (Failure, Box<HostState>)> {
        let runtime = match Runtime::get() {
            Ok(runtime) => runtime,
            Err(error) => return Err((error.into(), Box::new(state))),
        };
        let deadline = Ticker::ticks(state.limits.deadline);
        let caller = runtime.ticker.caller();
        let mut store = Store::new(&runtime.engine, state);
        store.limiter(|state| &mut state.store_limits);
        store.set_epoch_deadline(deadline);
        let running = runtime.ticker.enter(&caller);
        let (exports, memories) = captured(|| code.instantiate(&mut store));
        drop(running);
        match exports {
            Ok(exports) => {
                let only = <[_; 1]>::try_from(memories).ok();
                store.data_mut().linear_memory = only.map(|[memory]| memory);
                locate_memory(&mut store);
                Ok(Self {
                    store,
                    exports,
                    runtime,
                    deadline,
                    until: runtime.ticker.now() + deadline,
                    caller,
                    failure: None,
                })
            }
            Err(error) => {
                let failure = Failure::new(&error);
                Err((failure, Box::new(store.into_data())))
            }
        }
    }

    /// Returns the host's side.
    pub fn state(&mut self) -> &mut HostState {
        self.store.data_mut()
    }

    /// Returns the host's side, to look at.
    pub fn state_ref(&self) -> &HostState {
        self.store.data()
    }

    /// Ends the instance, and returns the host's side without waiting for the instance's memory to
    /// be freed.
    pub fn into_state(mut self) -> HostState {
        let limits = self.state_ref().limits;
        let Ok(mut state) = HostState::vacant(limits) else {
            return self.store.into_data();
        };
        self.state().trade_places(&mut state);
        reaper::run_later(move || self.clear_away());
        state
    }

    /// Frees its memory in small steps.
    fn clear_away(self) {
        if let Some(memory) = &self.state_ref().linear_memory {
            memory.discard();
        }
    }

    /// Returns why the instance ended, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Ends it for a reason of the host's own.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Begins a stay under the device's lock: all calls until the next one share
    /// one deadline.
    #[inline]
    pub fn begin_stay(&mut self) {
        self.until = self.runtime.ticker.now() + self.deadline;
    }

    /// Returns whether the current stay is to end.
    #[inline]
    pub fn has_overstayed(&self) -> bool {
        self.runtime.ticker.now() >= self.until
    }

    /// Returns whether half of the time of the current stay is over: too little is left to begin
    /// something long.
    pub fn is_late(&self) -> bool {
        self.runtime.ticker.now() + self.deadline / 2 > self.until
    }

    /// Continues the current stay of another instance, which this one replaces.
    pub fn join_stay(&mut self, until: u64) {
        self.until = until;
    }

    /// Returns the tick at which the current stay is to end.
    pub fn stays_until(&self) -> u64 {
        self.until
    }

    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut dyn Exports, &mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let left = self.until.saturating_sub(self.runtime.ticker.now());
        self.store.set_epoch_deadline(left.max(1));
        let state = self.store.data_mut();
        state.in_doorbell = false;
        if state.attempt.is_some() {
            state.set_attempt(None);
        }
        state.gauges.calls.add(1);
        let _running = self.runtime.ticker.enter(&self.caller);
        call(&mut *self.exports, &mut self.store).map_err(|error| {
            if error.downcast_ref() == Some(&Trap::Interrupt) {
                self.store.data().gauges.deadlines_missed.add(1);
            }
            let failure = Failure::new(&error);
            self.failure = Some(failure.clone());
            failure
        })
    }

    /// Returns the device's description.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the component fails, here and below.
    pub fn describe(&mut self) -> Result<Description, Failure> {
        self.call(|device, store| device.describe(store))
    }

    /// Configures the device with its ports, and negotiates features with it.
    ///
    /// # Errors
    ///
    /// [`Failure`], or the device's own refusal.
    pub fn configure(
        &mut self,
        ports: &[PortConfig],
    ) -> Result<Result<Features, ConfigureError>, Failure> {
        let limits = self.state().limits;
        let (offered, told) = (bounds::offered(&limits), bounds::told(&limits));
        let agreed = self.call(|device, store| device.configure(store, offered, &told, ports))?;
        if let Ok(used) = agreed
            && !offered.contains(used)
        {
            let foreign = used - offered;
            let failure = Failure::because(&format!("it uses features not offered: {foreign:?}"));
            self.fail(failure.clone());
            return Err(failure);
        }
        if let Ok(used) = agreed {
            self.state().agree(used);
        }
        Ok(agreed)
    }

    /// Returns the whole state.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn save(&mut self) -> Result<Vec<u8>, Failure> {
        let before = std::mem::replace(&mut self.state().phase, Phase::Quiet);
        let saved = self.call(|device, store| device.save(store));
        self.state().phase = before;
        saved
    }

    /// Continues from a state, right after `configure`. Until
    /// [`take_over`](Self::take_over) the instance must have no visible effects.
    ///
    /// # Errors
    ///
    /// [`Failure`], or the device's own refusal.
    pub fn restore(&mut self, state: &[u8]) -> Result<Result<(), StateRefusal>, Failure> {
        self.be_quiet()?;
        self.call(|device, store| device.restore(store, state))
    }

    /// Continues from an older state and the host's observations since; otherwise like
    /// [`restore`](Self::restore).
    ///
    /// # Errors
    ///
    /// [`Failure`], or the device's own refusal.
    pub fn recover(
        &mut self,
        state: &[u8],
        seen: &Observations,
    ) -> Result<Result<(), StateRefusal>, Failure> {
        self.be_quiet()?;
        self.call(|device, store| device.recover(store, state, seen))
    }

    fn be_quiet(&mut self) -> Result<(), Failure> {
        self.state().phase = Phase::Quiet;
        self.show_windows()
    }

    /// Makes an instance that has restored a state the one that owns the device: from now on its
    /// windows show the guest's memory.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn take_over(&mut self) -> Result<(), Failure> {
        self.state().phase = Phase::Running;
        self.show_windows()
    }

    /// Maps the windows to what they are to show.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the kernel refuses.
    pub fn show_windows(&mut self) -> Result<(), Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.state_ref().show_windows().map_err(|error| {
            let failure = Failure::because(&format!("laying its windows: {error}"));
            self.fail(failure.clone());
            failure
        })
    }

    /// Reports to the device the windows that lost their memory, or have it again.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn windows_changed(&mut self, offsets: &[u32], present: bool) -> Result<(), Failure> {
        self.call(|device, store| device.windows_changed(store, offsets, present))
    }

    /// Has the device notify the guest's driver.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn announce(&mut self, event: DeviceEvent) -> Result<(), Failure> {
        self.call(|device, store| device.announce(store, event))
    }

    /// Reads a register of 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn read_register(&mut self, bar: u8, offset: u64, width: u8) -> Result<u64, Failure> {
        self.call(|device, store| device.read_register(store, bar, offset, width))
    }

    /// Writes a register of 1, 2, 4 or 8 bytes. Returns whether work is left.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn write_register(
        &mut self,
        bar: u8,
        offset: u64,
        width: u8,
        value: u64,
    ) -> Result<bool, Failure> {
        self.call(|device, store| {
            store.data_mut().in_doorbell = true;
            device.write_register(store, bar, offset, width, value)
        })
    }

    /// Continues work that was left. Returns whether there is still more.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn service(&mut self) -> Result<bool, Failure> {
        self.call(|device, store| device.service(store))
    }

    /// Reports received packets to the device. Returns whether work is left.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn received(
        &mut self,
        port: u32,
        queue: u16,
        packets: &[RxPacket],
    ) -> Result<bool, Failure> {
        self.call(|device, store| device.received(store, (port, queue.into()), packets))
    }

    /// Reports completed transmits to the device. Returns whether work is left.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn transmitted(
        &mut self,
        port: u32,
        queue: u16,
        packets: &[TxCompletion],
    ) -> Result<bool, Failure> {
        self.call(|device, store| device.transmitted(store, (port, queue.into()), packets))
    }

    /// Reports to the device that a port's link changed.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn link_changed(&mut self, port: u32, link: Link) -> Result<(), Failure> {
        self.call(|device, store| device.link_changed(store, port, link))
    }

    /// Returns to the state after `configure`.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn reset(&mut self) -> Result<(), Failure> {
        self.call(|device, store| device.reset(store))
    }

    /// Returns the device's state as JSON.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn inspect(&mut self) -> Result<Vec<u8>, Failure> {
        self.call(|device, store| device.inspect(store))
    }
}

/// Sets the reservation of a direct instance's memory.
fn locate_memory(store: &mut Store<HostState>) {
    let Some(memory) = store.data().inside.as_ref().map(GuestAbi::memory) else {
        return;
    };
    let base = memory.data_ptr(&mut *store);
    let state = store.data_mut();
    if let (Some(inside), Some(within)) = (&mut state.inside, &state.linear_memory) {
        inside.lies_in(within, base);
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}
