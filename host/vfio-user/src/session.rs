//! The session with one VMM: answers its requests until it disconnects.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::answers::{self, Place};
use crate::attachment::Attachment;
use crate::connection::{Broken, Message, Received, Receiver, Unread};
use crate::halt::Halt;
use crate::journal::{Progress, Unfinished};
use crate::layout::{self, Region};
use crate::wire::{
    Command, DeviceInfo, DmaUnmap, Header, IrqInfo, MAX_ACCESS, MAX_DESCRIPTORS, MAX_KEPT_ACCESS,
    RegionAccess, RegionInfo, SetIrqs, VERSION, Version,
};

mod lost;

/// When to ask again whether the session may be handed over.
const AGAIN: Duration = Duration::from_millis(2);

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The VMM has closed the connection.
    Closed,
    /// A stop was requested, between two messages.
    Halted(Unread),
}

/// What a session begins with.
#[derive(Debug)]
pub(super) enum Start {
    /// The next message, of which something may have been received.
    Next(Unread),
    /// What a server that died has left.
    Lost(Unfinished),
}

/// Serves a VMM until it closes the connection, or until it is asked to stop.
///
/// # Errors
///
/// [`Broken`] if the session fails first.
pub(super) fn run(
    socket: BorrowedFd<'_>,
    attachment: &mut Attachment<'_>,
    halt: &Halt,
    start: Start,
) -> Result<End, Broken> {
    let (unread, lost) = match start {
        Start::Next(unread) => (unread, None),
        Start::Lost(lost) => (Unread::default(), Some(lost)),
    };
    let mut receiver = Receiver::new(socket.as_fd(), halt, unread);
    let journal = attachment.journal();
    let mut session = Session {
        socket,
        max_access: journal.map_or(MAX_ACCESS, |_| MAX_KEPT_ACCESS),
        attachment,
        answer: Vec::new(),
        place: Place::default(),
        took_effect: false,
    };
    match (journal, lost) {
        (Some(journal), Some(lost)) => session.continue_lost(&mut receiver, journal, lost)?,
        (Some(journal), None) => receiver.keep(journal)?,
        (None, _) => {}
    }
    loop {
        if receiver.is_kept() && session.attachment.journal().is_none() {
            receiver.leave_journal()?;
        }
        let mut until = session.attachment.vectors().next_late();
        if halt.is_asked() {
            if session.attachment.backend().may_be_handed_over() {
                return Ok(End::Halted(receiver.stop()?));
            }
            let again = Instant::now() + AGAIN;
            until = Some(until.map_or(again, |until| until.min(again)));
        }
        match receiver.receive(until)? {
            Received::Message(message) => session.serve(message)?,
            Received::Nothing => {}
            Received::Closed => return Ok(End::Closed),
        }
        session.attachment.vectors().deliver_late(Instant::now());
    }
}

struct Session<'a, 'b> {
    socket: BorrowedFd<'a>,
    attachment: &'a mut Attachment<'b>,
    /// The answer; keeps its allocation.
    answer: Vec<u8>,
    /// The longest region access in bytes.
    max_access: usize,
    /// The message in progress.
    place: Place,
    /// It had its effect on the device before another server died.
    took_effect: bool,
}

impl Session<'_, '_> {
    fn serve(&mut self, message: Message<'_>) -> Result<(), Broken> {
        let header = message.header;
        self.place = Place::of(&message);
        if let Some(write) = posted_write(&message, self.max_access) {
            if !header.no_reply() {
                self.answer_posted(&header, &write)?;
            }
            self.carry_out_posted(&write);
        } else {
            self.begin(Place::executing);
            self.answer.clear();
            self.answer.resize(size_of::<Header>(), 0);
            match self.carry_out(message) {
                Ok(()) => self.reply(&header)?,
                Err(errno) => self.refuse(&header, errno)?,
            }
        }
        self.note(Place::finished);
        Ok(())
    }

