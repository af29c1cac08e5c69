//! Creates devices.

use std::sync::Arc;

use parking_lot::Mutex;

use super::error::DeviceError;
use super::handle::{Device, Shared};
use super::inner::DeviceInner;
use super::poller::Poller;
use super::recovery::CrashPolicy;
use super::report::Event;
use super::telemetry::Listener;
use super::thread;
use super::wakes::PendingWakes;
use crate::component::Component;
use crate::interrupt::Interrupts;
use crate::runtime::{HostState, Limits, Port, PortState};

/// A device that is being configured: [`Device::builder`].
#[must_use]
pub struct DeviceBuilder {
    component: Component,
    ports: Vec<Port>,
    limits: Limits,
    policy: CrashPolicy,
    listener: Option<Listener>,
}

impl DeviceBuilder {
    pub(super) fn new(component: &Component) -> Self {
        Self {
            component: component.clone(),
            ports: Vec::new(),
            limits: Limits::default(),
            policy: CrashPolicy::default(),
            listener: None,
        }
    }

    /// Adds a port. Ports are numbered from 0 in the order in which they are added.
    pub fn port(mut self, port: Port) -> Self {
        self.ports.push(port);
        self
    }

    /// Adds ports.
    pub fn ports(mut self, ports: impl IntoIterator<Item = Port>) -> Self {
        self.ports.extend(ports);
        self
    }

    /// Sets the component's resource limits, in place of the default [`Limits`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how a component that fails is recovered, in place of the default [`CrashPolicy`].
    pub fn crash_policy(mut self, policy: CrashPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets who is notified of events. It is called with the device locked, so it must neither wait
    /// nor call the device.
    pub fn listener(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// Creates the device, which raises its interrupts on `interrupts`.
    ///
    /// # Errors
    ///
    /// [`DeviceError`].
    pub fn build(self, interrupts: Interrupts) -> Result<Device, DeviceError> {
        let Self {
            component,
            ports,
            limits,
            policy,
            listener,
        } = self;
        let description = component.describe()?;
        let (given, max) = (ports.len(), description.max_ports);
        if given == 0 || given > max as usize {
            return Err(DeviceError::PortCount { given, max });
        }
        let ports = ports.into_iter().enumerate().map(|(index, port)| {
            let port = PortState::try_from(port);
            port.map_err(|error| DeviceError::Port(index, error))
        });
        let ports = ports.collect::<Result<Vec<_>, _>>()?;
        let function = component.function(&description)?;
        let msix_vectors = function.msix_vectors();
        let bar_sizes = [0, 1, 2, 3, 4, 5].map(|index| function.bar_size(index));
        let state = HostState::new(function, interrupts, ports, limits);
        let inner = DeviceInner::new(component, description, state, policy, listener)?;
        let ports = inner.state_ref().ports.iter();
        let counts = ports.map(|port| port.queues().len()).collect();
        let queues = inner.endpoints()?;
        let wakes = PendingWakes::new(queues.len());
        let poller = Poller::new(queues)?;
        let telemetry = inner.telemetry.clone();
        let interrupts_due = inner.state_ref().delayed.due();
        let shared = Arc::new(Shared {
            telemetry,
            wakes,
            interrupts_due,
            queues: counts,
            inner: Mutex::new(inner),
            poller,
            swapping: Mutex::new(()),
            rehearsing: Mutex::new(()),
            bar_sizes,
            msix_vectors,
        });
        thread::start(&shared)?;
        Ok(Device { shared })
    }
}

impl std::fmt::Debug for DeviceBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceBuilder")
            .field("component", &self.component.name())
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// Makes a device with the default [`Limits`] and [`CrashPolicy`];
    /// [`builder`](Self::builder) has others.
    ///
    /// # Errors
    ///
    /// [`DeviceError`].
    pub fn new(
        component: &Component,
        ports: Vec<Port>,
        interrupts: Interrupts,
    ) -> Result<Self, DeviceError> {
        Self::builder(component).ports(ports).build(interrupts)
    }

    /// Begins a device that runs a component.
    pub fn builder(component: &Component) -> DeviceBuilder {
        DeviceBuilder::new(component)
    }
}
