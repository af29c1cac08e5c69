//! Replaces the component of a running device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::component::{Component, ComponentError};
use crate::contract::{ConfigureError, Description, PortConfig, StateRefusal};
use crate::runtime::{Failure, HostState, Instance, Limits};
use manatee_common::ration::{MAX_LINE, clean};

/// How a component is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapOptions {
    /// The probation: if the new component fails within it, the old one continues.
    pub probation: Duration,
}

impl Default for SwapOptions {
    /// Allows ten seconds.
    fn default() -> Self {
        Self {
            probation: Duration::from_secs(10),
        }
    }
}

/// How long the guest has had no device: the current pause, and the longest before it.
pub struct Pause {
    begun: Instant,
    before: Duration,
}

impl Pause {
    /// Begins a pause, with the longest one before it.
    pub fn after(before: Duration) -> Self {
        Self {
            begun: Instant::now(),
            before,
        }
    }

    /// Returns the longer of the two.
    pub fn until_now(&self) -> Duration {
        self.before.max(self.begun.elapsed())
    }
}

/// Why a component was not replaced. The device continues unchanged.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The candidate can't be used at all.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// The guest would see a difference.
    #[error(
        "{name} is another device: its {what} differs ({running} runs, {candidate} is offered)"
    )]
    Identity {
        /// The candidate.
        name: String,
        /// What differs.
        what: &'static str,
        /// The running component's.
        running: String,
        /// The candidate's.
        candidate: String,
    },
    /// It can't continue from the running component's state.
    #[error("{name} reads saved states of format {reads:?}; the running device writes {}",
        writes.map_or("none".into(), |format| format!("format {format}")))]
    Format {
        /// The candidate.
        name: String,
        /// The formats that it reads.
        reads: Vec<u32>,
        /// The format that the running component writes.
        writes: Option<u32>,
    },
    /// The old component could not read the new one's state, so a rollback would fail.
    #[error(
        "the running device does not read the states that {0} writes, so it could not continue if \
         that fails; swap without a probation (--probation 0) if you mean it"
    )]
    NoWayBack(String),
    /// It failed while it was set up.
    #[error("{0} can't take over: {1}")]
    Failed(String, Failure),
    /// It refuses the ports.
    #[error("{0} refuses the device's ports: {1:?}")]
    Refused(String, ConfigureError),
    /// It refuses the state.
    #[error("{0} refuses the device's state: {1}")]
    State(String, StateRefusal),
    /// The running component failed while its state was saved.
    #[error("the running device could not be saved: {0}")]
    Save(Failure),
    /// The running component has failed already.
    #[error("the device is down; reset it first: {0}")]
    Down(Failure),
    /// Another swap is in progress.
    #[error("another swap is under way; wait for it")]
    Busy,
    /// There is no component to return to.
    #[error("no component ran here before this one")]
    NoPrevious,
}

/// A component that can take over, with an instance that has its ports.
pub struct Candidate {
    pub component: Component,
    pub description: Arc<Description>,
    pub instance: Box<Instance>,
    rehearsed: bool,
}

impl Candidate {
    /// Makes an instance and checks that it fits the running device, which it
    /// does not touch.
    pub fn new(
        component: &Component,
        running: &Description,
        ports: &[PortConfig],
        limits: Limits,
    ) -> Result<Self, SwapError> {
        let name = component.name();
        let description = component.describe()?;
        check_identity(name, running, &description)?;
        let reads = &description.saved_state_reads;
        if running
            .saved_state_writes
            .is_none_or(|format| !reads.contains(&format))
        {
            return Err(SwapError::Format {
                name: name.to_owned(),
                reads: reads.clone(),
                writes: running.saved_state_writes,
            });
        }
        let failed = |failure| SwapError::Failed(name.to_owned(), failure);
        let state = HostState::vacant(limits)
            .map_err(|error| failed(Failure::because(&error.to_string())))?;
        let made = Instance::new(component.code(), state);
        let mut instance = made.map_err(|(failure, _)| failed(failure))?;
        let configured = instance.configure(ports).map_err(failed)?;
        configured.map_err(|error| SwapError::Refused(name.to_owned(), error))?;
        Ok(Self {
            component: component.clone(),
            description: Arc::new(description),
            instance: Box::new(instance),
            rehearsed: false,
        })
    }

    /// Returns the host's side of its instance.
    pub fn state(&mut self) -> &mut HostState {
        self.instance.state()
    }

    /// Restores a state that is about to be superseded by a newer one.
    pub fn rehearse(&mut self, state: &[u8]) -> Result<(), SwapError> {
        restore(&self.component, &mut self.instance, state)?;
        self.rehearsed = true;
        Ok(())
    }

    /// Returns whether it has restored one.
    pub fn has_rehearsed(&self) -> bool {
        self.rehearsed
    }

    /// Returns whether the running component could continue from this one's state.
    pub fn check_way_back(&self, running: &Description) -> Result<(), SwapError> {
        let writes = self.description.saved_state_writes;
        let readable = writes.is_some_and(|format| running.saved_state_reads.contains(&format));
        if readable {
            Ok(())
        } else {
            Err(SwapError::NoWayBack(self.component.name().to_owned()))
        }
    }
}

/// Has an instance restore a state.
pub fn restore(
    component: &Component,
    instance: &mut Instance,
    state: &[u8],
) -> Result<(), SwapError> {
    let name = || component.name().to_owned();
    match instance.restore(state) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(refused)) => Err(SwapError::State(name(), refused)),
        Err(failure) => Err(SwapError::Failed(name(), failure)),
    }
}

fn check_identity(
    name: &str,
    running: &Description,
    candidate: &Description,
) -> Result<(), SwapError> {
    let differs = |what, running: String, candidate: String| SwapError::Identity {
        name: name.to_owned(),
        what,
        running,
        candidate,
    };
    let (a, b) = (running, candidate);
    if a.pci != b.pci {
        return Err(differs(
            "PCI identity",
            format!("{:x?}", a.pci),
            format!("{:x?}", b.pci),
        ));
    }
    if a.bars != b.bars {
        return Err(differs(
            "set of BARs",
            format!("{:?}", a.bars),
            format!("{:?}", b.bars),
        ));
    }
    if a.msix_vectors != b.msix_vectors {
        let (a, b) = (a.msix_vectors, b.msix_vectors);
        return Err(differs(
            "number of MSI-X vectors",
            a.to_string(),
            b.to_string(),
        ));
    }
    if a.doorbells != b.doorbells {
        return Err(differs(
            "doorbells",
            format!("{:?}", a.doorbells),
            format!("{:?}", b.doorbells),
        ));
    }
    Ok(())
}

/// A previous component, and the end of the time in which a failure brings it back.
#[derive(Clone, Debug)]
pub struct Previous {
    pub component: Component,
    pub description: Arc<Description>,
    pub until: Option<Instant>,
}

/// The components that a device can return to.
#[derive(Debug, Default)]
pub struct Swaps {
    pub previous: Option<Previous>,
}

impl Swaps {
    /// Returns the component to return to after a failure now, if the current one is in its
    /// probation. It is removed: a rollback can't be repeated.
    pub fn take_probation(&mut self) -> Option<Previous> {
        let in_time =
            |previous: &Previous| previous.until.is_some_and(|until| Instant::now() < until);
        if self.previous.as_ref().is_some_and(in_time) {
            self.previous.take()
        } else {
            None
        }
    }
}

/// Returns the version of the build that a description is of.
pub fn version(description: &Description) -> String {
    clean(&description.version.build, MAX_LINE)
}
