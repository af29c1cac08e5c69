//! Carries out the imports of the world for one device.

use std::ops::Range;

use wasmtime::{Result, bail};

use super::bounds;
use super::linear_memory::{WindowAccess, WindowError};
use super::port::PortState;
use super::scratch::Scratch;
use super::state::{HostState, Phase};
use crate::contract::{
    Features, Level, LinkStatistics, MemoryError, Steering, TxStatus, WindowRefusal,
};
use crate::endpoint::{Groups, TxBatch};
use crate::memory::Access;
use manatee_common::ration::{MAX_LINE, clean};

/// Names the list that `map-window` takes.
pub const WINDOW_PAGES: &str = "pages of a window";

impl HostState {
    /// Fails if the instance must have no visible effects.
    pub fn loud(&self, what: &str) -> Result<()> {
        if self.phase == Phase::Quiet {
            bail!("it {what} while it saved or took over a state");
        }
        Ok(())
    }

    /// Returns whether a range of guest memory can be read in one call.
    pub fn check_read(&self, address: u64, length: u32) -> Result<(), MemoryError> {
        if length as usize > bounds::COPY_BYTES {
            return Err(MemoryError::TooLong);
        }
        let check = self.memory.check(address, length.into(), Access::Read);
        if !self.function.bus_master() || check.is_err() {
            return Err(MemoryError::Unmapped);
        }
        Ok(())
    }

    /// Copies to guest memory.
    pub fn write_guest(&self, address: u64, data: &[u8]) -> Result<Result<(), MemoryError>> {
        self.loud("wrote guest memory")?;
        if data.len() > bounds::COPY_BYTES {
            return Ok(Err(MemoryError::TooLong));
        }
        if !self.function.bus_master() {
            return Ok(Err(MemoryError::Unmapped));
        }
        let written = self.memory.write(address, data);
        Ok(written.map_err(|_| MemoryError::Unmapped))
    }

    /// Makes a range of linear memory the window arena.
    ///
    /// # Errors
    ///
    /// For the device: there are no windows here, or the range is invalid.
    pub fn reserve_arena(&mut self, offset: u32, length: u32) -> Result<Range<u32>, WindowRefusal> {
        let linear_memory = self.linear_memory.as_ref();
        let Some(linear_memory) = linear_memory.filter(|_| bounds::has_windows(&self.limits))
        else {
            return Err(WindowRefusal::Unsupported);
        };
        if length as usize > bounds::arena_bytes(&self.limits) {
            return Err(WindowRefusal::Exhausted);
        }
        self.stale = true;
        let reserved = linear_memory.reserve_arena(offset, length, self.view());
        let lost = linear_memory.lost();
        self.window_lost = lost;
        reserved.map_err(|_| WindowRefusal::Invalid)
    }

    /// Maps a window.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; the instance ends.
    pub fn lay_window(
        &mut self,
        offset: u32,
        pages: &[u64],
        access: WindowAccess,
    ) -> Result<Result<(), WindowRefusal>> {
        let linear_memory = self.linear_memory.as_ref();
        let Some(linear_memory) = linear_memory.filter(|_| bounds::has_windows(&self.limits))
        else {
            return Ok(Err(WindowRefusal::Unsupported));
        };
        self.stale = true;
        Ok(
            match linear_memory.map(offset, pages, access, &self.memory) {
                Ok(()) => Ok(()),
                Err(WindowError::Invalid) => Err(WindowRefusal::Invalid),
                Err(WindowError::Exhausted) => Err(WindowRefusal::Exhausted),
                Err(WindowError::Unsupported) => Err(WindowRefusal::Unsupported),
                Err(error @ WindowError::Broken(_)) => bail!("{error}"),
            },
        )
    }

    /// Unmaps a window.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; the instance ends.
    pub fn take_window_away(&mut self, offset: u32) -> Result<()> {
        if let Some(linear_memory) = &self.linear_memory {
            self.stale = true;
            linear_memory.unmap(offset)?;
        }
        Ok(())
    }

    /// Checks whether this many vectors may be raised at once.
    ///
    /// # Errors
    ///
    /// If there are fewer, or the instance must have no visible effects.
    pub fn check_raise(&self, count: usize) -> Result<()> {
        self.loud("raised interrupts")?;
        let table = self.function.msix_vectors();
        if count > usize::from(table) {
            bail!("raised {count} vectors at once; there are {table}");
        }
        Ok(())
    }

    /// Checks whether this many vectors may be raised later.
    ///
    /// # Errors
    ///
    /// If the feature was not negotiated, or as [`check_raise`](Self::check_raise).
    pub fn check_raise_within(&self, count: usize) -> Result<()> {
        self.agreed_on(Features::MODERATION, "moderation")?;
        self.check_raise(count)
    }

    /// Logs a line, if there were not too many.
    pub fn log_line(&mut self, level: Level, message: &[u8]) {
        let Some(dropped) = self.logged[level as usize].pass() else {
            self.gauges.log_lines_dropped.add(1);
            return;
        };
        let mut text = clean(message, MAX_LINE);
        if dropped > 0 {
            text += &format!(" ({dropped} lines were dropped)");
        }
        match level {
            Level::Error => tracing::error!(target: "manatee::component", "{text}"),
            Level::Warn => tracing::warn!(target: "manatee::component", "{text}"),
            Level::Info => tracing::info!(target: "manatee::component", "{text}"),
            Level::Debug => tracing::debug!(target: "manatee::component", "{text}"),
            Level::Trace => tracing::trace!(target: "manatee::component", "{text}"),
        }
    }

