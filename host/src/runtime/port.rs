//! A port of a device: its endpoint, and the packets and buffers that the device gave its queues.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::gauges::{PortGauges, PortSettings};
use super::pace::Pace;
use super::queue::QueueState;
use crate::continuity::live::LiveState;
use crate::contract::{Link, LinkState, LinkStatistics, PortConfig};
use crate::endpoint::{
    Completions, Counters, Endpoint, MAX_QUEUES, QueueSet, Rss, RxBuffer, Segment, Steering,
    TxBatch, TxStatus, Watcher,
};
use crate::memory::GuestMemory;

/// A port of a new device.
pub struct Port {
    /// Unicast address in transmission order.
    pub mac: [u8; 6],
    /// Largest layer-3 packet in bytes, 68 to 65521.
    pub mtu: u16,
    /// The speed that the guest reports.
    pub link_speed_mbps: u32,
    /// The destination and the source of its packets.
    pub endpoint: Box<dyn Endpoint>,
}

/// A port that no device can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPort {
    /// The address is a group address, or zero.
    #[error(
        "MAC address {0} is not a unicast address: the lowest bit of its first byte must be 0, and not all bytes may be 0"
    )]
    Mac(String),
    /// The MTU is out of range.
    #[error("MTU {0} is not between 68 and 65521")]
    Mtu(u16),
    /// The endpoint has no queue, or too many.
    #[error("its endpoint has {0} queues; a port has 1 to {MAX_QUEUES}")]
    Queues(usize),
}

impl Port {
    /// Returns whether a device can have this port.
    ///
    /// # Errors
    ///
    /// Why it can't.
    pub fn check(&self) -> Result<(), InvalidPort> {
        if self.mac[0] & 1 != 0 || self.mac == [0; 6] {
            return Err(InvalidPort::Mac(format_mac(self.mac)));
        }
        if !(68..=65521).contains(&self.mtu) {
            return Err(InvalidPort::Mtu(self.mtu));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mac = format_mac(self.mac);
        write!(
            f,
            "Port({} mac={mac} mtu={})",
            self.endpoint.name(),
            self.mtu
        )
    }
}

fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A port of a running device.
pub struct PortState {
    port: Port,
    queues: Box<[QueueState]>,
    /// Queues that may have something to receive.
    poll: QueueSet,
    /// Queues with completions that the device was not notified of.
    finished: QueueSet,
    /// Whether the steering was changed since the device was last notified of completions.
    turned: bool,
    steering: Option<Steering>,
    pace: Option<Pace>,
    /// The guest's own limit in Mbit/s.
    guest_rate: Option<u32>,
    /// An operator's limit in Mbit/s.
    operator_rate: Option<u32>,
    /// The queue whose delayed packets are sent next.
    turn: u16,
    /// Whether packets have begun to be delayed.
    alarm: bool,
    /// The state of its link, also for later instances.
    link_state: LinkState,
    /// The part that other threads may read at any time.
    gauges: Arc<PortGauges>,
}

impl TryFrom<Port> for PortState {
    type Error = InvalidPort;

    fn try_from(mut port: Port) -> Result<Self, InvalidPort> {
        port.check()?;
        let (endpoint, view) = (port.endpoint.name(), port.endpoint.view());
        let policy = port.endpoint.policy().cloned();
        let queues = port.endpoint.take_queues();
        if !(1..=usize::from(MAX_QUEUES)).contains(&queues.len()) {
            return Err(InvalidPort::Queues(queues.len()));
        }
        let queues: Box<[_]> = queues.into_iter().map(QueueState::new).collect();
        let mac = format_mac(port.mac);
        let each = queues.iter().map(QueueState::gauges).collect();
        let gauges = PortGauges::new(mac, port.mtu, endpoint, view, each).with_policy(policy);
        Ok(Self {
            gauges: Arc::new(gauges),
            port,
            queues,
            poll: QueueSet::default(),
            finished: QueueSet::default(),
            turned: false,
            steering: None,
            pace: None,
            guest_rate: None,
            operator_rate: None,
            turn: 0,
            alarm: false,
            link_state: LinkState::Up,
        })
    }
}

impl PortState {
    /// Returns its description for the device.
    pub fn config(&self) -> PortConfig {
        let [a, b, c, d, e, f] = self.port.mac;
        PortConfig {
            mac: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
            link: self.link(),
            queues: self.count(),
        }
    }

