//! A device moves to another process: this one is replaced, and the guest notices a pause.
//!
//! The process that has the device [gives it away](give_away), which pauses it, and hands the
//! named descriptors that come of it ([`HandOver::into_descriptors`]) to its successor, by
//! whatever way it has: over `execve`, by a socket, or by a service manager that keeps them.
//! That one reads and checks them ([`HandOver::from_descriptors`]), makes a device of the same
//! ports, and lets it [take over](HandOver::take_over).
//!
//! ```text
//!  predecessor                                     successor
//!  give_away ──> HandOver ──> descriptors ──> HandOver ──> take_over
//!    pause        state, guest memory, eventfds,    check    map, restore, continue
//!                 the VMM's connection, ...
//! ```
//!
//! Until it takes over, nothing has touched the guest, and the predecessor can continue
//! ([`Device::resume`]). The state is marked when the successor begins to, so that nobody takes
//! it a second time. What is read is taken for hostile: it has a version, a checksum and bounds,
//! and every number is checked.
//!
//! A successor that was started meanwhile can find out before whether it will do: a predecessor
//! [offers](offer) what it has as copies, without a pause, and the successor
//! [rehearses](HandOver::rehearse) with that.
//!
//! What a port's endpoint is made of is its owner's affair: a TAP's descriptors go along by
//! names of the caller's own ([`HandOver::add`]). What waits in the TAP waits there. Packets
//! that were read from a TAP with several queues and wait for posted buffers, and what a loopback has
//! not sent back yet, are lost.

mod error;
mod format;
mod limits;
mod state_file;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::component::{Component, Digest};
use crate::device::{Device, DeviceState, GiveAwayError, Limits, Port, TakeOverError};

pub use error::OfferError;
pub use limits::{BUILD, VERSION, WRITES};
use state_file::StateFile;

/// The name of the descriptor that has the state.
pub const STATE: &str = "state";
/// The most bytes of the caller's own that go along ([`HandOver::set_notes`]).
pub const MAX_NOTES: usize = 64 << 10;

/// An MSI-X vector as a VMM set it up.
#[derive(Debug)]
pub struct Vector {
    /// Its number.
    pub vector: u16,
    /// The eventfd that the VMM gave it.
    pub eventfd: Option<OwnedFd>,
    /// The VMM has masked it.
    pub masked: bool,
    /// It was raised and is held back.
    pub pending: bool,
}

/// A session with a VMM over vfio-user, between two messages.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub connection: OwnedFd,
    /// Whether the VMM has used the device.
    pub attached: bool,
    /// What was received of the next messages.
    pub received: Vec<u8>,
    /// The descriptors that came along, each with the place behind its byte in `received`.
    pub descriptors: Vec<(u64, OwnedFd)>,
}

/// A device on its way to another process.
#[derive(Debug)]
pub struct HandOver {
    device: DeviceState,
    /// When it was paused, on a clock that all processes share.
    begun: Duration,
    /// The version of the build that gave it away.
    build: String,
    vectors: Vec<Vector>,
    session: Option<Session>,
    notes: Vec<u8>,
    others: Vec<(String, OwnedFd)>,
    /// What it was read from.
    file: Option<StateFile>,
    /// The device continues where it is: this is for a rehearsal.
    offered: bool,
}

/// Offers a device, which continues: what comes of it is good for a [rehearsal](HandOver::rehearse),
/// and nobody can take over by it.
///
/// # Errors
///
/// [`GiveAwayError`].
pub fn offer(device: &Device) -> Result<HandOver, GiveAwayError> {
    let mut offer = HandOver::new(device.offer()?);
    offer.offered = true;
    Ok(offer)
}

/// Gives a device away: it is paused from now on, and a successor in another process continues
/// where it is. If there is none in the end, [`Device::resume`] has this one continue.
///
/// # Errors
///
/// [`GiveAwayError`]; the device continues.
pub fn give_away(device: &Device) -> Result<HandOver, GiveAwayError> {
    let begun = now();
    let mut given = HandOver::new(device.give_away()?);
    given.begun = begun;
    Ok(given)
}

impl HandOver {
    fn new(device: DeviceState) -> Self {
        Self {
            device,
            begun: now(),
            build: BUILD.to_owned(),
            vectors: Vec::new(),
            session: None,
            notes: Vec::new(),
            others: Vec::new(),
            file: None,
            offered: false,
        }
    }

