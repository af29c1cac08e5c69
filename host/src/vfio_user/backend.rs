//! What a VMM asks for, carried out on a device.

use std::fs::File;
use std::io;

use rustix::io::Errno;
use vfio_bindings::bindings::vfio::VFIO_PCI_MSIX_IRQ_INDEX;
use vfio_user::{DmaMapFlags, DmaUnmapFlags, ServerBackend};

use super::irq_request::IrqRequest;
use super::layout::Region;
use super::throttle::Throttle;
use super::vectors::Vectors;
use crate::device::Device;

/// The largest access that a VMM may make: what the crate announces as
/// `max_data_xfer_size`.
const MAX_ACCESS: usize = 1 << 20;

/// One session with a VMM.
///
/// An error from here reaches the VMM as a refusal with error number 0, in a
/// message that has no body. The crate's own client (Cloud Hypervisor's) waits
/// for the body of the answer to a read and to an unmap, so those succeed
/// whenever possible, and what was wrong is in our log.
pub(super) struct Backend<'a> {
    device: &'a Device,
    vectors: &'a Vectors,
    throttle: &'a mut Throttle,
    /// The VMM has sent a request.
    greeted: bool,
    /// It was told that the guest's memory is out of reach.
    warned_unreachable: bool,
}

impl<'a> Backend<'a> {
    pub fn new(device: &'a Device, vectors: &'a Vectors, throttle: &'a mut Throttle) -> Self {
        Self {
            device,
            vectors,
            throttle,
            greeted: false,
            warned_unreachable: false,
        }
    }

    /// Whether a VMM used the device in this session.
    pub fn was_used(&self) -> bool {
        self.greeted
    }

    fn greet(&mut self) {
        if !self.greeted {
            self.greeted = true;
            self.inform("a VMM is attached");
        }
    }

    fn refuse(&mut self, what: &dyn std::fmt::Display, errno: Errno) -> io::Error {
        self.warn(what);
        errno.into()
    }

    fn warn(&mut self, what: &dyn std::fmt::Display) {
        if let Some(dropped) = self.throttle.pass() {
            tracing::warn!(dropped, "refused what the VMM asks for: {what}");
        }
    }

    fn inform(&mut self, what: &str) {
        if let Some(dropped) = self.throttle.pass() {
            tracing::info!(dropped, "{what}");
        }
    }

    fn warn_unreachable(&mut self, address: u64, size: u64) {
        if std::mem::replace(&mut self.warned_unreachable, true) {
            return;
        }
        tracing::error!(
            "the VMM shares guest memory {address:#x}+{size:#x} without a file descriptor, so \
             the device can't reach it and will not work. Give the guest shared memory: QEMU \
             `-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine \
             memory-backend=mem`, Cloud Hypervisor `--memory size=SIZE,shared=on`"
        );
    }

    fn msix(&mut self, request: IrqRequest, fds: Vec<File>) -> io::Result<()> {
        let vectors = self.vectors;
        match request {
            IrqRequest::Disable => vectors.clear(),
            IrqRequest::Fire(range) => vectors.trigger(range),
            IrqRequest::Deassign(range) => vectors.deassign(range),
            IrqRequest::Mask(range) => vectors.mask(range),
            IrqRequest::Unmask(range) => vectors.unmask(range),
            IrqRequest::Assign(range) => {
                let fds = fds.into_iter().map(Into::into).collect();
                let assigned = vectors.assign(range.start, fds);
                assigned.map_err(|error| self.refuse(&error, Errno::INVAL))?;
            }
        }
        Ok(())
    }
}

impl ServerBackend for Backend<'_> {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.greet();
        if data.len() > MAX_ACCESS {
            let what = format_args!("reading {} bytes at once", data.len());
            return Err(self.refuse(&what, Errno::INVAL));
        }
        match Region::from_index(region) {
            Region::Bar(bar) => self.device.bar_read(bar, offset, data),
            Region::Config => self.device.config_read(offset, data),
            Region::Absent => data.fill(0xff),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        self.greet();
        if data.len() > MAX_ACCESS {
            let what = format_args!("writing {} bytes at once", data.len());
            return Err(self.refuse(&what, Errno::INVAL));
        }
        match Region::from_index(region) {
            Region::Bar(bar) => self.device.bar_write(bar, offset, data),
            Region::Config => self.device.config_write(offset, data),
            Region::Absent => {}
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        self.greet();
        let writable = flags.contains(DmaMapFlags::WRITE);
        let shared = fd.is_some();
        tracing::debug!("guest memory {address:#x}+{size:#x}: shared={shared} writable={writable}");
        if !shared && writable {
            self.warn_unreachable(address, size);
        }
        let file = fd.map(|file| (file, offset));
        let mapped = self.device.map_memory(address, size, file, writable);
        mapped.map_err(|error| self.refuse(&error, Errno::INVAL))
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        self.greet();
        tracing::debug!("guest memory {address:#x}+{size:#x} is taken away: {flags:?}");
        if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            // Nothing to unmap is fine here, and no region can be cut in two.
            let _ = self.device.unmap_memory(0, u64::MAX);
        } else if let Err(error) = self.device.unmap_memory(address, size) {
            self.warn(&error);
        }
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.greet();
        self.inform("the VMM resets the device");
        self.device.reset();
        self.vectors.forget_pending();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        self.greet();
        let msix = index == VFIO_PCI_MSIX_IRQ_INDEX;
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
            Ok(request) if msix => self.msix(request, fds),
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
