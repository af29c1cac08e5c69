//! Records what a successor needs if this process dies, and continues after the death of another.

use std::ops::Range;

use minicbor::to_vec;

use super::hand_over::{DeviceState, Died};
use super::handle::Device;
use super::inner::DeviceInner;
use super::snapshot::SnapshotError;
use crate::continuity::format::pack_device;
use crate::continuity::live::LiveState;
use crate::runtime::{Failure, PortState};

impl Device {
    /// Records in a live state, from now on, what a successor needs if this process dies. When this
    /// returns, the current state is recorded.
    pub fn record(&self, live: &LiveState) {
        let mut inner = self.shared.own();
        inner.record(live);
        inner.leave();
    }
}

impl DeviceInner {
    fn record(&mut self, live: &LiveState) {
        if self.recoverer.checkpoint.is_none()
            && let Ok(state) = self.save()
        {
            self.recoverer.keep(state);
        }
        let state = self.state();
        state.attempt_cell = Some(live.attempt());
        for (number, port) in state.ports.iter_mut().enumerate() {
            port.record(number, live);
        }
        let regions: Vec<_> = state.memory.regions().map(|it| it.range.start).collect();
        for address in regions {
            if let Some((region, file)) = self.state_ref().memory.shared_at(address) {
                live.map(&region, file, false);
            }
        }
        self.executed = live.executed();
        self.live = Some(live.clone());
        self.preserve();
    }

    /// Forgets guest memory that is not mapped any more.
    pub(super) fn forget_regions(&self, gone: &[Range<u64>]) {
        if let Some(live) = &self.live {
            gone.iter().for_each(|range| live.unmap(range.clone()));
        }
    }

    /// Marks the VMM's request in progress as part of the state that is recorded next.
    #[inline]
    pub(super) fn note_executed(&mut self) {
        if let Some(live) = &self.live {
            self.executed = live.request();
        }
    }

    /// Records the device, if it is to be recorded: its last checkpoint, and the doorbells that rang
    /// since.
    pub(super) fn preserve(&mut self) {
        let Some(live) = self.live.clone() else {
            return;
        };
        let state = to_vec(pack_device(self.kept())).unwrap_or_default();
        let rung = self.recoverer.doorbells.writes();
        let table = live.commit(&state, self.executed, &rung);
        self.recoverer.doorbells.note_in(table);
    }

    /// Returns the device with its last checkpoint.
    fn kept(&mut self) -> DeviceState {
        let down = self
            .down
            .then(|| self.failure().map(|it| it.reason.to_string()));
        let component = self.recoverer.checkpoint.clone().unwrap_or_default();
        let paused = self.state_ref().function.is_paused();
        let mut state = self.state_for_successor(component, down.flatten(), paused);
        // Buffers are posted again from the guest's rings.
        for queue in state.ports.iter_mut().flat_map(|port| &mut port.queues) {
            queue.buffers.clear();
            queue.segments.clear();
        }
        state.unfinished = true;
        state
    }

    /// Continues a device whose process died, as after a failure of its component.
    pub(super) fn continue_after_death(
        &mut self,
        snapshot: &[u8],
        died: &Died,
    ) -> Result<(), SnapshotError> {
        let Some(component) = self.restore_host(snapshot)? else {
            // It was at power-on.
            return Ok(());
        };
        for last in &died.handed_over {
            self.state().set_handed_over(*last);
        }
        self.recoverer.checkpoint = Some(component);
        for write in &died.rung {
            let doorbells = &mut self.recoverer.doorbells;
            doorbells.note(write.bar, write.offset, 8, write.value);
        }
        self.fail(Failure::because("the process that ran it died"));
        self.state().set_attempt(died.attempt);
        self.recover();
        if let Ok(state) = self.save() {
            self.recoverer.keep(state);
        }
        // An interrupt may have been lost with the process; a spurious one is harmless.
        for vector in 0..self.state_ref().function.msix_vectors() {
            self.state().raise(vector);
        }
        self.state().ports.iter_mut().for_each(PortState::wake_all);
        Ok(())
    }
}