    /// Returns named descriptors: the [state](STATE), the files of the guest's memory, and what
    /// was added.
    ///
    /// # Errors
    ///
    /// The kernel's, if there is no memory or no descriptor left, and if the notes are longer
    /// than [`MAX_NOTES`].
    pub fn into_descriptors(self) -> std::io::Result<Vec<(String, OwnedFd)>> {
        format::pack(self)
    }

    /// Reads what another process has given away. What is not known here can be
    /// [taken](Self::take) by its name.
    ///
    /// # Errors
    ///
    /// [`OfferError`]; the descriptors are closed, of which whoever tries again keeps copies.
    pub fn from_descriptors(descriptors: Vec<(String, OwnedFd)>) -> Result<Self, OfferError> {
        format::unpack(descriptors)
    }

    /// Adds a descriptor of the caller's own.
    pub fn add(&mut self, name: impl Into<String>, descriptor: OwnedFd) {
        self.others.push((name.into(), descriptor));
    }

    /// Takes a descriptor of the caller's own.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let place = self.others.iter().position(|(own, _)| own == name)?;
        Some(self.others.swap_remove(place).1)
    }

    /// Adds bytes of the caller's own, up to [`MAX_NOTES`] of them.
    pub fn set_notes(&mut self, notes: Vec<u8>) {
        self.notes = notes;
    }

    /// Returns the caller's own bytes.
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }

    /// Returns which component ran. A successor runs it too, or one that reads its states.
    pub fn component(&self) -> Digest {
        self.device.component
    }

    /// Returns the version of the library that gave the device away.
    pub fn build(&self) -> &str {
        &self.build
    }

    /// Adds how a VMM has set the vectors up.
    pub fn set_vectors(&mut self, vectors: Vec<Vector>) {
        self.vectors = vectors;
    }

    /// Takes how a VMM has set the vectors up, which comes before [`take_over`](Self::take_over):
    /// the device may raise some at once.
    pub fn take_vectors(&mut self) -> Vec<Vector> {
        std::mem::take(&mut self.vectors)
    }

    /// Adds a session with a VMM.
    pub fn set_session(&mut self, session: Session) {
        self.session = Some(session);
    }

    /// Takes the session with a VMM.
    pub fn take_session(&mut self) -> Option<Session> {
        self.session.take()
    }

    /// Has the device continue that was given away, as nobody takes it over.
    pub fn take_back(self, device: &Device) {
        if !self.device.paused {
            device.resume();
        }
    }

    /// Checks that a device of this component and these ports could take over, as far as that can be
    /// seen without touching the guest: its memory is mapped, and an instance restores the state
    /// and lays its windows, as private ones.
    ///
    /// # Errors
    ///
    /// [`TakeOverError`].
    pub fn rehearse(
        self,
        component: &Component,
        ports: &[Port],
        limits: Limits,
    ) -> Result<(), TakeOverError> {
        self.device.rehearse(component, ports, limits)
    }

    /// Returns whether the device continues where it is, and this is for a
    /// [rehearsal](Self::rehearse).
    pub fn is_offer(&self) -> bool {
        self.offered
    }

    /// Has a device continue, which was just made, with the same ports. Memory that the
    /// predecessor's caller had mapped itself is mapped already. From now on the predecessor
    /// must not continue. Returns how long the device stood still.
    ///
    /// # Errors
    ///
    /// [`TakeOverError`]; the device is at power-on, nothing has touched the guest, and another
    /// can try.
    pub fn take_over(self, device: &Device) -> Result<Duration, TakeOverError> {
        let Self {
            device: state,
            begun,
            file,
            offered,
            ..
        } = self;
        if offered {
            return Err(TakeOverError::Offered);
        }
        let file = file.as_ref();
        file.map_or(Ok(()), |file| file.set_taken(true))?;
        let taken = device.take_over(state);
        if taken.is_err() {
            // If this fails, nobody can try again, which is safe.
            let _ = file.map_or(Ok(()), |file| file.set_taken(false));
        }
        taken?;
        let pause = now().saturating_sub(begun);
        device.note_hand_over(pause);
        Ok(pause)
    }
}

/// Returns the time on a clock that all processes of the machine share.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}
