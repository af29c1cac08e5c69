//! Carries out a VMM's requests on a backend.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use vfio_bindings::bindings::vfio::VFIO_PCI_MSIX_IRQ_INDEX;

use manatee_common::closer::Foreign;

use crate::answers;
use crate::backend::{Backend, MemoryMap, Refused};
use crate::connection::{Broken, Unread};
use crate::irq_request::IrqRequest;
use crate::journal::Journal;
use crate::layout::Region;
use crate::rations::Rations;
use crate::vectors::Vectors;
use crate::wire::{DmaMap, DmaUnmap, SetIrqs};

/// One session with a VMM. Its methods return the errors that the VMM is answered with.
pub(crate) struct Attachment<'a> {
    backend: &'a dyn Backend,
    vectors: &'a Vectors,
    rations: &'a mut Rations,
    /// Where the session is noted.
    journal: Option<&'a dyn Journal>,
    /// The VMM has sent a request.
    greeted: bool,
    /// The log has said that the guest's memory is out of reach.
    warned_unreachable: bool,
    /// The log has said that the files the VMM shares can shrink.
    reported_unsealed: bool,
}

impl<'a> Attachment<'a> {
    pub fn new(backend: &'a dyn Backend, vectors: &'a Vectors, rations: &'a mut Rations) -> Self {
        Self {
            backend,
            vectors,
            rations,
            journal: None,
            greeted: false,
            warned_unreachable: false,
            reported_unsealed: false,
        }
    }

    /// Notes that this session continues one of another server, in which a VMM used the device.
    pub fn resume(&mut self) {
        self.greeted = true;
        self.backend.attach();
        self.inform("the session with the VMM continues");
    }

    /// Opens a journal for the session, or continues without if that fails.
    /// What was received of a message by a process without a journal is in this one only.
    pub fn open_journal(
        &mut self,
        journal: &'a dyn Journal,
        connection: BorrowedFd<'_>,
        unread: &Unread,
    ) {
        let opened = match unread.bytes.is_empty() {
            true => answers::prepare(journal, connection),
            false => Err(io::Error::other(
                "a message was received in part before it began",
            )),
        };
        let opened = opened.and_then(|()| journal.opened(connection));
        let opened = opened.and_then(|()| {
            // What another server knew of it.
            if self.greeted {
                journal.vectors(self.vectors)?;
                journal.attached();
            }
            Ok(())
        });
        self.journal = Some(journal);
        if let Err(error) = opened {
            self.close_journal(&error);
        }
    }

    /// Continues with the journal of a server that died.
    pub fn reopen_journal(&mut self, journal: &'a dyn Journal) {
        self.journal = Some(journal);
    }

