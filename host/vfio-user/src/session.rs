//! The session with one VMM: answers its requests until it disconnects.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::attachment::Attachment;
use crate::connection::{Broken, Message, Received, Receiver, Unread, send_all};
use crate::halt::Halt;
use crate::layout::{self, Region};
use crate::wire::{
    Command, DeviceInfo, DmaUnmap, Header, IrqInfo, MAX_ACCESS, MAX_DESCRIPTORS, RegionAccess,
    RegionInfo, SetIrqs, VERSION, Version,
};
/// The interval at which the backend is asked whether the session may be handed over.
const AGAIN: Duration = Duration::from_millis(2);

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The VMM has closed the connection.
    Closed,
    /// A stop was requested, between two messages.
    Halted(Unread),
}

/// Serves a VMM until it closes the connection, or until a stop is requested.
///
/// # Errors
///
/// [`Broken`] if the session fails first.
pub(super) fn run(
    socket: BorrowedFd<'_>,
    attachment: &mut Attachment<'_>,
    halt: &Halt,
    unread: Unread,
) -> Result<End, Broken> {
    let mut receiver = Receiver::new(socket.as_fd(), halt, unread);
    let mut session = Session {
        socket,
        attachment,
        answer: Vec::new(),
    };
    loop {
        let mut until = session.attachment.vectors().next_late();
        if halt.is_asked() {
            if session.attachment.backend().may_be_handed_over() {
                return Ok(End::Halted(receiver.into_unread()));
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
    /// The body of the answer, after room for its header; keeps its allocation.
    answer: Vec<u8>,
}

impl Session<'_, '_> {
    fn serve(&mut self, message: Message<'_>) -> Result<(), Broken> {
        let header = message.header;
        if let Some(write) = posted_write(&message) {
            return self.post(&header, write);
        }
        self.answer.clear();
        self.answer.resize(size_of::<Header>(), 0);
        match self.carry_out(message) {
            Ok(()) => self.reply(&header),
            Err(errno) => self.refuse(&header, errno),
        }
    }

    /// Posts a write to a BAR, as on a PCI bus: it is answered before it is carried out, so that
    /// the VMM does not wait; its next request is carried out afterwards.
    fn post(&mut self, header: &Header, write: Write<'_>) -> Result<(), Broken> {
        self.answer.clear();
        self.answer.resize(size_of::<Header>(), 0);
        self.answer.extend(write.access.as_bytes());
        self.reply(header)?;
        let Write { access, data } = write;
        self.attachment
            .region_write(access.region, access.offset, data);
        Ok(())
    }

    fn reply(&mut self, header: &Header) -> Result<(), Broken> {
        if header.no_reply() {
            return Ok(());
        }
        let body = self.answer.len() - size_of::<Header>();
        let header = header.reply(body);
        self.answer[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        send_all(self.socket, &self.answer)
    }

    fn refuse(&mut self, header: &Header, errno: Errno) -> Result<(), Broken> {
        let wanted =
            !header.no_reply() || Command::from_wire(header.command).is_none_or(Command::asks);
        if !wanted {
            return Ok(());
        }
        let body = self.answer.len() - size_of::<Header>();
        let header = header.refusal(errno.raw_os_error(), body);
        self.answer[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        send_all(self.socket, &self.answer)
    }

    /// Carries a message out, and appends the body of the answer, or of the refusal, to
    /// `self.answer`.
    fn carry_out(&mut self, message: Message<'_>) -> Result<(), Errno> {
        let Message {
            header,
            body,
            descriptors,
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
                attachment.dma_map(&map, file.map(|file| file.keep().into()))?;
            }
            Command::DmaUnmap => {
                let (mut unmap, _) = split::<DmaUnmap>(body)?;
                let unmapped = attachment.dma_unmap(&unmap);
                // Cloud Hypervisor's client waits for the body whatever the header says, and QEMU's
                // accepts it. A size of 0 says that nothing was unmapped.
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
            }
            Command::RegionRead => {
                let (access, _) = split::<RegionAccess>(body)?;
                let count = checked(&access)?;
                self.answer.extend(access.as_bytes());
                let data = self.answer.len();
                self.answer.resize(data + count, 0);
                attachment.region_read(access.region, access.offset, &mut self.answer[data..]);
            }
            Command::RegionWrite => {
                let write = Write::of(body)?;
                let access = write.access;
                attachment.region_write(access.region, access.offset, write.data);
                self.answer.extend(access.as_bytes());
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
                "max_data_xfer_size": MAX_ACCESS,
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
    fn of(body: &'a [u8]) -> Result<Self, Errno> {
        let (access, data) = split::<RegionAccess>(body)?;
        let count = checked(&access)?;
        let data = data.get(..count).ok_or(Errno::INVAL)?;
        Ok(Self { access, data })
    }
}

/// Returns the write to a BAR, if the message is a valid one.
fn posted_write<'a>(message: &Message<'a>) -> Option<Write<'a>> {
    if Command::from_wire(message.header.command) != Some(Command::RegionWrite) {
        return None;
    }
    let write = Write::of(message.body).ok()?;
    matches!(Region::from_index(write.access.region), Region::Bar(_)).then_some(write)
}

/// Checks an access, and returns its length in bytes.
fn checked(access: &RegionAccess) -> Result<usize, Errno> {
    let count = access.count as usize;
    if layout::has_region(access.region) && count <= MAX_ACCESS {
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
