//! The state of a whole device, for a VMM's own save and restore.
//!
//! It holds what the guest can see: configuration space, the MSI-X table, the
//! component's state, and what that has set the ports to. What the host held for the device
//! (receive buffers) is found again in the guest's rings.

use minicbor::{Decode, Encode};

use super::handle::Device;
use super::inner::DeviceInner;
use super::swap::SwapError;
use crate::contract::{HandedOver, HashTypes, StateRefusal, Steering};
use crate::endpoint::InvalidSteering;
use crate::runtime::bounds::STATE_BYTES;
use crate::runtime::{Failure, HostState, Phase};

const FORMAT: &str = "manatee-device";
const VERSION: u32 = 1;
/// The longest state of a device in bytes: a component's, and its envelope.
const MAX_SIZE: usize = 2 * STATE_BYTES;
/// The part of configuration space that has registers, in bytes.
const CONFIG_SIZE: usize = 256;
/// Bytes of an MSI-X table entry.
const MSIX_ENTRY: usize = 16;

/// Why a device could not continue from a state.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is not a saved state of a device.
    #[error("this is not the saved state of a device: {0}")]
    Malformed(String),
    /// It has an unknown version, of a newer library for example.
    #[error("the state has version {0}; this library reads version {VERSION}")]
    Version(u32),
    /// It is the state of a function of another kind.
    #[error("the state is of PCI function {saved:04x?}, and this is {own:04x?}")]
    Identity {
        /// Vendor and device id in the state.
        saved: [u16; 2],
        /// Vendor and device id here.
        own: [u16; 2],
    },
    /// The device is not at power-on.
    #[error("a state is restored into a device that was just made or reset")]
    InUse,
    /// The component refuses the state.
    #[error("the component refuses the state: {0}")]
    Refused(StateRefusal),
    /// The component failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Snapshot {
    #[n(0)]
    format: String,
    #[n(1)]
    version: u32,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    config: Vec<u8>,
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    msix: Vec<u8>,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    component: Vec<u8>,
    /// Port, and the last packet that its queue 0 was handed.
    #[n(5)]
    handed_over: Vec<(u32, u32)>,
    /// Port, another queue, and the last packet that it was handed.
    #[n(6)]
    handed_over_elsewhere: Option<Vec<(u32, u32, u32)>>,
    #[n(7)]
    ports: Option<Vec<PortSettings>>,
    /// Whether the guest has enabled bus mastering since the last reset.
    #[n(8)]
    has_mastered: Option<bool>,
}

/// A port's settings by the device.
#[derive(Encode, Decode)]
#[cbor(map)]
struct PortSettings {
    #[n(0)]
    port: u32,
    #[n(1)]
    steering: Option<SteeringState>,
    #[n(2)]
    rate_mbps: Option<u32>,
}

/// A [`Steering`].
#[derive(Encode, Decode)]
#[cbor(map)]
struct SteeringState {
    #[n(0)]
    hash_types: u8,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    key: Vec<u8>,
    #[n(2)]
    table: Vec<u16>,
    #[n(3)]
    default_queue: u32,
}

impl From<&Steering> for SteeringState {
    fn from(steering: &Steering) -> Self {
        Self {
            hash_types: steering.hash_types.bits(),
            key: steering.key.to_vec(),
            table: steering.table.clone(),
            default_queue: steering.default_queue,
        }
    }
}

impl SteeringState {
    /// Returns the steering, if a port of so many queues can have it.
    fn check(self, queues: u16) -> Result<Steering, InvalidSteering> {
        let steering = Steering {
            hash_types: HashTypes::from_bits_truncate(self.hash_types),
            key: Steering::key(&self.key)?,
            table: self.table,
            default_queue: self.default_queue,
        };
        steering.check(queues)?;
        Ok(steering)
    }
}

