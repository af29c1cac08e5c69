//! A port of a device: an endpoint, and what the device gave it to do.

use serde_json::{Value, json};

use crate::contract::{Link, LinkState, PortConfig};
use crate::endpoint::{Completions, Endpoint, PortIo, RxQueue};
use crate::memory::GuestMemory;

/// A port of a new device.
pub struct Port {
    /// Unicast address in transmission order.
    pub mac: [u8; 6],
    /// Largest layer-3 packet in bytes, 68 to 65521.
    pub mtu: u16,
    /// For the guest to report.
    pub link_speed_mbps: u32,
    /// Where its packets go and come from.
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
}

impl Port {
    /// Whether a device can have this port.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
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
    rx: RxQueue,
    /// What the endpoint finished and the device was not told yet.
    pub done: Completions,
    /// Buffers came where there were none: packets may be waiting.
    pub poll: bool,
    /// The last packet that was handed over.
    pub handed_over: Option<u32>,
    /// The state of its link, for instances to come too.
    pub link_state: LinkState,
}

impl From<Port> for PortState {
    fn from(port: Port) -> Self {
        Self {
            port,
            rx: RxQueue::new(),
            done: Completions::default(),
            poll: false,
            handed_over: None,
            link_state: LinkState::Up,
        }
    }
}

impl PortState {
    /// What the device is told of it.
    pub fn config(&self) -> PortConfig {
        let [a, b, c, d, e, f] = self.port.mac;
        PortConfig {
            mac: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
            link: self.link(),
            queues: 1,
        }
    }

    /// The port's link.
    pub fn link(&self) -> Link {
        Link {
            state: self.link_state,
            speed_mbps: self.port.link_speed_mbps,
            mtu: self.port.mtu,
        }
    }

    /// Whether there may be something to receive, or is something to tell.
    #[inline]
    pub fn has_work(&self) -> bool {
        self.poll || !self.done.is_empty()
    }

    /// The endpoint, and what it works on.
    pub fn split<'a>(&'a mut self, memory: &'a GuestMemory) -> (&'a mut dyn Endpoint, PortIo<'a>) {
        let io = PortIo {
            memory,
            rx: &mut self.rx,
            done: &mut self.done,
        };
        (&mut *self.port.endpoint, io)
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &dyn Endpoint {
        &*self.port.endpoint
    }

    /// The posted buffers.
    pub fn rx(&mut self) -> &mut RxQueue {
        &mut self.rx
    }

    /// Takes every posted buffer back.
    pub fn cancel_receive(&mut self) {
        self.rx.clear();
        self.done.received.clear();
    }

    /// Gives up pending transmits.
    pub fn cancel_transmit(&mut self) {
        self.handed_over = None;
        self.give_up_transmits();
    }

    /// As [`cancel_transmit`](Self::cancel_transmit), but still knows which
    /// packet was the last.
    pub fn give_up_transmits(&mut self) {
        self.port.endpoint.cancel();
        self.done.transmitted.clear();
    }

    /// For `manatee inspect`.
    pub fn inspect(&self) -> Value {
        json!({
            "mac": format_mac(self.port.mac),
            "mtu": self.port.mtu,
            "endpoint": self.port.endpoint.name(),
            "posted_buffers": self.rx.len(),
            "counters": self.port.endpoint.inspect(),
        })
    }
}

impl std::fmt::Debug for PortState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortState")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
