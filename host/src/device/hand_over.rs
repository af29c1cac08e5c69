//! The state that a device's successor in another process continues with, apart from descriptors.

use std::time::Duration;

use super::handed_memory::{map, opened};
use super::handle::Device;
use super::inner::DeviceInner;
use super::snapshot::{self, SnapshotError};
use super::swap::{Candidate, SwapError};
use super::telemetry::Past;
use crate::component::{Component, Digest};
use crate::contract::{HandedOver, Link, LinkState, PortConfig, RegisterWrite};
use crate::endpoint::{Counters, RxBuffer};
use crate::memory::{MapError, Segment, SharedRegion};
use crate::runtime::{Failure, Limits, Port, PortState, QueueState};

/// How long to wait for another thread to finish a swap before the device is given away.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the lock is taken for a failed component to be replaced first.
const STAYS: usize = 16;

/// A device's state for its successor.
#[derive(Debug)]
pub struct DeviceState {
    /// The component that ran.
    pub component: Digest,
    /// What [`Device::save`] returns; without the component's own state if the device is down.
    pub snapshot: Vec<u8>,
    /// Why it is down, if it is.
    pub down: Option<String>,
    /// Whether its VMM had paused it.
    pub paused: bool,
    /// Whether the component reported remaining work.
    pub work_left: bool,
    /// Whether endpoints had packets from the guest that are not completed. The successor's
    /// component never learns their outcome.
    pub unfinished: bool,
    /// Doorbells that rang while the guest had bus mastering off.
    pub held: Vec<RegisterWrite>,
    /// Vectors that are pending because the guest masks them.
    pub pending: Vec<u16>,
    /// Its ports.
    pub ports: Vec<PortPast>,
    /// Its history.
    pub past: Past,
    /// The guest's memory that is in files, or out of reach.
    pub memory: Vec<SharedRegion>,
    /// What its process noted after all of that, if it died.
    pub died: Option<Died>,
}

/// What a process noted that died, after the last change of its device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Died {
    /// Doorbells that rang since, with their last values.
    pub rung: Vec<RegisterWrite>,
    /// The last packets that queues were handed.
    pub handed_over: Vec<HandedOver>,
    /// The WQE that the component worked on.
    pub attempt: Option<u64>,
}

/// A port's state for its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPast {
    /// Whether the guest has a link.
    pub link_up: bool,
    /// Its queues.
    pub queues: Vec<QueuePast>,
}

/// A queue's state for its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuePast {
    /// Its counters.
    pub counters: Counters,
    /// The buffers that are posted to it.
    pub buffers: Vec<RxBuffer>,
    /// Their segments.
    pub segments: Vec<Segment>,
}

