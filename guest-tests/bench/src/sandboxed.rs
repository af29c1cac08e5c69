//! The shipped device: a component in the host.

use anyhow::Result;
use manatee::component::Component;
use manatee::device::{Device, Limits, Port};
use manatee::endpoint::Endpoint;
use manatee::interrupt::{Interrupts, VectorSink};

use crate::machine::{InterruptController, Machine};
use crate::ram::Ram;

/// The command register, and memory space and bus master in it.
const COMMAND: u64 = 4;
const ENABLED: [u8; 2] = [6, 0];

/// A machine with the component in it.
pub struct Sandboxed {
    device: Device,
    ram: Ram,
    interrupts: InterruptController,
}

/// Returns a port for an endpoint.
pub fn port(index: usize, endpoint: Box<dyn Endpoint>) -> Port {
    Port {
        mac: [2, 0, 0, 0, (index >> 8) as u8, index as u8 + 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint,
    }
}

impl Sandboxed {
    /// Creates a device with these ports and this much guest memory, enabled.
    ///
    /// # Errors
    ///
    /// The host's error.
    pub fn new(
        component: &Component,
        endpoints: Vec<Box<dyn Endpoint>>,
        size: u64,
        limits: Limits,
    ) -> Result<Self> {
        let interrupts = InterruptController::new();
        let sink = Box::new(interrupts.clone());
        Self::with_sink(component, endpoints, size, limits, interrupts, sink)
    }

    /// Creates a device as [`new`](Self::new), with interrupts that are also sent
    /// elsewhere.
    ///
    /// # Errors
    ///
    /// The host's error.
    pub fn with_sink(
        component: &Component,
        endpoints: Vec<Box<dyn Endpoint>>,
        size: u64,
        limits: Limits,
        interrupts: InterruptController,
        sink: Box<dyn VectorSink>,
    ) -> Result<Self> {
        let ram = Ram::new(size)?;
        let ports = endpoints.into_iter().enumerate();
        let ports = ports.map(|(index, endpoint)| port(index, endpoint));
        let device = Device::builder(component)
            .ports(ports)
            .limits(limits)
            .build(Interrupts::Vectors(sink))?;
        device.map_memory(0, size, Some((ram.share()?, 0)), true)?;
        device.config_write(COMMAND, &ENABLED);
        Ok(Self {
            device,
            ram,
            interrupts,
        })
    }
}

impl Sandboxed {
    /// Returns the device.
    pub fn device(&self) -> Device {
        self.device.clone()
    }
}

impl Machine for Sandboxed {
    #[inline]
    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let bytes = value.to_le_bytes();
        self.device.bar_write(0, offset, &bytes[..width.into()]);
    }

    #[inline]
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        let mut value = [0; 8];
        self.device.bar_read(0, offset, &mut value[..width.into()]);
        u64::from_le_bytes(value)
    }

    fn ram(&self) -> &Ram {
        &self.ram
    }

    fn interrupts(&self) -> &InterruptController {
        &self.interrupts
    }
}