    /// Answers a write to a BAR before it is carried out, which is posted as on a PCI bus: the
    /// VMM is not kept waiting meanwhile, and its next request comes behind it.
    fn answer_posted(&mut self, header: &Header, write: &Write<'_>) -> Result<(), Broken> {
        self.answer.clear();
        self.answer.resize(size_of::<Header>(), 0);
        self.answer.extend(write.access.as_bytes());
        self.reply(header)
    }

    fn carry_out_posted(&mut self, write: &Write<'_>) {
        self.begin(Place::posted);
        self.write(write);
    }

    /// Notes that the message in progress begins to be carried out. If it had its effect before
    /// another server died, that stays noted: the journal would forget it with a new request.
    fn begin(&mut self, progress: impl FnOnce(Place) -> Progress) {
        if !self.took_effect {
            self.note(progress);
        }
    }

    /// Notes how far the message in progress has come.
    fn note(&self, progress: impl FnOnce(Place) -> Progress) {
        if let Some(journal) = self.attachment.journal() {
            journal.set_progress(progress(self.place));
        }
    }

    fn write(&mut self, write: &Write<'_>) {
        let access = write.access;
        if self.took_effect {
            self.attachment.greet();
        } else {
            self.attachment
                .region_write(access.region, access.offset, write.data);
        }
    }

    fn reply(&mut self, header: &Header) -> Result<(), Broken> {
        if header.no_reply() {
            return Ok(());
        }
        let body = self.answer.len() - size_of::<Header>();
        self.send(header.reply(body))
    }

    fn refuse(&mut self, header: &Header, errno: Errno) -> Result<(), Broken> {
        let wanted =
            !header.no_reply() || Command::from_wire(header.command).is_none_or(Command::asks);
        if !wanted {
            return Ok(());
        }
        let body = self.answer.len() - size_of::<Header>();
        self.send(header.refusal(errno.raw_os_error(), body))
    }

    fn send(&mut self, header: Header) -> Result<(), Broken> {
        self.answer[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        let journal = self.attachment.journal();
        answers::send(journal, self.socket, self.place, &self.answer)
    }

    /// Carries a message out, and appends the body of the answer, or of the refusal, to
    /// `self.answer`.
    fn carry_out(&mut self, message: Message<'_>) -> Result<(), Errno> {
        let Message {
            header,
            body,
            descriptors,
            ..
        } = message;
        let command = Command::from_wire(header.command).ok_or(Errno::NOTSUP)?;
        if command.asks() && header.no_reply() {
            return Err(Errno::INVAL);
        }
        let attachment = &mut *self.attachment;
        match command {
            Command::Version => {
                let (version, capabilities) = split::<Version>(body)?;
                check_version(version, capabilities)?;
                self.answer_version();
            }
            Command::DmaMap => {
                let (map, _) = split(body)?;
                let mut descriptors = descriptors.into_iter();
                let file = descriptors.next();
                if descriptors.len() > 0 {
                    return Err(Errno::INVAL);
                }
                if self.took_effect {
                    attachment.greet();
                    return Ok(());
                }
                attachment.dma_map(&map, file.map(|file| file.keep().into()))?;
            }
            Command::DmaUnmap => {
                let (mut unmap, _) = split::<DmaUnmap>(body)?;
                let unmapped = if self.took_effect {
                    attachment.greet();
                    Ok(())
                } else {
                    attachment.dma_unmap(&unmap)
                };
                // Cloud Hypervisor's client waits for the body whatever the header says,
                // and QEMU's takes it. An entry of no size is what was unmapped.
                if unmapped.is_err() {
                    unmap.size = 0;
                }
                self.answer.extend(unmap.as_bytes());
                unmapped?;
            }
            Command::DeviceGetInfo => {
                attachment.greet();
                self.answer.extend(device_info().as_bytes());
            }
            Command::DeviceGetRegionInfo => {
                let (wanted, _) = split::<RegionInfo>(body)?;
                let info =
                    layout::region(attachment.backend(), wanted.index).ok_or(Errno::INVAL)?;
                self.answer.extend(info.as_bytes());
            }
            Command::DeviceGetIrqInfo => {
                let (wanted, _) = split::<IrqInfo>(body)?;
                let info =
                    layout::irq(wanted.index, attachment.vectors().count()).ok_or(Errno::INVAL)?;
                self.answer.extend(info.as_bytes());
            }
            Command::DeviceSetIrqs => {
                let (set, _) = split::<SetIrqs>(body)?;
                attachment.set_irqs(&set, descriptors)?;
                attachment.note_vectors();
            }
            Command::RegionRead => {
                let (access, _) = split::<RegionAccess>(body)?;
                let count = checked(&access, self.max_access)?;
                self.answer.extend(access.as_bytes());
                let data = self.answer.len();
                self.answer.resize(data + count, 0);
                attachment.region_read(access.region, access.offset, &mut self.answer[data..]);
            }
            Command::RegionWrite => {
                let write = Write::of(body, self.max_access)?;
                self.write(&write);
                self.answer.extend(write.access.as_bytes());
            }
            Command::DeviceReset => attachment.reset(),
        }
        Ok(())
    }

    fn answer_version(&mut self) {
        let (major, minor) = VERSION;
        self.answer.extend(Version { major, minor }.as_bytes());
        let capabilities = serde_json::json!({
            "capabilities": {
                "max_msg_fds": MAX_DESCRIPTORS,
                "max_data_xfer_size": self.max_access,
            }
        });
        self.answer.extend(capabilities.to_string().as_bytes());
        self.answer.push(0);
    }
}

/// A write to a region.
struct Write<'a> {
    access: RegionAccess,
    data: &'a [u8],
}