/// Why a device can't be given away at the moment. It continues unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GiveAwayError {
    /// A VMM is changing its memory map.
    #[error("guest memory is being mapped again; try again in a moment")]
    MemoryAbsent,
    /// Another thread is replacing the component.
    #[error("the component is being replaced, which takes longer than {} s", PATIENCE.as_secs())]
    Busy,
    /// The component's state can't be saved.
    #[error(transparent)]
    Save(#[from] SwapError),
    /// The process is out of descriptors.
    #[error("descriptors can't be copied: {0}")]
    Descriptors(#[from] std::io::Error),
}

/// Why a device could not take over. It is at power-on, and the one that was given away can
/// continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeOverError {
    /// Memory can't be mapped.
    #[error("the guest's memory: {0}")]
    Memory(#[from] MapError),
    /// The state can't be marked as taken.
    #[error("the state can't be marked as taken: {0}")]
    Mark(#[from] std::io::Error),
    /// The state can't be restored here.
    #[error(transparent)]
    Restore(#[from] SnapshotError),
    /// The component can't continue from the state.
    #[error(transparent)]
    Rehearsal(#[from] SwapError),
    /// The state is for a rehearsal only.
    #[error("the device continues where it is: this is a copy of its state to rehearse with")]
    Offered,
    /// The device has other ports.
    #[error(
        "the state is of a device with {saved} ports, and this one has {own}: give the same \
         --port options, in the same order"
    )]
    Ports {
        /// Ports in the state.
        saved: usize,
        /// Ports here.
        own: usize,
    },
}

impl Device {
    /// Returns whether it can be [given away](crate::continuity::give_away) at the moment: it is
    /// not waiting for guest memory.
    pub fn may_be_given_away(&self) -> bool {
        !self.shared.own().state_ref().absence.waiting
    }

    /// Records that it was taken over from another process, and for how long it was paused.
    pub(crate) fn note_hand_over(&self, pause: Duration) {
        self.shared.telemetry.handed_over(pause);
    }

    /// Pauses the device until [`resume`](Self::resume) is called, and returns the state for a
    /// successor.
    pub(crate) fn give_away(&self) -> Result<DeviceState, GiveAwayError> {
        let shared = &self.shared;
        let swapping = shared.swapping.try_lock_for(PATIENCE);
        let _swapping = swapping.ok_or(GiveAwayError::Busy)?;
        let _rehearsing = shared.rehearsing.lock();
        for _ in 0..STAYS {
            // A stay begins with a fresh instance, if the last one failed.
            if !shared.own().recovering {
                break;
            }
        }
        let mut inner = shared.own();
        if inner.state_ref().absence.waiting {
            return Err(GiveAwayError::MemoryAbsent);
        }
        let paused = inner.state_ref().function.is_paused();
        inner.flush();
        inner.set_paused(true);
        let given = inner.give_away(paused);
        if given.is_err() && !paused {
            inner.set_paused(false);
            inner.settle();
        } else {
            inner.leave();
        }
        given
    }

    /// Returns the state for a successor's rehearsal. The device continues.
    pub(crate) fn offer(&self) -> Result<DeviceState, GiveAwayError> {
        let mut inner = self.shared.own();
        if inner.state_ref().absence.waiting {
            return Err(GiveAwayError::MemoryAbsent);
        }
        let paused = inner.state_ref().function.is_paused();
        let offered = inner.give_away(paused);
        inner.leave();
        offered
    }

    /// Continues where another device was when it was given away.
    pub(crate) fn take_over(&self, state: DeviceState) -> Result<(), TakeOverError> {
        let memory = opened(&state.memory)?;
        let mut inner = self.shared.own();
        let own = inner.state_ref().ports.len();
        state.check_ports(own)?;
        if inner.recoverer.checkpoint.is_some() {
            return Err(SnapshotError::InUse.into());
        }
        if let Err(error) = map(memory, &mut inner.state().memory) {
            inner.forget_memory();
            return Err(error.into());
        }
        let taken = inner.take_over_state(state);
        if taken.is_err() {
            inner.forget_memory();
        }
        inner.settle();
        Ok(taken?)
    }
}

impl DeviceState {
    fn check_ports(&self, own: usize) -> Result<(), TakeOverError> {
        let saved = self.ports.len();
        match saved == own {
            true => Ok(()),
            false => Err(TakeOverError::Ports { saved, own }),
        }
    }

    /// Checks that a device of this component and these ports can continue, without touching the
    /// guest.
    pub(crate) fn rehearse(
        self,
        component: &Component,
        ports: &[Port],
        limits: Limits,
    ) -> Result<(), TakeOverError> {
        self.check_ports(ports.len())?;
        let memory = opened(&self.memory)?;
        let description = component.describe().map_err(SwapError::from)?;
        let configs: Vec<_> = ports.iter().zip(&self.ports).map(config).collect();
        let mut candidate = Candidate::new(component, &description, &configs, limits)?;
        let state = candidate.state();
        let function = component.function(&description);
        state.function = function.map_err(SwapError::from)?;
        map(memory, &mut state.memory)?;
        let saved = snapshot::restore_function(state, &self.snapshot)?;
        if self.down.is_none() {
            candidate.rehearse(&saved)?;
        }
        Ok(())
    }
}

/// Returns the description of a port that is not in use yet, for an instance.
fn config((port, past): (&Port, &PortPast)) -> PortConfig {
    let [a, b, c, d, e, f] = port.mac;
    PortConfig {
        mac: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
        link: Link {
            state: match past.link_up {
                true => LinkState::Up,
                false => LinkState::Down,
            },
            speed_mbps: port.link_speed_mbps,
            mtu: port.mtu,
        },
        // There are 64 at most.
        queues: past.queues.len() as u16,
    }
}

impl DeviceInner {
    /// Sends packets that were delayed by their port's rate, and reports completed packets to the
    /// device.
    fn flush(&mut self) {
        let state = self.state();
        for port in &mut state.ports {
            port.release_all(&state.memory);
        }
        self.deliver_all();
    }

    fn give_away(&mut self, paused: bool) -> Result<DeviceState, GiveAwayError> {
        let down = self.failure().map(|failure| failure.reason.to_string());
        let component = match down {
            None => self.save()?,
            Some(_) => Vec::new(),
        };
        // Nobody raises them in another process.
        self.state().raise_due(None);
        let mut given = self.state_for_successor(component, down, paused);
        given.memory = self.state_ref().memory.shared();
        Ok(given)
    }

    /// Returns the state for a successor, without memory, given the component's own state.
    pub(super) fn state_for_successor(
        &mut self,
        component: Vec<u8>,
        down: Option<String>,
        paused: bool,
    ) -> DeviceState {
        let snapshot = self.snapshot_of(component);
        let state = self.state_ref();
        let vectors = 0..state.function.msix_vectors();
        let ports = state.ports.iter().map(|port| PortPast {
            link_up: port.link().state == LinkState::Up,
            queues: port.queues().iter().map(queue_past).collect(),
        });
        let mut queues = state.ports.iter().flat_map(PortState::queues);
        let unfinished = queues.any(|queue| queue.pending() > 0);
        DeviceState {
            component: self.component.digest(),
            snapshot,
            down,
            paused,
            work_left: self.work_left,
            unfinished,
            held: self.held_doorbells(),
            pending: vectors
                .filter(|vector| state.function.is_pending(*vector))
                .collect(),
            ports: ports.collect(),
            past: Past {
                failures: self.recoverer.failures,
                restarts: self.restarts,
                ..self.telemetry.past()
            },
            memory: Vec::new(),
            died: None,
        }
    }

    fn take_over_state(&mut self, state: DeviceState) -> Result<(), SnapshotError> {
        for (index, port) in (0..).zip(&state.ports) {
            if !port.link_up {
                self.link_changed(index, false);
            }
        }
        let has_died = state.died.is_some();
        match state.down {
            None if let Some(died) = &state.died => {
                self.continue_after_death(&state.snapshot, died)?;
            }
            None if state.unfinished => self.restore(&state.snapshot)?,
            None => {
                self.restore_exactly(&state.snapshot)?;
                self.post_again(&state.ports);
                self.work_left = state.work_left;
            }
            Some(reason) => {
                let text = format!("it was down when it was handed over: {reason}");
                self.restore_down(&state.snapshot, Failure::because(&text))?;
            }
        }
        for (port, past) in self.state().ports.iter_mut().zip(state.ports) {
            let counters = past.queues.into_iter().map(|queue| queue.counters);
            port.continue_counting(counters);
        }
        for vector in state.pending {
            self.state().raise(vector);
        }
        self.hold_again(&state.held);
        self.restarts = state.past.restarts;
        let mut past = state.past;
        if has_died {
            past.failures += 1;
            past.recoveries += 1;
        }
        self.recoverer.failures = past.failures;
        self.telemetry.continue_from(past);
        if state.paused {
            self.set_paused(true);
        }
        self.state().stale = true;
        Ok(())
    }

    /// Posts buffers again that were posted when the device was given away.
    fn post_again(&mut self, ports: &[PortPast]) {
        for (port, past) in self.state().ports.iter_mut().zip(ports) {
            let count = port.count();
            for (queue, past) in (0..count).zip(&past.queues) {
                // It was checked that they add up and are not too many.
                let _ = port.post(queue, &past.buffers, &past.segments);
            }
            port.wake_all();
        }
    }

    /// Unmaps guest memory after a failure.
    fn forget_memory(&mut self) {
        let gone = self.state().memory.clear();
        let _ = self.memory_went(&gone);
        self.state().absence.waiting = false;
    }
}

fn queue_past(queue: &QueueState) -> QueuePast {
    let (buffers, segments) = queue.rx.posted();
    QueuePast {
        counters: queue.counters(),
        buffers,
        segments,
    }
}