    /// Notes the last packet that each queue was handed in a live state, as this port's.
    pub fn record(&mut self, port: usize, live: &LiveState) {
        for (number, queue) in self.queues.iter_mut().enumerate() {
            queue.record(live.handed(port, number));
        }
    }

    /// Returns the number of its queues.
    pub fn count(&self) -> u16 {
        // Fits: it was checked.
        self.queues.len() as u16
    }

    /// Returns its queues.
    pub fn queues(&self) -> &[QueueState] {
        &self.queues
    }

    /// Returns the port's link.
    pub fn link(&self) -> Link {
        Link {
            state: self.link_state,
            speed_mbps: self.port.link_speed_mbps,
            mtu: self.port.mtu,
        }
    }

    /// Returns whether there may be something to receive, or there are completions.
    #[inline]
    pub fn has_work(&self) -> bool {
        !self.work().is_empty()
    }

    /// Returns the queues that may have something to receive, or have completions.
    #[inline]
    pub fn work(&self) -> QueueSet {
        self.poll.or(self.finished)
    }

    /// Returns the queues whose completions must be reported before anything else is received: the
    /// steering has changed, and no packet may overtake an earlier one.
    #[inline]
    pub fn take_turned(&mut self) -> QueueSet {
        match std::mem::take(&mut self.turned) {
            true => self.finished,
            false => QueueSet::default(),
        }
    }

    /// Returns the queues with completions.
    pub fn finished(&self) -> QueueSet {
        self.finished
    }

    /// Records that packets may be waiting at a queue.
    pub fn wake(&mut self, queue: u16) {
        self.poll.insert(queue);
    }

    /// Records that packets may be waiting at every queue, also delayed ones.
    pub fn wake_all(&mut self) {
        self.alarm |= self.pace.is_some();
        self.poll = QueueSet::first(self.count());
    }

    /// Finds a queue by the device's number for it.
    #[inline]
    pub fn find(&self, queue: u32) -> Option<u16> {
        let own = u16::try_from(queue).ok();
        own.filter(|queue| *queue < self.count())
    }

    /// Hands packets to a queue, and pushes their statuses.
    #[inline]
    pub fn transmit(
        &mut self,
        queue: u16,
        memory: &GuestMemory,
        batch: TxBatch<'_>,
        statuses: &mut Vec<TxStatus>,
    ) {
        let state = &mut self.queues[usize::from(queue)];
        if let Some(pace) = &mut self.pace {
            let (now, held) = (Instant::now(), state.is_held());
            state.transmit_paced(pace, now, memory, batch, statuses, &mut self.poll);
            self.alarm |= !held && state.is_held();
        } else {
            let (endpoint, mut io) = state.split(memory, &mut self.poll);
            endpoint.transmit(&mut io, batch, statuses);
        }
        state.publish();
        self.note_finished(queue);
    }

    /// Hands over delayed packets that are due. Queues take turns.
    #[inline]
    pub fn release(&mut self, memory: &GuestMemory) {
        if self.pace.is_some() {
            self.release_paced(memory);
        }
    }

    fn release_paced(&mut self, memory: &GuestMemory) {
        let Some(pace) = &mut self.pace else {
            return;
        };
        let now = Instant::now();
        let mut idle = 0;
        while idle < self.queues.len() {
            let queue = self.turn;
            self.turn = (queue + 1) % self.queues.len() as u16;
            let state = &mut self.queues[usize::from(queue)];
            match state.release(pace, now, memory, &mut self.poll) {
                true => idle = 0,
                false => idle += 1,
            }
            if !state.done.is_empty() {
                self.finished.insert(queue);
            }
        }
    }

    /// Returns when the next delayed packets are due.
    pub fn due(&self) -> Option<Instant> {
        let pace = self.pace.as_ref()?;
        let held = self.queues.iter().any(QueueState::is_held);
        pace.due().filter(|_| held)
    }