impl Snapshot {
    fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let malformed = |error: &dyn std::fmt::Display| SnapshotError::Malformed(error.to_string());
        if bytes.len() > MAX_SIZE {
            return Err(malformed(&format!("it has more than {MAX_SIZE} bytes")));
        }
        let mut decoder = minicbor::Decoder::new(bytes);
        let snapshot: Self = decoder.decode().map_err(|error| malformed(&error))?;
        if decoder.position() != bytes.len() {
            return Err(malformed(&"bytes follow it"));
        }
        if snapshot.format != FORMAT {
            return Err(malformed(&"it is the state of something else"));
        }
        if snapshot.version != VERSION {
            return Err(SnapshotError::Version(snapshot.version));
        }
        Ok(snapshot)
    }

    fn restore_function(&self, state: &mut HostState) -> Result<(), SnapshotError> {
        let mut own = vec![0; CONFIG_SIZE];
        state.function.config_read(0, &mut own);
        let (saved, own) = (identity(&self.config), identity(&own));
        if saved != own {
            return Err(SnapshotError::Identity { saved, own });
        }
        let table = MSIX_ENTRY * usize::from(state.function.msix_vectors());
        if self.msix.len() != table {
            let text = "its MSI-X table has another size".to_owned();
            return Err(SnapshotError::Malformed(text));
        }
        // Read-only registers stay as they are; interrupts that were deferred were sent before the
        // state was saved, or are raised again.
        state.stale = true;
        let _ = state.function.msix_write(0, &self.msix);
        let _ = state.function.config_write(0, &self.config);
        if let Some(has_mastered) = self.has_mastered {
            state.function.set_has_mastered(has_mastered);
        }
        Ok(())
    }
}

/// Restores a function from a saved state, and returns the component's own part of it.
pub(super) fn restore_function(
    state: &mut HostState,
    bytes: &[u8],
) -> Result<Vec<u8>, SnapshotError> {
    let snapshot = Snapshot::decode(bytes)?;
    snapshot.restore_function(state)?;
    Ok(snapshot.component)
}

/// Returns the ports' settings.
fn settings(state: &HostState) -> Vec<PortSettings> {
    let ports = (0..).zip(&state.ports);
    let settings = ports.map(|(port, state)| PortSettings {
        port,
        steering: state.steering().map(Into::into),
        rate_mbps: state.rate(),
    });
    settings.collect()
}

/// Restores the ports' settings.
fn set(state: &mut HostState, settings: Vec<PortSettings>) -> Result<(), SnapshotError> {
    let malformed = |error: &dyn std::fmt::Display| SnapshotError::Malformed(error.to_string());
    for settings in settings {
        let PortSettings {
            port,
            steering,
            rate_mbps,
        } = settings;
        let own = state.ports.get(port as usize);
        let own = own.ok_or_else(|| malformed(&format!("it has a port {port}")))?;
        let steering = steering.map(|steering| steering.check(own.count()));
        let steering = steering.transpose().map_err(|error| malformed(&error))?;
        state.restore_port(port, steering, rate_mbps);
    }
    Ok(())
}

fn identity(config: &[u8]) -> [u16; 2] {
    let word = |at: usize| {
        config
            .get(at..at + 2)
            .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
    };
    [word(0), word(2)]
}

impl Device {
    /// Returns the whole state of the device, for [`restore`](Self::restore), for example in
    /// another process. Packets in its ports are not part of it: transmits that an endpoint has
    /// not completed are lost.
    ///
    /// A VMM that is served over vfio-user has its doorbells answered before they
    /// are carried out: read a register first, to be sure that the last one was.
    ///
    /// From then on nothing may touch the guest's memory but the device that
    /// is restored: drop this one, or [`reset`](Self::reset) it, before that
    /// continues.
    ///
    /// # Errors
    ///
    /// [`SwapError::Down`] or [`SwapError::Save`].
    pub fn save(&self) -> Result<Vec<u8>, SwapError> {
        let mut inner = self.shared.own();
        let state = inner.snapshot();
        inner.leave();
        state
    }

    /// Continues a saved device. This one was just created, with the same ports, and the guest's
    /// memory is mapped.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]; the device is at power-on.
    pub fn restore(&self, state: &[u8]) -> Result<(), SnapshotError> {
        let mut inner = self.shared.own();
        let restored = inner.restore(state);
        inner.settle();
        restored
    }
}

impl DeviceInner {
    /// Returns the whole device's state, after reporting to the component the packets that it does
    /// not know of yet.
    ///
    /// # Errors
    ///
    /// [`SwapError::Down`] or [`SwapError::Save`].
    pub fn snapshot(&mut self) -> Result<Vec<u8>, SwapError> {
        if !self.state_ref().is_waiting() {
            self.deliver_all();
        }
        let component = self.save()?;
        // Nobody raises them in another process.
        self.state().raise_due(None);
        Ok(self.snapshot_of(component))
    }

