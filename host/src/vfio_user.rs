//! Serves a device to a VMM in another process over vfio-user.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

pub use manatee_vfio_user::{
    Access, AssignError, BindError, HandedOver, Journal, Lost, MAX_DMA_MAPS, NoSession, Progress,
    ServeError, Server, Stopper, Suspended, VectorState, Vectors,
};
use manatee_vfio_user::{Backend, CONFIG_SPACE_SIZE, MemoryMap, Refused};
use rustix::io::Errno;

use crate::continuity::live::{LiveState, LiveVector, LostSession};
use crate::continuity::{self, HandOver};
use crate::device::{self, Device};
use crate::interrupt::VectorSink;
use crate::memory::{GuestFile, GuestMemory, MapError};

/// The limit that a client assumes if it is not told another.
const _: () = assert!(GuestMemory::MAX_REGIONS >= MAX_DMA_MAPS);
const _: () = assert!(crate::pci::CONFIG_SPACE_SIZE as u64 == CONFIG_SPACE_SIZE);

impl Backend for Device {
    fn bar_size(&self, bar: u8) -> u64 {
        Device::bar_size(self, bar)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        Device::bar_read(self, bar, offset, data);
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        Device::bar_write(self, bar, offset, data);
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        Device::config_read(self, offset, data);
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        Device::config_write(self, offset, data);
    }

    fn map_memory(&self, map: MemoryMap) -> Result<bool, Refused> {
        let MemoryMap {
            address,
            size,
            file,
            writable,
        } = map;
        let opened = file.map(|(file, offset)| {
            let file = GuestFile::new(file, address, size)?;
            Ok((file, offset))
        });
        let mapped = opened.transpose().and_then(|file| {
            let may_shrink = file.as_ref().is_some_and(|(file, _)| file.may_shrink());
            self.map_guest_file(address, size, file, writable)?;
            Ok(may_shrink)
        });
        mapped.map_err(|error| refused(map_errno(&error), &error))
    }

    fn unmap_memory(&self, address: u64, size: u64) -> Result<(), Refused> {
        let unmapped = Device::unmap_memory(self, address, size);
        unmapped.map_err(|error| refused(unmap_errno(&error), &error))
    }

    fn unmap_all_memory(&self) -> Result<(), Refused> {
        let unmapped = Device::unmap_all_memory(self);
        unmapped.map_err(|error| refused(unmap_errno(&error), &error))
    }

    fn raise(&self, vectors: Range<u16>) {
        Device::raise(self, vectors);
    }

    fn reset(&self) {
        Device::reset(self);
    }

    fn may_be_handed_over(&self) -> bool {
        self.may_be_given_away()
    }

    fn attach(&self) {
        Device::attach(self);
    }

    fn detach(&self) {
        Device::detach(self);
    }
}

