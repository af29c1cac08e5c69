//! Moves a device to another process while this one is replaced; the guest notices only a pause.
//!
//! The process that has the device [gives it away](give_away), which pauses it, and passes the
//! resulting named descriptors ([`HandOver::into_descriptors`]) to its successor: over `execve`,
//! over a socket, or through a service manager that keeps them. The successor reads and checks
//! them ([`HandOver::from_descriptors`]), creates a device with the same ports, and has it
//! [take over](HandOver::take_over).
//!
//! ```text
//!  predecessor                                     successor
//!  give_away ──> HandOver ──> descriptors ──> HandOver ──> take_over
//!    pause        state, guest memory, eventfds,    check    map, restore, continue
//!                 the VMM's connection, ...
//! ```
//!
//! Until it takes over, nothing has touched the guest, and the predecessor can continue
//! ([`Device::resume`]). The state is marked when the successor begins to take over, so that
//! nobody uses it a second time. It is treated as hostile input: it has a version, a checksum
//! and bounds, and every number is checked.
//!
//! A successor that is started while its predecessor still runs can find out in advance whether
//! it can take over: the predecessor [offers](offer) copies, without a pause, and the successor
//! [rehearses](HandOver::rehearse) with them.
//!
//! A port's endpoint is its owner's responsibility: a TAP's descriptors are passed under names
//! of the caller's own ([`HandOver::add`]). Packets in the TAP's queue stay there. Packets that
//! were read from a TAP with several queues and wait for posted buffers, and packets that a
//! loopback has not sent back yet, are lost.

mod error;
pub(crate) mod format;
mod limits;
pub mod live;
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

/// The name of the descriptor with the state.
pub const STATE: &str = "state";
/// The most bytes of the caller's own that are passed along ([`HandOver::set_notes`]).
pub const MAX_NOTES: usize = 64 << 10;

/// An MSI-X vector as a VMM configured it.
#[derive(Debug)]
pub struct Vector {
    /// Its number.
    pub vector: u16,
    /// The eventfd that the VMM assigned.
    pub eventfd: Option<OwnedFd>,
    /// Whether the VMM has masked it.
    pub masked: bool,
    /// Whether it was raised and not delivered yet.
    pub pending: bool,
}

/// A session with a VMM over vfio-user, between two messages.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub connection: OwnedFd,
    /// Whether the VMM has used the device.
    pub attached: bool,
    /// The bytes of further messages that were received.
    pub received: Vec<u8>,
    /// The descriptors that came with them, each with the offset in `received` after its byte.
    pub descriptors: Vec<(u64, OwnedFd)>,
}

/// A device that is handed over to another process.
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
    /// The file that it was read from.
    file: Option<StateFile>,
    /// Whether the device still runs, and this is for a rehearsal.
    offered: bool,
    /// What a process left that died.
    lost: Option<live::Lost>,
}

/// Offers a device, which continues: the result serves for a [rehearsal](HandOver::rehearse)
/// only, and nobody can take over with it.
///
/// # Errors
///
/// [`GiveAwayError`].
pub fn offer(device: &Device) -> Result<HandOver, GiveAwayError> {
    let mut offer = HandOver::new(device.offer()?);
    offer.offered = true;
    Ok(offer)
}

/// Gives a device away: pauses it, so that a successor in another process can continue it. If
/// none does, [`Device::resume`] continues it here.
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
            lost: None,
        }
    }

    /// Returns named descriptors: the [state](STATE), the files of the guest's memory, and those
    /// that were added.
    ///
    /// # Errors
    ///
    /// If the process is out of memory or descriptors, or the notes are longer than
    /// [`MAX_NOTES`].
    pub fn into_descriptors(self) -> std::io::Result<Vec<(String, OwnedFd)>> {
        format::pack(self)
    }

    /// Reads a device that another process has given away. Descriptors with unknown names are the
    /// caller's, see [`take`](Self::take).
    ///
    /// # Errors
    ///
    /// [`OfferError`]; the descriptors are closed, so keep copies to try again.
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

    /// Returns which component ran. A successor runs the same one, or one that reads its states.
    pub fn component(&self) -> Digest {
        self.device.component
    }

    /// Returns the version of the library that gave the device away.
    pub fn build(&self) -> &str {
        &self.build
    }

    /// Adds the vectors as a VMM configured them.
    pub fn set_vectors(&mut self, vectors: Vec<Vector>) {
        self.vectors = vectors;
    }

    /// Takes the vectors as a VMM configured them. Restore them before
    /// [`take_over`](Self::take_over): the device may raise some at once.
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

    /// Takes the session with a VMM whose server died.
    pub fn take_lost_session(&mut self) -> Option<live::LostSession> {
        self.lost.as_mut()?.session.take()
    }

    /// Takes what the next live state begins with, if the process before this one died.
    pub fn take_follow(&mut self) -> Option<live::Follow> {
        let lost = self.lost.as_mut()?;
        lost.follow.take()
    }

    /// Resumes the device that was given away, because nobody takes it over.
    pub fn take_back(self, device: &Device) {
        if !self.device.paused {
            device.resume();
        }
    }

    /// Checks that a device with this component and these ports could take over, as far as possible
    /// without touching the guest: maps its memory, and restores the state in an instance whose
    /// windows are private mappings.
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

    /// Returns whether the device still runs, and this is for a [rehearsal](Self::rehearse).
    pub fn is_offer(&self) -> bool {
        self.offered
    }

    /// Takes the device over with `device`, which was just created with the same ports. Memory that
    /// the predecessor's caller had mapped itself must be mapped already. From now on the
    /// predecessor must not continue. Returns how long the device was paused.
    ///
    /// # Errors
    ///
    /// [`TakeOverError`]; the device is at power-on, nothing has touched the guest, and another
    /// attempt is possible.
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
        // Nobody noted when a process died.
        if begun.is_zero() {
            return Ok(Duration::ZERO);
        }
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