    /// Returns the whole device's state, with the component's own part given.
    pub(super) fn snapshot_of(&self, component: Vec<u8>) -> Vec<u8> {
        let state = self.state_ref();
        let mut config = vec![0; CONFIG_SIZE];
        state.function.config_read(0, &mut config);
        let mut msix = vec![0; MSIX_ENTRY * usize::from(state.function.msix_vectors())];
        state.function.msix_read(0, &mut msix);
        let (first, others): (Vec<_>, Vec<_>) =
            state.handed_over().partition(|last| last.queue == 0);
        let others = others.into_iter();
        let snapshot = Snapshot {
            format: FORMAT.to_owned(),
            version: VERSION,
            config,
            msix,
            component,
            handed_over: first.into_iter().map(|last| (last.port, last.id)).collect(),
            handed_over_elsewhere: Some(
                others
                    .map(|last| (last.port, last.queue, last.id))
                    .collect(),
            ),
            ports: Some(settings(state)),
            has_mastered: Some(state.function.has_mastered()),
        };
        // Writing to a vector can't fail.
        minicbor::to_vec(&snapshot).unwrap_or_default()
    }

    /// Continues a saved device; guest memory is mapped already.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]; the device is at power-on.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.restore_with(bytes, Self::take_over)
    }

    /// Continues a saved device whose posted buffers and work the caller restores: its component
    /// continues as if nothing had happened.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]; the device is at power-on.
    pub(super) fn restore_exactly(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.restore_with(bytes, Self::take_over_exactly)
    }

    fn restore_with(
        &mut self,
        bytes: &[u8],
        take_over: impl FnOnce(&mut Self, &[u8]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let snapshot = Snapshot::decode(bytes)?;
        self.restore_function(&snapshot)?;
        let state = self.state();
        let first = snapshot.handed_over.iter();
        let first = first.map(|(port, id)| (*port, 0, *id));
        let others = snapshot.handed_over_elsewhere.unwrap_or_default();
        for (port, queue, id) in first.chain(others) {
            state.set_handed_over(HandedOver { port, queue, id });
        }
        let set = set(state, snapshot.ports.unwrap_or_default());
        let restored = set.and_then(|()| take_over(self, &snapshot.component));
        if restored.is_err() {
            // The component can't use what it did not take over.
            self.state().phase = Phase::Running;
            self.reset();
        }
        restored
    }

    /// Restores the function and the ports, and returns the component's own state; None if the
    /// device was at power-on.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]; the device is at power-on.
    pub(super) fn restore_host(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, SnapshotError> {
        let snapshot = Snapshot::decode(bytes)?;
        self.restore_function(&snapshot)?;
        if snapshot.component.is_empty() {
            return Ok(None);
        }
        set(self.state(), snapshot.ports.unwrap_or_default())?;
        Ok(Some(snapshot.component))
    }

    /// Restores a device that is down until it is reset.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]; the device is at power-on.
    pub(super) fn restore_down(
        &mut self,
        bytes: &[u8],
        failure: Failure,
    ) -> Result<(), SnapshotError> {
        let snapshot = Snapshot::decode(bytes)?;
        self.restore_function(&snapshot)?;
        self.down = true;
        self.state().abandon_instance();
        self.fail(failure);
        Ok(())
    }

    fn restore_function(&mut self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        if self.recoverer.checkpoint.is_some() {
            return Err(SnapshotError::InUse);
        }
        snapshot.restore_function(self.state())
    }

    fn take_over_exactly(&mut self, component: &[u8]) -> Result<(), SnapshotError> {
        let Some(instance) = self.instance() else {
            return Err(SnapshotError::InUse);
        };
        instance
            .restore(component)?
            .map_err(SnapshotError::Refused)?;
        instance.take_over()?;
        self.recoverer.keep(component.to_vec());
        Ok(())
    }

    fn take_over(&mut self, component: &[u8]) -> Result<(), SnapshotError> {
        let seen = self.recoverer.observations(self.state_ref());
        let Some(instance) = self.instance() else {
            return Err(SnapshotError::InUse);
        };
        instance
            .recover(component, &seen)?
            .map_err(SnapshotError::Refused)?;
        instance.take_over()?;
        let more = instance.service()?;
        self.work_left = more;
        self.recoverer.keep(component.to_vec());
        Ok(())
    }
}