/// Why a device and its vectors could not take over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The vectors.
    #[error("the interrupts: {0}")]
    Vectors(#[from] AssignError),
    /// The session.
    #[error("the session with the VMM: {0}")]
    Session(#[from] NoSession),
    /// The device.
    #[error(transparent)]
    Device(#[from] device::TakeOverError),
}

/// A device that could not be given away, and continues.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NotGiven {
    /// Why.
    #[source]
    pub error: device::GiveAwayError,
    /// The session that was to be handed over, for another server of this process to resume.
    pub session: Option<Suspended>,
}

/// Gives a device away with its vectors and the session that its server has
/// [handed over](Stopper::hand_over). See [`continuity`].
///
/// # Errors
///
/// [`NotGiven`], with the session; the device continues, and another server can resume it.
pub fn give_away(
    device: &Device,
    vectors: &Vectors,
    session: Option<Suspended>,
) -> Result<HandOver, Box<NotGiven>> {
    let mut hand_over = match continuity::give_away(device) {
        Ok(hand_over) => hand_over,
        Err(error) => return Err(Box::new(NotGiven { error, session })),
    };
    // From here on the device raises no interrupts.
    let saved = match vectors.save() {
        Ok(saved) => saved,
        Err(error) => {
            hand_over.take_back(device);
            let error = error.into();
            return Err(Box::new(NotGiven { error, session }));
        }
    };
    let saved = saved.into_iter().map(|state| continuity::Vector {
        vector: state.vector,
        eventfd: state.eventfd,
        masked: state.masked,
        pending: state.pending,
    });
    hand_over.set_vectors(saved.collect());
    if let Some(session) = session {
        hand_over.set_session(continuity::Session {
            connection: session.connection,
            attached: session.attached,
            received: session.received,
            descriptors: session.descriptors,
        });
    }
    Ok(hand_over)
}

/// How a session with a VMM continues that another process served.
#[derive(Debug)]
pub enum Session {
    /// It was handed over between two messages: [`Server::resume`].
    Suspended(Suspended),
    /// The process died: [`Server::recover`].
    Lost(Lost),
}

/// Has a live state keep a device with its vectors from now on.
///
/// # Errors
///
/// If something can't be stored.
pub fn record(live: &LiveState, device: &Device, vectors: &Vectors) -> io::Result<()> {
    device.record(live);
    Journal::vectors(live, vectors)
}

impl Journal for LiveState {
    fn opened(&self, connection: BorrowedFd<'_>) -> io::Result<()> {
        self.open_session(connection)
    }

    fn attached(&self) {
        self.note_attached();
    }

    fn closed(&self) {
        self.close_session();
    }

    fn progress(&self) -> Progress {
        Progress::from_word(LiveState::progress(self)).unwrap_or(Progress::Idle { done: 0 })
    }

    fn set_progress(&self, progress: Progress) {
        let begins = matches!(
            progress,
            Progress::Executing { .. } | Progress::Posted { .. }
        );
        LiveState::set_progress(self, progress.to_word(), begins);
    }

    fn set_answer(&self, answer: &[u8]) {
        self.write_answer(answer);
    }

    fn answer(&self) -> Vec<u8> {
        LiveState::answer(self)
    }

    fn pipe(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        LiveState::pipe(self)
    }

    fn vectors(&self, vectors: &Vectors) -> io::Result<()> {
        let saved = vectors.save()?;
        let each = saved.iter().map(|state| LiveVector {
            vector: state.vector,
            eventfd: state.eventfd.as_ref().map(AsFd::as_fd),
            assignment: state.assignment,
            masked: state.masked,
        });
        self.set_vectors(&each.collect::<Vec<_>>())
    }
}

/// Has a device and its vectors take over. Returns the session for [`Server::resume`], if there
/// was one, and how long the device was paused.
///
/// # Errors
///
/// [`TakeOverError`]; nothing has touched the guest.
pub fn take_over(
    mut hand_over: HandOver,
    device: &Device,
    vectors: &Vectors,
) -> Result<(Option<Session>, Duration), TakeOverError> {
    let session = match hand_over.take_lost_session() {
        Some(lost) => Some(Session::Lost(recovered(lost)?)),
        None => hand_over.take_session().map(suspended).transpose()?,
    };
    let saved = hand_over
        .take_vectors()
        .into_iter()
        .map(|vector| VectorState {
            vector: vector.vector,
            eventfd: vector.eventfd,
            assignment: 0,
            masked: vector.masked,
            pending: vector.pending,
        });
    vectors.restore(saved.collect())?;
    let pause = hand_over.take_over(device)?;
    Ok((session, pause))
}

fn suspended(session: continuity::Session) -> Result<Session, NoSession> {
    let suspended = Suspended {
        connection: session.connection,
        attached: session.attached,
        received: session.received,
        descriptors: session.descriptors,
    };
    suspended.check()?;
    Ok(Session::Suspended(suspended))
}

fn recovered(lost: LostSession) -> Result<Lost, NoSession> {
    let progress = Progress::from_word(lost.progress);
    let progress = progress.ok_or(NoSession::Progress(lost.progress))?;
    let lost = Lost {
        connection: lost.connection,
        attached: lost.attached,
        progress,
        answer: lost.answer,
        took_effect: lost.took_effect,
    };
    lost.check()?;
    Ok(lost)
}

fn refused(errno: Errno, error: &MapError) -> Refused {
    Refused {
        errno,
        reason: error.to_string(),
    }
}

/// Returns the error number for a refused mapping.
fn map_errno(error: &MapError) -> Errno {
    match error {
        MapError::Overlaps(..) => Errno::EXIST,
        MapError::TooMany
        | MapError::TooManyInProcess
        | MapError::TooManyFiles
        | MapError::TooLarge { .. } => Errno::NOSPC,
        MapError::ReadOnlyFile(..) => Errno::ACCESS,
        _ => Errno::INVAL,
    }
}

/// Returns the error number for a refused unmapping.
fn unmap_errno(error: &MapError) -> Errno {
    match error {
        MapError::InReach(_) => Errno::IO,
        _ => Errno::INVAL,
    }
}

impl VectorSink for Vectors {
    fn raise(&self, vector: u16) {
        Vectors::raise(self, vector);
    }

    fn is_pending(&self, vector: u16) -> bool {
        Vectors::is_pending(self, vector)
    }

    fn raise_late(&self, vector: u16) {
        Vectors::raise_late(self, vector);
    }

    fn hurry(&self) {
        Vectors::hurry(self);
    }

    fn forget(&self) {
        self.forget_pending();
    }
}
