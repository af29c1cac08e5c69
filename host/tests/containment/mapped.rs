//! Guest memory that the embedder has mapped itself.

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use manatee::memory::MemoryRange;
use vm_memory::{FileOffset, MmapRegion};

use super::*;

#[derive(Debug)]
struct Mapped {
    region: MmapRegion,
    file: Option<File>,
}

// SAFETY: the region is mapped for reading and writing until it is dropped, it is the
// file's first bytes, and there are no references to it.
unsafe impl MemoryRange for Mapped {
    fn base(&self) -> NonNull<u8> {
        NonNull::new(self.region.as_ptr()).unwrap()
    }

    fn len(&self) -> usize {
        self.region.size()
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.file.as_ref().map(|file| (file.as_fd(), 0))
    }
}

#[test]
fn windows_lie_over_memory_whose_file_is_known() {
    for known in [true, false] {
        let machine = machine(true);
        let device = machine.device.clone();
        device.unmap_memory(0, MEMORY_SIZE).unwrap();
        let offset = FileOffset::new(machine.memory.try_clone().unwrap(), 0);
        let range = Arc::new(Mapped {
            region: MmapRegion::from_file(offset, MEMORY_SIZE as usize).unwrap(),
            file: known.then(|| machine.memory.try_clone().unwrap()),
        });
        device.map_memory_range(0, range.clone(), true).unwrap();
        device.config_write(COMMAND.0, &COMMAND.1);
        let mut machine = Unwired(machine);
        echo(&mut Driver::new(&mut machine)).unwrap();
        let tree = device.inspect();
        let windows = &tree["runtime"]["linear_memory"]["windows"];
        assert_eq!(windows.as_u64().unwrap() > 0, known);
        assert_eq!(tree["memory"]["regions"][0]["windows"], known);
        // It is unmapped with the guest's memory.
        assert_eq!(Arc::strong_count(&range), 2);
        device.detach();
        assert_eq!(Arc::strong_count(&range), 1);
    }
}
