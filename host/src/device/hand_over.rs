//! What a device's successor in another process continues with, beside descriptors.

use std::time::Duration;

use super::handed_memory::{map, opened};
use super::handle::Device;
use super::inner::DeviceInner;
use super::snapshot::{self, RestoreError};
use super::swap::{Candidate, SwapError};
use super::telemetry::Past;
use crate::component::{Component, Digest};
use crate::contract::{Link, LinkState, PortConfig, RegisterWrite};
use crate::endpoint::{Counters, RxBuffer};
use crate::memory::{MapError, Segment, SharedRegion};
use crate::runtime::{Failure, Limits, Port, PortState, QueueState};

/// How long whoever replaces the component may take until the device can be given away.
const PATIENCE: Duration = Duration::from_secs(10);
/// Stays under the device's lock in which a component that failed may be replaced.
const STAYS: usize = 16;

/// A device as its successor continues with it.
#[derive(Debug)]
pub struct DeviceState {
    /// The component that ran.
    pub component: Digest,
    /// What [`Device::save`] returns; without the component's own state if the device is down.
    pub snapshot: Vec<u8>,
    /// Why it is down, if it is.
    pub down: Option<String>,
    /// Its VMM had paused it.
    pub paused: bool,
    /// The component said that work is left.
    pub work_left: bool,
    /// Endpoints had packets of the guest's that they have not finished. What becomes of them
    /// nobody tells the successor's component.
    pub unfinished: bool,
    /// Doorbells that rang while the guest had bus mastering off.
    pub held: Vec<RegisterWrite>,
    /// Vectors that were raised and that the guest holds back.
    pub pending: Vec<u16>,
    /// Its ports.
    pub ports: Vec<PortPast>,
    /// What happened to it.
    pub past: Past,
    /// The guest's memory, as far as files hold it, or it is out of reach.
    pub memory: Vec<SharedRegion>,
}

/// What a port's successor continues with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPast {
    /// Whether the guest has a link.
    pub link_up: bool,
    /// Its queues.
    pub queues: Vec<QueuePast>,
}

/// What a queue's successor continues with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuePast {
    /// What it did.
    pub counters: Counters,
    /// The buffers that are posted to it.
    pub buffers: Vec<RxBuffer>,
    /// What they are made of.
    pub segments: Vec<Segment>,
}

/// Why a device can't be given away at the moment. It continues as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GiveAwayError {
    /// A VMM changes its memory map.
    #[error("guest memory is being mapped again; try again in a moment")]
    MemoryAbsent,
    /// Somebody replaces the component.
    #[error("the component is being replaced, which takes longer than {} s", PATIENCE.as_secs())]
    Busy,
    /// The component does not say its state.
    #[error(transparent)]
    Save(#[from] SwapError),
    /// The process has no more descriptors.
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
    /// It can't be noted that the device was taken over.
    #[error("the state can't be marked as taken: {0}")]
    Mark(#[from] std::io::Error),
    /// The state is no good here.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The component can't continue from the state.
    #[error(transparent)]
    Rehearsal(#[from] SwapError),
    /// It is for a rehearsal only.
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
    /// Returns whether it can be [given away](crate::continuity::give_away) at the moment: no
    /// guest memory is awaited.
    pub fn may_be_given_away(&self) -> bool {
        !self.shared.own().state_ref().absence.waiting
    }

    /// Notes that it was taken over from another process, and how long it stood still.
    pub(crate) fn note_hand_over(&self, pause: Duration) {
        self.shared.telemetry.handed_over(pause);
    }

    /// Pauses the device for ever, unless [`resume`](Self::resume) is called, and returns what a
    /// successor continues with.
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

    /// Returns what a successor can rehearse with. The device continues.
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
            return Err(RestoreError::InUse.into());
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

/// Returns what an instance is told of a port that is not in use yet.
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
    /// Has packets leave that wait for their port's rate, and tells the device what endpoints
    /// have finished.
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
        let snapshot = self.snapshot_of(component);
        let state = self.state_ref();
        let vectors = 0..state.function.msix_vectors();
        let ports = state.ports.iter().map(|port| PortPast {
            link_up: port.link().state == LinkState::Up,
            queues: port.queues().iter().map(queue_past).collect(),
        });
        let mut queues = state.ports.iter().flat_map(PortState::queues);
        let unfinished = queues.any(|queue| queue.pending() > 0);
        Ok(DeviceState {
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
            memory: state.memory.shared(),
        })
    }

    fn take_over_state(&mut self, state: DeviceState) -> Result<(), RestoreError> {
        for (index, port) in (0..).zip(&state.ports) {
            if !port.link_up {
                self.link_changed(index, false);
            }
        }
        match state.down {
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
        self.recoverer.failures = state.past.failures;
        self.telemetry.continue_from(state.past);
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

    /// Forgets guest memory that was mapped for nothing.
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