    /// Returns whether packets have begun to be delayed since this was called last: a thread has to
    /// wait until they are [due](Self::due).
    pub fn take_alarm(&mut self) -> bool {
        std::mem::take(&mut self.alarm)
    }

    /// Sets the guest's limit of the transmit rate, in Mbit/s.
    pub fn limit_rate(&mut self, mbps: Option<u32>) {
        self.guest_rate = mbps;
        self.follow_rates();
    }

    /// Sets the operator's limit of the transmit rate, in Mbit/s, which the guest can't change and a
    /// reset does not remove.
    pub fn limit_rate_by_operator(&mut self, mbps: Option<u32>) {
        self.operator_rate = mbps;
        self.follow_rates();
    }

    /// Applies the lower of both limits.
    fn follow_rates(&mut self) {
        let rates = [self.guest_rate, self.operator_rate];
        let mbps = rates.into_iter().flatten().min();
        if self.pace.as_ref().and_then(Pace::mbps) != mbps {
            // Without a rate and packets that wait there is nothing to do for each packet.
            let held = self.queues.iter().any(QueueState::is_held);
            let pace = || Pace::new(mbps, Instant::now());
            self.pace = (held || mbps.is_some()).then(pace);
            self.alarm = true;
        }
        self.publish_settings();
    }

    /// Hands over all delayed packets.
    pub fn release_all(&mut self, memory: &GuestMemory) {
        if let Some(pace) = self.pace.take() {
            self.pace = Some(Pace::new(None, Instant::now()));
            self.release_paced(memory);
            self.pace = Some(pace);
        }
    }

    /// Returns the guest's limit, in Mbit/s.
    pub fn rate(&self) -> Option<u32> {
        self.guest_rate
    }

    /// Returns the traffic of the port's link.
    pub fn statistics(&self) -> LinkStatistics {
        let Counters {
            transmit,
            receive,
            refused,
        } = self.counters();
        LinkStatistics {
            rx_packets: receive.packets,
            rx_bytes: receive.bytes,
            rx_dropped: receive.dropped + self.port.endpoint.missed(),
            tx_packets: transmit.packets,
            tx_bytes: transmit.bytes,
            tx_dropped: transmit.dropped() + refused.sent(),
        }
    }

    /// Continues earlier counters of its queues, in their order.
    pub fn continue_counting(&mut self, before: impl Iterator<Item = Counters>) {
        for (queue, before) in self.queues.iter_mut().zip(before) {
            queue.continue_counting(before);
        }
    }

    fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        let each = self.queues.iter();
        each.for_each(|queue| counters.add(&queue.counters()));
        counters
    }

    /// Sets the last packet that a queue was handed; None if there is none.
    #[inline]
    pub fn set_handed_over(&mut self, queue: u16, last: Option<u32>) {
        self.queues[usize::from(queue)].set_handed_over(last);
    }

    /// Posts buffers to a queue. Returns how many were accepted, or None if their segments do not
    /// add up.
    pub fn post(&mut self, queue: u16, buffers: &[RxBuffer], segments: &[Segment]) -> Option<u32> {
        let state = &mut self.queues[usize::from(queue)];
        if state.rx.is_empty() {
            self.poll.insert(queue);
        }
        let taken = state.rx.post(buffers, segments);
        state.publish_posted();
        taken
    }

    /// Lets a queue write waiting packets to posted buffers, if there may be some. Returns
    /// whether there may be more, there or at other queues.
    #[inline]
    pub fn receive(&mut self, queue: u16, memory: &GuestMemory) -> bool {
        if !self.poll.remove(queue) {
            return false;
        }
        let others = self.poll;
        let state = &mut self.queues[usize::from(queue)];
        let (endpoint, mut io) = state.split(memory, &mut self.poll);
        let more = endpoint.receive(&mut io);
        state.publish();
        if more {
            self.poll.insert(queue);
        }
        self.note_finished(queue);
        self.poll != others
    }

    #[inline]
    fn note_finished(&mut self, queue: u16) {
        if !self.queues[usize::from(queue)].done.is_empty() {
            self.finished.insert(queue);
        }
    }