    /// Returns the journal of the session, if it has one.
    pub fn journal(&self) -> Option<&'a dyn Journal> {
        self.journal
    }

    fn close_journal(&mut self, error: &io::Error) {
        if let Some(journal) = self.journal.take() {
            journal.closed();
        }
        if let Some(dropped) = self.rations.journals.pass() {
            tracing::warn!(
                dropped,
                "this session with a VMM will not survive the end of this process: {error}"
            );
        }
    }

    /// Notes the vectors in the journal. The session continues without one if that fails.
    pub fn note_vectors(&mut self) {
        let noted = self.journal.map(|journal| journal.vectors(self.vectors));
        if let Some(Err(error)) = noted {
            self.close_journal(&error);
        }
    }

    /// Returns whether a VMM used the device in this session.
    pub fn was_used(&self) -> bool {
        self.greeted
    }

    /// Reports how the session ended.
    pub fn report(&mut self, outcome: Result<(), Broken>) {
        if outcome.is_ok() && !self.greeted {
            // Somebody only probed whether the server is there: not worth a line, however often.
            return;
        }
        let Some(dropped) = self.rations.sessions.pass() else {
            return;
        };
        match outcome {
            Ok(()) => tracing::info!(dropped, "the VMM is gone; ready for the next"),
            Err(error) => tracing::warn!(
                dropped,
                "a session with a VMM failed: {error}; ready for the next"
            ),
        }
    }

    /// Returns the backend that the VMM drives.
    pub fn backend(&self) -> &dyn Backend {
        self.backend
    }

    /// Returns its MSI-X vectors.
    pub fn vectors(&self) -> &Vectors {
        self.vectors
    }

    /// Notes that a request arrived.
    pub fn greet(&mut self) {
        if !self.greeted {
            self.greeted = true;
            self.backend.attach();
            if let Some(journal) = self.journal {
                journal.attached();
            }
            self.inform("a VMM is attached");
        }
    }

    fn refuse(&mut self, what: &dyn std::fmt::Display, errno: Errno) -> Errno {
        self.warn(what);
        errno
    }

    fn pass_on(&mut self, refused: &Refused) -> Errno {
        self.refuse(refused, refused.errno)
    }

    fn warn(&mut self, what: &dyn std::fmt::Display) {
        if let Some(dropped) = self.rations.refusals.pass() {
            tracing::warn!(dropped, "refused what the VMM asks for: {what}");
        }
    }

    fn inform(&mut self, what: &str) {
        if let Some(dropped) = self.rations.sessions.pass() {
            tracing::info!(dropped, "{what}");
        }
    }

    fn warn_unreachable(&mut self, address: u64, size: u64) {
        if std::mem::replace(&mut self.warned_unreachable, true) {
            return;
        }
        let Some(dropped) = self.rations.memory.pass() else {
            return;
        };
        tracing::error!(
            dropped,
            "the VMM shares guest memory {address:#x}+{size:#x} without a file descriptor, so \
             the device can't reach it and will not work. Give the guest shared memory: QEMU \
             `-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine \
             memory-backend=mem`, Cloud Hypervisor `--memory size=SIZE,shared=on`"
        );
    }

    /// Warns, once a session, that the VMM loses its device if it shrinks a file.
    fn report_unsealed(&mut self, address: u64, size: u64) {
        if std::mem::replace(&mut self.reported_unsealed, true) {
            return;
        }
        tracing::info!(
            "the file behind guest memory {address:#x}+{size:#x} is not sealed against becoming \
             shorter (F_SEAL_SHRINK). If it does while it is shared, the device ends"
        );
    }

    fn msix(&mut self, request: IrqRequest, fds: Vec<Foreign>) -> Result<(), Errno> {
        let vectors = self.vectors;
        match request {
            IrqRequest::Disable => vectors.clear(),
            IrqRequest::Fire(range) => {
                // There are at most 2048.
                self.backend.raise(range.start as u16..range.end as u16);
            }
            IrqRequest::Deassign(range) => vectors.deassign(range),
            IrqRequest::Mask(range) => vectors.mask(range),
            IrqRequest::Unmask(range) => vectors.unmask(range),
            IrqRequest::Assign(range) => {
                let assigned = vectors.assign(range.start, fds);
                assigned.map_err(|error| self.refuse(&error, Errno::INVAL))?;
            }
        }
        Ok(())
    }

    /// Reads a region.
    pub fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) {
        self.greet();
        match Region::from_index(region) {
            Region::Bar(bar) => self.backend.bar_read(bar, offset, data),
            Region::Config => self.backend.config_read(offset, data),
            Region::Absent => data.fill(0xff),
        }
    }

    /// Writes a region.
    pub fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) {
        self.greet();
        match Region::from_index(region) {
            Region::Bar(bar) => self.backend.bar_write(bar, offset, data),
            Region::Config => self.backend.config_write(offset, data),
            Region::Absent => {}
        }
    }

    /// Maps guest memory.
    ///
    /// # Errors
    ///
    /// The error to answer with.
    pub fn dma_map(&mut self, map: &DmaMap, file: Option<File>) -> Result<(), Errno> {
        self.greet();
        let &DmaMap {
            flags,
            offset,
            address,
            size,
            ..
        } = map;
        let writable = flags & DmaMap::WRITE != 0;
        let shared = file.is_some();
        tracing::debug!("guest memory {address:#x}+{size:#x}: shared={shared} writable={writable}");
        if !shared && writable {
            self.warn_unreachable(address, size);
        }
        let map = MemoryMap {
            address,
            size,
            file: file.map(|file| (file, offset)),
            writable,
        };
        match self.backend.map_memory(map) {
            Ok(true) => self.report_unsealed(address, size),
            Ok(false) => {}
            Err(refused) => return Err(self.pass_on(&refused)),
        }
        Ok(())
    }

    /// Unmaps guest memory. When it returns, the device can't reach it any more.
    ///
    /// # Errors
    ///
    /// The error to answer with; nothing changes.
    pub fn dma_unmap(&mut self, unmap: &DmaUnmap) -> Result<(), Errno> {
        self.greet();
        let &DmaUnmap {
            flags,
            address,
            size,
            ..
        } = unmap;
        tracing::debug!("guest memory {address:#x}+{size:#x} is taken away: {flags:#x}");
        if flags & !DmaUnmap::ALL != 0 {
            let what = format_args!(
                "unmapping {address:#x}+{size:#x} with flags {flags:#x}, of which {:#x} are known",
                DmaUnmap::ALL
            );
            return Err(self.refuse(&what, Errno::INVAL));
        }
        if flags == 0 {
            let unmapped = self.backend.unmap_memory(address, size);
            return unmapped.map_err(|refused| self.pass_on(&refused));
        }
        if (address, size) != (0, 0) {
            let what = format_args!(
                "unmapping all memory, but also {address:#x}+{size:#x}; both are 0 for all"
            );
            return Err(self.refuse(&what, Errno::INVAL));
        }
        let unmapped = self.backend.unmap_all_memory();
        unmapped.map_err(|refused| self.pass_on(&refused))
    }

    /// Resets the device.
    pub fn reset(&mut self) {
        self.greet();
        self.inform("the VMM resets the device");
        self.backend.reset();
        self.vectors.forget_pending();
    }

    /// Changes how interrupts are delivered.
    ///
    /// # Errors
    ///
    /// The error to answer with.
    pub fn set_irqs(&mut self, set: &SetIrqs, fds: Vec<Foreign>) -> Result<(), Errno> {
        self.greet();
        let &SetIrqs {
            flags,
            index,
            start,
            count,
            ..
        } = set;
        let vectors = crate::layout::irq_count(index, self.vectors.count());
        let request = IrqRequest::new(flags, start, count, fds.len(), vectors);
        tracing::debug!(
            index,
            flags,
            start,
            count,
            fds = fds.len(),
            "interrupts: {request:?}"
        );
        match request {
            Ok(request) if index == VFIO_PCI_MSIX_IRQ_INDEX => self.msix(request, fds),
            Ok(_) => Ok(()),
            Err(errno) => {
                let what = format_args!(
                    "interrupts {start}+{count} of index {index}, which has {vectors}, with \
                     flags {flags:#x} and {} descriptors",
                    fds.len(),
                );
                Err(self.refuse(&what, errno))
            }
        }
    }
}