impl<'a> Write<'a> {
    fn of(body: &'a [u8], max_access: usize) -> Result<Self, Errno> {
        let (access, data) = split::<RegionAccess>(body)?;
        let count = checked(&access, max_access)?;
        let data = data.get(..count).ok_or(Errno::INVAL)?;
        Ok(Self { access, data })
    }
}

/// Returns the write to a BAR that a message is, if it is a good one.
fn posted_write<'a>(message: &Message<'a>, max_access: usize) -> Option<Write<'a>> {
    if Command::from_wire(message.header.command) != Some(Command::RegionWrite) {
        return None;
    }
    let write = Write::of(message.body, max_access).ok()?;
    matches!(Region::from_index(write.access.region), Region::Bar(_)).then_some(write)
}

/// Returns how many bytes an access has, if it has no more than `max_access`.
fn checked(access: &RegionAccess, max_access: usize) -> Result<usize, Errno> {
    let count = access.count as usize;
    if layout::has_region(access.region) && count <= max_access {
        Ok(count)
    } else {
        Err(Errno::INVAL)
    }
}

/// Splits a body into the structure that it begins with, and the rest.
fn split<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Result<(T, &[u8]), Errno> {
    T::read_from_prefix(body).map_err(|_| Errno::INVAL)
}

/// Checks a VMM's version: another major version is another protocol. The VMM's capabilities
/// do not matter to a server that never sends requests.
fn check_version(version: Version, capabilities: &[u8]) -> Result<(), Errno> {
    if version.major != VERSION.0 {
        return Err(Errno::NOTSUP);
    }
    if capabilities.is_empty() {
        return Ok(());
    }
    let text = CStr::from_bytes_with_nul(capabilities).map_err(|_| Errno::INVAL)?;
    let parsed = serde_json::from_slice::<serde_json::Value>(text.to_bytes());
    match parsed {
        Ok(value) if value.is_object() => Ok(()),
        _ => Err(Errno::INVAL),
    }
}

fn device_info() -> DeviceInfo {
    DeviceInfo {
        argsz: size_of::<DeviceInfo>() as u32,
        flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
        num_regions: layout::REGIONS,
        num_irqs: layout::IRQS,
    }
}
