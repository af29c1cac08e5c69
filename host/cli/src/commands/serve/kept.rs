//! The descriptors that a predecessor stored with the service manager, for this process to continue.

use std::os::fd::OwnedFd;

use anyhow::{Context, ensure};
use manatee::component::Digest;
use manatee::continuity::live::PREFIX as PREFIX_OF_LIVE;
use manatee::continuity::{HandOver, OfferError, STATE};
use serde::{Deserialize, Serialize};

use super::source::Source;

/// The prefix of the names of descriptors that a process leaves for the next one.
pub const PREFIX: &str = "manatee-";
/// The names of the descriptors that `manatee serve` adds to the library's.
pub const VFIO: &str = "listener-vfio";
pub const CONTROL: &str = "listener-control";
pub const METRICS: &str = "listener-metrics";
pub const COMPONENT: &str = "component";
/// The prefix of the names of TAPs' queues.
const QUEUE: &str = "tap-";
/// The library's name of the VMM's connection.
const SESSION: &str = "session";

/// The notes that accompany a device, in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// The operator's setting of each link.
    pub links: Vec<Option<bool>>,
    /// The operator's rate of each port, set at run time: 0 for no limit.
    #[serde(default)]
    pub rates: Vec<Option<u32>>,
    /// The component that was swapped in, if one was.
    pub component: Option<Swapped>,
    /// All that were swapped in last; the state tells which of them ran.
    #[serde(default)]
    pub candidates: Vec<Swapped>,
}

/// A component that was swapped in. Its bytes are behind a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swapped {
    pub name: String,
    pub sha256: [u8; 32],
}

/// Descriptors that a predecessor has left, by their names without the prefix.
#[derive(Debug, Default)]
pub struct Kept(Vec<(String, OwnedFd)>);

/// A device to continue with.
#[derive(Debug)]
pub struct Predecessor {
    pub hand_over: HandOver,
    pub notes: Notes,
}

impl Kept {
    /// Takes those with the prefix, and returns the others.
    pub fn sort(listed: Vec<(String, OwnedFd)>) -> (Self, Vec<(String, OwnedFd)>) {
        let (kept, others) = listed
            .into_iter()
            .partition::<Vec<_>, _>(|(name, _)| name.starts_with(PREFIX));
        let strip = |(name, fd): (String, OwnedFd)| (name[PREFIX.len()..].to_owned(), fd);
        (Self(kept.into_iter().map(strip).collect()), others)
    }

    /// Returns their names, with the prefix, to have them removed.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| full_name(name)).collect()
    }

    /// Returns whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    /// Returns whether a predecessor recorded its device while it served.
    pub fn has_live(&self) -> bool {
        self.0
            .iter()
            .any(|(name, _)| name.starts_with(PREFIX_OF_LIVE))
    }

    /// Takes one by its name.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let place = self.0.iter().position(|(own, _)| own == name)?;
        Some(self.0.swap_remove(place).1)
    }

    /// Takes the queues of a port's TAP, in their order.
    pub fn take_queues(&mut self, port: usize) -> Vec<OwnedFd> {
        (0..)
            .map_while(|queue| self.take(&queue_name(port, queue)))
            .collect()
    }

    /// Closes copies of what this process has opened already.
    pub fn close_copies(&mut self) {
        self.0.retain(|(name, _)| !is_open(name));
    }

    /// Returns the device to continue with: the one that was handed over, or the one of a process
    /// that died. None if the device starts at power-on.
    ///
    /// # Errors
    ///
    /// If what was left is invalid, or of another device. It stays with the service manager.
    pub fn read(self) -> anyhow::Result<Option<Predecessor>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let lost = |why: &str| {
            tracing::warn!(
                "{why}: the adapter begins anew, and a VMM that was attached is cut off"
            );
        };
        let sessions = self.0.iter().filter(|(name, _)| is_session(name));
        let sessions: Vec<_> = sessions
            .map(|(_, fd)| fd.try_clone())
            .collect::<Result<_, _>>()?;
        // Another process may have a copy of the connection.
        let cut_off = || {
            for session in sessions {
                let _ = rustix::net::shutdown(session, rustix::net::Shutdown::Both);
            }
        };
        let read = self.hand_over().with_context(|| {
            "what the process before this one has left can't be used, and stays with the \
             service manager; to begin anew, stop the service for good and start it again"
        });
        let Some(hand_over) = read? else {
            lost("the process before this one has left no device to continue with");
            cut_off();
            return Ok(None);
        };
        let notes = serde_json::from_slice(hand_over.notes());
        let notes = notes.context("what the process before this one has noted")?;
        Ok(Some(Predecessor { hand_over, notes }))
    }
}

