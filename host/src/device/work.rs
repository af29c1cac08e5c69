//! Moving packets and completions between a component and its ports' endpoints.

use std::time::Instant;

use super::inner::{DeviceInner, InstanceState};
use crate::endpoint::Completions;
use crate::runtime::{Failure, HostState, Instance, PortState};

/// Rounds of work before another thread gets a turn.
const ROUNDS: usize = 8;

impl DeviceInner {
    /// Returns whether [`settle`](Self::settle) would find something to do.
    pub fn has_work(&self) -> bool {
        let state = self.state_ref();
        if self.failure().is_some() {
            return self.recovering;
        }
        !state.is_waiting()
            && (self.work_left || self.ring_late || state.ports.iter().any(PortState::has_work))
    }

    /// Moves packets and completions until there is nothing left to do, or another thread should get
    /// a turn. Returns true if work is left.
    #[must_use]
    #[inline]
    pub fn settle(&mut self) -> bool {
        if let Some(state) = self.state_between_calls()
            && state.delayed.is_due(Instant::now)
        {
            state.raise_due(Some(Instant::now()));
        }
        let more = self.run();
        self.publish();
        more | self.take_interrupt_alarm()
    }

    #[inline]
    fn run(&mut self) -> bool {
        if self.ring_late && self.state_ref().function.bus_master() {
            self.ring_held();
        }
        for _ in 0..ROUNDS {
            let busy = self.settle_once();
            self.note_failure();
            if !busy && !self.work_left {
                return self.recovering | self.take_alarm();
            }
            if self.state_ref().is_waiting() {
                return false;
            }
            if self.is_over() {
                break;
            }
        }
        self.recovering || self.instance().is_some()
    }

    /// Returns when packets that are delayed by their port's rate may be sent, if there are any.
    pub fn due(&self) -> Option<Instant> {
        let state = self.state_ref();
        let continues = self.failure().is_none() && !state.is_waiting();
        continues.then(|| state.due()).flatten()
    }

    /// Returns whether the device's own thread has to hear when packets are due.
    fn take_alarm(&mut self) -> bool {
        let ports = self.state().ports.iter_mut();
        ports.fold(false, |any, port| any | port.take_alarm())
    }

    /// Returns whether the device's own thread has to hear when an interrupt is due.
    pub(super) fn take_interrupt_alarm(&mut self) -> bool {
        let state = self.state_between_calls();
        state.is_some_and(|state| state.delayed.take_alarm())
    }

    /// Returns the host's side. None if the host's own code panicked while it restarted the device.
    fn state_between_calls(&mut self) -> Option<&mut HostState> {
        match self.life {
            InstanceState::Between => None,
            _ => Some(self.state()),
        }
    }

    /// Reports to the device everything that endpoints have completed.
    pub(super) fn deliver_all(&mut self) {
        for index in 0..self.state_ref().ports.len() {
            for queue in self.state_ref().ports[index].finished() {
                if let Some(instance) = self.instance()
                    && let Ok(Some(more)) = deliver(instance, index, queue)
                {
                    self.work_left |= more;
                }
                self.note_failure();
            }
        }
    }

    /// Returns whether another thread should get a turn, because the component had its time.
    fn is_over(&self) -> bool {
        match &self.life {
            InstanceState::Running(instance) => instance.has_overstayed(),
            _ => false,
        }
    }

    #[inline]
    fn settle_once(&mut self) -> bool {
        let mut busy = false;
        let InstanceState::Running(instance) = &mut self.life else {
            return false;
        };
        if instance.failure().is_some() || instance.state_ref().is_waiting() {
            return false;
        }
        for index in 0..instance.state().ports.len() {
            let HostState { ports, memory, .. } = instance.state();
            let port = &mut ports[index];
            port.release(memory);
            if !port.has_work() {
                continue;
            }
            for queue in port.take_turned() {
                match deliver(instance, index, queue) {
                    Ok(more) => self.work_left |= more.unwrap_or(false),
                    Err(Failure { .. }) => return false,
                }
            }
            for queue in instance.state_ref().ports[index].work() {
                busy |= receive(instance.state(), index, queue);
                match deliver(instance, index, queue) {
                    Ok(Some(more)) => {
                        busy = true;
                        self.work_left |= more;
                    }
                    Ok(None) => {}
                    Err(Failure { .. }) => return false,
                }
            }
        }
        if std::mem::take(&mut self.work_left) {
            busy = true;
            self.work_left = instance.service().unwrap_or(false);
        }
        busy
    }
}

/// Lets a queue write waiting packets to posted buffers. Returns true if there may be more.
#[inline]
fn receive(state: &mut HostState, port: usize, queue: u16) -> bool {
    let HostState { ports, memory, .. } = state;
    ports[port].receive(queue, memory)
}

/// Reports to the device what a queue completed. Returns None if that is nothing.
fn deliver(instance: &mut Instance, port: usize, queue: u16) -> Result<Option<bool>, Failure> {
    let mut done = instance.state().ports[port].take_done(queue);
    let told = tell(instance, port as u32, queue, &done);
    if told.is_ok() {
        // The emptied lists keep their allocation.
        done.transmitted.clear();
        done.received.clear();
    }
    // If the component failed, these completions are counted as lost there.
    instance.state().ports[port].give_back_done(queue, done);
    told
}

fn tell(
    instance: &mut Instance,
    port: u32,
    queue: u16,
    done: &Completions,
) -> Result<Option<bool>, Failure> {
    let mut told = None;
    if !done.transmitted.is_empty() {
        told = Some(instance.transmitted(port, queue, &done.transmitted)?);
    }
    if !done.received.is_empty() {
        let more = instance.received(port, queue, &done.received)?;
        instance.state_ref().hurry();
        told = Some(more | told.unwrap_or(false));
    }
    Ok(told)
}