    /// Transmits the packets of the scratch, and leaves their statuses there.
    pub fn transmit(&mut self, port: u32, queue: u32) -> Result<Groups> {
        self.loud("transmitted")?;
        let bus_master = self.function.bus_master();
        let Scratch {
            packets,
            segments,
            statuses,
            ..
        } = &mut self.scratch;
        let batch = TxBatch::new(packets, segments)?;
        let Some((state, queue)) = find(&mut self.ports, port, queue) else {
            bail!("transmitted on port {port}, queue {queue}, which does not exist");
        };
        if let Some(last) = packets.last() {
            state.set_handed_over(queue, Some(last.id));
        }
        statuses.clear();
        if bus_master {
            state.transmit(queue, &self.memory, batch, statuses);
        } else {
            statuses.resize(batch.len(), TxStatus::MemoryFault);
        }
        let groups = Groups::of(batch, statuses, &self.memory);
        if statuses.iter().all(|status| *status == TxStatus::Sent) {
            statuses.clear();
        }
        self.scratch.trim();
        Ok(groups)
    }

    /// Posts the buffers of the scratch. Returns how many were accepted.
    pub fn post_receive(&mut self, port: u32, queue: u32) -> Result<u32> {
        self.loud("posted buffers")?;
        let Some((state, queue)) = find(&mut self.ports, port, queue) else {
            bail!("posted to port {port}, queue {queue}, which does not exist");
        };
        let Scratch {
            buffers, segments, ..
        } = &self.scratch;
        let taken = state.post(queue, buffers, segments);
        self.scratch.trim();
        match taken {
            Some(taken) => Ok(taken),
            None => bail!("posted buffers that do not add up to their segments"),
        }
    }

    /// Takes a queue's buffers back. A queue that does not exist has none.
    pub fn cancel_receive(&mut self, port: u32, queue: u32) -> Result<()> {
        self.loud("took buffers back")?;
        if let Some((state, queue)) = find(&mut self.ports, port, queue) {
            state.cancel_receive(queue);
        }
        Ok(())
    }

    /// Cancels a queue's pending transmits. A queue that does not exist has none.
    pub fn cancel_transmit(&mut self, port: u32, queue: u32) -> Result<()> {
        self.loud("gave transmits up")?;
        if let Some((state, queue)) = find(&mut self.ports, port, queue) {
            state.cancel_transmit(queue);
        }
        Ok(())
    }

    /// Steers the packets of a port.
    ///
    /// # Errors
    ///
    /// If steering was not negotiated, or is invalid.
    pub fn steer(&mut self, port: u32, steering: Steering) -> Result<()> {
        self.agreed_on(Features::STEERING, "steering")?;
        self.loud("steered packets")?;
        let reports = self.agreed.contains(Features::RECEIVE_HASH);
        let is_waiting = self.is_waiting();
        let Some(state) = self.ports.get_mut(port as usize) else {
            bail!("steered the packets of port {port}, which does not exist");
        };
        steering.check(state.count())?;
        if state.steering() != Some(&steering) {
            let memory = Some(&self.memory).filter(|_| !is_waiting);
            state.steer(memory, Some(steering), reports);
        }
        Ok(())
    }

    /// Limits a port's transmit rate.
    ///
    /// # Errors
    ///
    /// If the feature was not negotiated, or there is no such port.
    pub fn limit_rate(&mut self, port: u32, mbps: Option<u32>) -> Result<()> {
        self.agreed_on(Features::RATE_LIMIT, "rate-limit")?;
        self.loud("limited a rate")?;
        let Some(state) = self.ports.get_mut(port as usize) else {
            bail!("limited the rate of port {port}, which does not exist");
        };
        state.limit_rate(mbps);
        Ok(())
    }

    /// Reads the counters of a port.
    ///
    /// # Errors
    ///
    /// If the feature was not negotiated, or there is no such port.
    pub fn statistics(&self, port: u32) -> Result<LinkStatistics> {
        self.agreed_on(Features::STATISTICS, "statistics")?;
        // There is no port to look at while it rehearses.
        self.loud("asked for statistics")?;
        match self.ports.get(port as usize) {
            Some(state) => Ok(state.statistics()),
            None => bail!("asked for the statistics of port {port}, which does not exist"),
        }
    }

    /// Ends an instance that uses a feature that was not negotiated.
    fn agreed_on(&self, feature: Features, name: &str) -> Result<()> {
        if !self.agreed.contains(feature) {
            bail!("used the feature `{name}`, which it did not agree on");
        }
        Ok(())
    }
}

/// Finds a queue by the device's numbers for it.
#[inline]
fn find(ports: &mut [PortState], port: u32, queue: u32) -> Option<(&mut PortState, u16)> {
    let state = ports.get_mut(port as usize)?;
    let queue = state.find(queue)?;
    Some((state, queue))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Limits;
    use manatee_common::ration::Ration;

    #[test]
    fn component_that_logs_for_ever_gets_a_few_lines_of_each_level() {
        const MANY: u64 = 100_000;
        let mut state = HostState::vacant(Limits::default()).unwrap();
        for _ in 0..MANY {
            state.log_line(Level::Info, b"again");
        }
        state.log_line(Level::Error, b"news");
        let dropped = |state: &HostState, level| Ration::dropped(&state.logged[level as usize]);
        let logged = MANY - dropped(&state, Level::Info);
        assert!((1..32).contains(&logged), "{logged} lines");
        assert_eq!(dropped(&state, Level::Error), 0);
    }
}
