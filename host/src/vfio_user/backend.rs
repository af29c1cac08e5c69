//! What a VMM asks for, carried out on a device.

use std::fs::File;

use rustix::io::Errno;
use vfio_bindings::bindings::vfio::VFIO_PCI_MSIX_IRQ_INDEX;

use super::Rations;
use super::irq_request::IrqRequest;
use super::layout::Region;
use super::vectors::Vectors;
use super::wire::{DmaMap, DmaUnmap, SetIrqs};
use crate::closer::Foreign;
use crate::device::Device;
use crate::memory::MapError;

/// One session with a VMM.
///
/// An error from here is a refusal without a body. Cloud Hypervisor's client
/// waits for the body of the answer to an unmap, so that succeeds whatever it
/// names, and what was wrong is in our log.
pub(super) struct Backend<'a> {
    device: &'a Device,
    vectors: &'a Vectors,
    rations: &'a mut Rations,
    /// The VMM has sent a request.
    greeted: bool,
    /// It was told that the guest's memory is out of reach.
    warned_unreachable: bool,
}

impl<'a> Backend<'a> {
    pub fn new(device: &'a Device, vectors: &'a Vectors, rations: &'a mut Rations) -> Self {
        Self {
            device,
            vectors,
            rations,
            greeted: false,
            warned_unreachable: false,
        }
    }

    /// Whether a VMM used the device in this session.
    pub fn was_used(&self) -> bool {
        self.greeted
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// Its MSI-X vectors.
    pub fn vectors(&self) -> &Vectors {
        self.vectors
    }

    /// A request came.
    pub fn greet(&mut self) {
        if !self.greeted {
            self.greeted = true;
            self.inform("a VMM is attached");
        }
    }

    fn refuse(&mut self, what: &dyn std::fmt::Display, errno: Errno) -> Errno {
        self.warn(what);
        errno
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

    fn msix(&mut self, request: IrqRequest, fds: Vec<Foreign>) -> Result<(), Errno> {
        let vectors = self.vectors;
        match request {
            IrqRequest::Disable => vectors.clear(),
            IrqRequest::Fire(range) => {
                // There are at most 2048.
                self.device.raise(range.start as u16..range.end as u16);
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
            Region::Bar(bar) => self.device.bar_read(bar, offset, data),
            Region::Config => self.device.config_read(offset, data),
            Region::Absent => data.fill(0xff),
        }
    }

    /// Writes a region.
    pub fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) {
        self.greet();
        match Region::from_index(region) {
            Region::Bar(bar) => self.device.bar_write(bar, offset, data),
            Region::Config => self.device.config_write(offset, data),
            Region::Absent => {}
        }
    }

    /// Takes over guest memory.
    ///
    /// # Errors
    ///
    /// What the VMM is told.
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
        let file = file.map(|file| (file, offset));
        let mapped = self.device.map_memory(address, size, file, writable);
        mapped.map_err(|error| {
            let errno = match error {
                MapError::Overlaps(..) => Errno::EXIST,
                _ => Errno::INVAL,
            };
            self.refuse(&error, errno)
        })
    }

    /// Gives guest memory up.
    pub fn dma_unmap(&mut self, unmap: &DmaUnmap) {
        self.greet();
        let &DmaUnmap {
            flags,
            address,
            size,
            ..
        } = unmap;
        tracing::debug!("guest memory {address:#x}+{size:#x} is taken away: {flags:#x}");
        if flags & DmaUnmap::ALL != 0 {
            // Nothing to unmap is fine here, and no region can be cut in two.
            let _ = self.device.unmap_memory(0, u64::MAX);
        } else if let Err(error) = self.device.unmap_memory(address, size) {
            self.warn(&error);
        }
    }

    /// Resets the device.
    pub fn reset(&mut self) {
        self.greet();
        self.inform("the VMM resets the device");
        self.device.reset();
        self.vectors.forget_pending();
    }

    /// Changes what becomes of interrupts.
    ///
    /// # Errors
    ///
    /// What the VMM is told.
    pub fn set_irqs(&mut self, set: &SetIrqs, fds: Vec<Foreign>) -> Result<(), Errno> {
        self.greet();
        let &SetIrqs {
            flags,
            index,
            start,
            count,
            ..
        } = set;
        let vectors = super::layout::irq_count(index, self.vectors.count());
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
