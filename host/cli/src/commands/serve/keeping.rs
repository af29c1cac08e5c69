//! Stores everything that a successor needs with the service manager while this process serves, since
//! it may die at any time.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use manatee::continuity::live::{DescriptorStore, Follow, LiveState, next_number};
use manatee::vfio_user;
use manatee_control as control;
use parking_lot::Mutex;

use super::kept::{self, Notes, full_name};
use super::listed::Listed;
use super::served::Served;
use super::sockets::Sockets;
use crate::commands::candidates::Candidates;
use crate::commands::links::Links;
use crate::commands::metrics;
use crate::commands::notify::Notifier;
use crate::commands::rates::Rates;

/// The service manager's store of descriptors.
#[derive(Debug)]
struct Store(Arc<Notifier>);

impl DescriptorStore for Store {
    fn store(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let kept = self.0.keep(&full_name(name), descriptor);
        kept.map_err(|error| io::Error::other(format!("{error:#}")))
    }

    fn remove(&self, name: &str) {
        self.0.forget(&full_name(name));
    }
}

/// The device's live state, and what accompanies it.
pub struct Keeping {
    live: LiveState,
    links: Arc<Links>,
    rates: Arc<Rates>,
    candidates: Arc<Candidates>,
    /// Names of the components that are kept.
    components: Mutex<BTreeSet<String>>,
}

/// The parts of a [`Keeping`].
pub struct Material<'a> {
    pub notifier: &'a Arc<Notifier>,
    pub device: &'a Served,
    pub sockets: &'a Sockets,
    pub metrics: Option<&'a metrics::Socket>,
    pub taps: &'a [(String, OwnedFd)],
    pub listed: Listed,
    pub links: &'a Arc<Links>,
    pub rates: &'a Arc<Rates>,
    pub candidates: &'a Arc<Candidates>,
    /// Names of what is kept of a predecessor.
    pub kept: &'a [String],
}

impl Keeping {
    /// Stores everything, also what a predecessor left that died.
    fn begin(material: &Material<'_>, follow: Option<Follow>) -> anyhow::Result<Self> {
        let &Material {
            notifier,
            device,
            kept,
            ..
        } = material;
        let own = |name: &'_ String| name.strip_prefix(kept::PREFIX).map(str::to_owned);
        let names: BTreeSet<String> = kept.iter().filter_map(own).collect();
        let number = next_number(names.iter().map(String::as_str));
        let store = Box::new(Store(notifier.clone()));
        let live = match follow {
            Some(follow) => LiveState::follow(store, number, follow)?,
            None => LiveState::new(store, number)?,
        };
        for (name, descriptor) in material.sockets_and_queues()? {
            if !names.contains(&name) {
                live.add(&name, descriptor.as_fd());
            }
        }
        vfio_user::record(&live, &device.device, &device.vectors)?;
        let components = names.into_iter().filter(|name| kept::is_component(name));
        let keeping = Self {
            live,
            links: material.links.clone(),
            rates: material.rates.clone(),
            candidates: material.candidates.clone(),
            components: Mutex::new(components.collect()),
        };
        keeping.note();
        notifier.wait_until_heard()?;
        keeping.live.activate();
        Ok(keeping)
    }

    /// Records the operator's settings and the components that were swapped in.
    pub fn note(&self) {
        let mut notes = Notes {
            links: self.links.forced(),
            rates: self.rates.noted(),
            ..Notes::default()
        };
        let mut components = self.components.lock();
        let mut kept = BTreeSet::new();
        for (swapped, wasm) in self.candidates.all().unwrap_or_default() {
            let name = kept::component_name(swapped.sha256);
            if !components.contains(&name) {
                self.live.add(&name, wasm.as_fd());
            }
            kept.insert(name);
            notes.candidates.push(swapped);
        }
        for name in components.difference(&kept) {
            self.live.remove(name);
        }
        *components = kept;
        self.live
            .set_notes(&serde_json::to_vec(&notes).unwrap_or_default());
    }

    /// Returns the live state.
    pub fn live(&self) -> &LiveState {
        &self.live
    }
}

impl Material<'_> {
    /// Stores everything from now on. None if nobody stores descriptors, or if that fails, which is
    /// logged: the device is served all the same.
    pub fn keep(&self, follow: Option<Follow>) -> Option<Keeping> {
        if !self.notifier.keeps_descriptors() {
            return None;
        }
        let begun = Keeping::begin(self, follow);
        // From now on a predecessor's state is older than the device.
        let passes = |name: &&String| !is_lasting(name);
        let older = self.kept.iter().filter(passes);
        older.for_each(|name| self.notifier.forget(name));
        begun
            .inspect_err(|error| {
                tracing::error!(
                    "the device can't be kept with the service manager ({error:#}): it is served, \
                     and would not survive the death of this process"
                );
            })
            .ok()
    }

    /// Returns copies of the descriptors whose names are the same in each process.
    fn sockets_and_queues(&self) -> anyhow::Result<Vec<(String, OwnedFd)>> {
        let mut all = Vec::new();
        if !self.listed.vfio {
            all.push((
                kept::VFIO.to_owned(),
                self.sockets.vfio.stopper().listener()?,
            ));
        }
        if let Some(control) = self
            .sockets
            .control
            .as_ref()
            .filter(|_| !self.listed.control)
        {
            all.push((kept::CONTROL.to_owned(), control::Server::copy(control)?));
        }
        if let Some(metrics) = self.metrics {
            all.push((kept::METRICS.to_owned(), metrics.copy()?));
        }
        for (name, queue) in self.taps {
            all.push((name.clone(), queue.try_clone()?));
        }
        Ok(all)
    }
}

/// Returns whether a name is the same in each process.
fn is_lasting(name: &str) -> bool {
    let name = name.strip_prefix(kept::PREFIX).unwrap_or(name);
    kept::is_open(name) || kept::is_component(name)
}