impl Kept {
    /// Reads the device that was handed over; if there is none, or its successor took it over and
    /// died, the one that was recorded last.
    fn hand_over(self) -> Result<Option<HandOver>, OfferError> {
        if self.has(STATE) {
            let copy = |(name, fd): &(String, OwnedFd)| Ok((name.clone(), fd.try_clone()?));
            let copies: std::io::Result<Vec<_>> = self.0.iter().map(copy).collect();
            match HandOver::from_descriptors(copies?) {
                Err(OfferError::Taken) => {}
                read => return read.map(Some),
            }
        }
        let others = self.0.into_iter().filter(|(name, _)| !is_open(name));
        HandOver::from_live(others.collect())
    }
}

impl Predecessor {
    /// Returns the component that was swapped in and has to run, if one was.
    fn swapped(&self) -> Option<(Swapped, String)> {
        if let Some(swapped) = &self.notes.component {
            return Some((swapped.clone(), COMPONENT.to_owned()));
        }
        let ran = self.hand_over.component();
        let mut all = self.notes.candidates.iter();
        let swapped = all.find(|candidate| Digest(candidate.sha256) == ran)?;
        Some((swapped.clone(), component_name(swapped.sha256)))
    }

    /// Takes the component that was swapped in, if there was one.
    ///
    /// # Errors
    ///
    /// If they are missing, or have another digest.
    pub fn take_component(&mut self) -> anyhow::Result<Option<Source>> {
        let Some((Swapped { name, sha256 }, kept)) = self.swapped() else {
            return Ok(None);
        };
        let file = self.hand_over.take(&kept);
        let file = file.with_context(|| format!("the bytes of {name} are missing"))?;
        let wasm = crate::jail::sealed::read(&file.into(), manatee::component::MAX_FILE)?;
        let source = Source::new(&wasm, name)?;
        let Source { name, digest, .. } = &source;
        ensure!(
            *digest == Digest(sha256),
            "the bytes of {name} are not those that ran"
        );
        Ok(Some(source))
    }
}

/// Returns the name that a descriptor has with the service manager.
pub fn full_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Returns whether a name is that of a VMM's connection.
fn is_session(name: &str) -> bool {
    name == SESSION || name.starts_with(PREFIX_OF_LIVE) && name.contains("-session-")
}

/// Returns whether a name is one of a listening socket or of a TAP's queue.
pub fn is_open(name: &str) -> bool {
    [VFIO, CONTROL, METRICS].contains(&name) || name.starts_with(QUEUE)
}

/// Returns the name of the bytes of a component.
pub fn component_name(sha256: [u8; 32]) -> String {
    format!("{COMPONENT}-{}", Digest(sha256))
}

/// Returns whether a name is one of [`component_name`].
pub fn is_component(name: &str) -> bool {
    let digest = name.strip_prefix(COMPONENT);
    digest.is_some_and(|digest| digest.starts_with('-'))
}

/// Returns the name of a queue of a port's TAP.
pub fn queue_name(port: usize, queue: usize) -> String {
    format!("{QUEUE}{port}-{queue}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Vec<(String, OwnedFd)> {
        let named = |name: &&str| ((*name).to_owned(), tempfile::tempfile().unwrap().into());
        names.iter().map(named).collect()
    }

    #[test]
    fn descriptors_are_told_apart_by_their_prefix() {
        let names = [
            "vfio",
            "manatee-tap-0-1",
            "manatee-tap-0-0",
            "manatee-tap-1-1",
        ];
        let (mut kept, others) = Kept::sort(listed(&names));
        assert_eq!(others.len(), 1);
        assert!(kept.has("tap-0-1"));
        assert_eq!(kept.take_queues(0).len(), 2);
        assert!(kept.take_queues(1).is_empty(), "the first is missing");
        assert_eq!(kept.names(), ["manatee-tap-1-1"]);
    }

    #[test]
    fn without_a_state_the_adapter_begins_anew() {
        let (kept, _) = Kept::sort(Vec::new());
        assert!(kept.read().unwrap().is_none());
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let session = (
            "manatee-session".to_owned(),
            ours.try_clone().unwrap().into(),
        );
        let (kept, _) = Kept::sort(vec![session]);
        assert!(kept.read().unwrap().is_none());
        // The VMM notices, although another process has a copy of the connection.
        let mut byte = [0];
        assert_eq!(std::io::Read::read(&mut &theirs, &mut byte).unwrap(), 0);
        drop(ours);
    }

    #[test]
    fn state_that_is_none_stays_where_it_is() {
        let (kept, _) = Kept::sort(listed(&["manatee-state"]));
        let error = format!("{:#}", kept.read().unwrap_err());
        assert!(error.contains("stays with the service manager"), "{error}");
        assert!(error.contains("too short"), "{error}");
    }
}