    /// Takes the completions of a queue.
    #[inline]
    pub fn take_done(&mut self, queue: u16) -> Completions {
        self.finished.remove(queue);
        std::mem::take(&mut self.queues[usize::from(queue)].done)
    }

    /// Returns completions that were taken, reported or not; newer ones of the queue are appended.
    pub fn give_back_done(&mut self, queue: u16, done: Completions) {
        let state = &mut self.queues[usize::from(queue)];
        let late = std::mem::replace(&mut state.done, done);
        state.done.received.extend(late.received);
        state.done.transmitted.extend(late.transmitted);
        self.note_finished(queue);
    }

    /// Steers packets that are received from now on; all to queue 0 without a steering. Packets on
    /// their way between queues are delivered before that, or dropped if no memory can be written
    /// now.
    pub fn steer(
        &mut self,
        memory: Option<&GuestMemory>,
        steering: Option<Steering>,
        reports: bool,
    ) {
        for queue in QueueSet::first(self.count()) {
            let state = &mut self.queues[usize::from(queue)];
            if let Some(memory) = memory {
                let (endpoint, mut io) = state.split(memory, &mut self.poll);
                endpoint.settle(&mut io);
                state.publish();
                self.note_finished(queue);
            } else {
                state.drop_passed();
            }
        }
        let rss = steering
            .as_ref()
            .map(|steering| Rss::new(steering, reports));
        self.port.endpoint.steer(rss.map(Arc::new));
        self.steering = steering;
        self.publish_settings();
        self.turned = true;
        self.wake_all();
    }

    /// Returns how packets are steered.
    pub fn steering(&self) -> Option<&Steering> {
        self.steering.as_ref()
    }

    /// Takes every posted buffer of a queue back.
    pub fn cancel_receive(&mut self, queue: u16) {
        self.queues[usize::from(queue)].cancel_receive();
        // Others may have waited for room there.
        self.wake_all();
    }

    /// Cancels pending transmits of a queue.
    pub fn cancel_transmit(&mut self, queue: u16) {
        let queue = &mut self.queues[usize::from(queue)];
        queue.set_handed_over(None);
        queue.give_up_transmits();
    }

    /// Takes back everything that an instance gave to it, which has ended. Keeps the ids of the last
    /// packets, and the steering.
    pub fn abandon(&mut self) {
        self.queues.iter_mut().for_each(QueueState::abandon);
        self.finished = QueueSet::default();
    }

    /// Returns to power-on.
    pub fn reset(&mut self) {
        for queue in 0..self.count() {
            self.cancel_receive(queue);
            self.cancel_transmit(queue);
        }
        self.finished = QueueSet::default();
        // What waited was given up.
        self.pace = None;
        self.guest_rate = None;
        self.follow_rates();
        if self.steering.is_some() {
            self.steer(None, None, false);
        }
    }

    /// Attaches a watcher to its queues. Returns whether there was none.
    pub fn watch(&mut self, watcher: &Arc<dyn Watcher>) -> bool {
        let queues = (0..).zip(self.queues.iter_mut());
        let mut each = queues.map(|(number, queue)| queue.watch(number, watcher));
        each.all(|watched| watched)
    }

    /// Detaches the watcher.
    pub fn unwatch(&mut self) {
        self.queues.iter_mut().for_each(QueueState::unwatch);
    }

    /// Sets its link.
    pub fn set_link(&mut self, state: LinkState) {
        self.link_state = state;
        let up = state == LinkState::Up;
        self.gauges.link_up.store(up, Ordering::Relaxed);
    }

    /// Returns the part that other threads may read at any time.
    pub fn gauges(&self) -> Arc<PortGauges> {
        self.gauges.clone()
    }

    /// Publishes its limits and steering.
    fn publish_settings(&self) {
        let settings = PortSettings {
            rate_mbps: self.pace.as_ref().and_then(Pace::mbps),
            guest_rate_mbps: self.guest_rate,
            operator_rate_mbps: self.operator_rate,
            steering: self.steering.clone(),
        };
        *self.gauges.settings.lock() = settings;
    }
}

impl std::fmt::Debug for PortState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortState")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
