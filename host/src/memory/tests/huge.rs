//! Memory of huge pages, which the kernel must have available.

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate};

use super::*;

const HUGE: u64 = 2 << 20;
const COUNT: u64 = 2;

/// Huge pages that were reserved, and are freed at the end.
struct Pool {
    before: u64,
    /// Held so that no other test changes their number meanwhile.
    _lock: File,
}

impl Pool {
    const KNOB: &str = "/proc/sys/vm/nr_hugepages";

    fn number(text: &str) -> u64 {
        text.trim().parse().unwrap()
    }

    /// Creates a pool with enough pages; None if the kernel has too few.
    fn new() -> Option<Self> {
        let lock = File::open(Self::KNOB).ok()?;
        lock.lock().ok()?;
        let before = Self::number(&std::fs::read_to_string(Self::KNOB).ok()?);
        let pool = Self {
            before,
            _lock: lock,
        };
        std::fs::write(Self::KNOB, (before + COUNT).to_string()).ok()?;
        let have = Self::number(&std::fs::read_to_string(Self::KNOB).ok()?);
        (have >= before + COUNT).then_some(pool)
    }

    /// Returns how many pages are free.
    fn free() -> u64 {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("HugePages_Free:"));
        Self::number(line.unwrap())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::KNOB, self.before.to_string());
    }
}

#[test]
fn regions_may_begin_and_end_inside_huge_pages() {
    let Some(_pool) = Pool::new() else {
        let line = "skipped regions_may_begin_and_end_inside_huge_pages: the kernel has no huge \
        pages left (/proc/sys/vm/nr_hugepages)\n";
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = File::from(rustix::fs::memfd_create("huge", flags).unwrap());
    file.set_len(COUNT * HUGE).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, COUNT * HUGE).unwrap();
    let free = Pool::free();
    let mut memory = GuestMemory::new();
    let mut map = |at, size, offset, writable| {
        let shared = file.try_clone().unwrap();
        memory.map(at, size, shared, offset, writable).unwrap();
    };
    // As QEMU shares its memory around the holes of a PC.
    map(0, 0xa_0000, 0, true);
    map(0xc_0000, PAGE_SIZE, 0xc_0000, false);
    map(0xc_1000, 2 * HUGE - 0xc_1000, 0xc_1000, true);

    let sent = pattern(3 * PAGE_SIZE as usize);
    let across = HUGE - PAGE_SIZE - 100;
    memory.write(across, &sent).unwrap();
    let mut seen = vec![0; sent.len()];
    memory.read(across, &mut seen).unwrap();
    assert_eq!(seen, sent);
    assert!(memory.write(0xc_0000, &[1]).is_err());
    assert_eq!(memory.page(0xc_1000).unwrap_err(), NoWindow::Unsupported);
    assert_eq!(memory.page(0xc_0000).unwrap_err(), NoWindow::NotMemory);
    for region in memory.regions() {
        assert_eq!((region.page_size, region.windows), (HUGE, false));
    }

    // Dropping the VMM's descriptor releases the last reference to the pages.
    drop(file);
    assert_eq!(Pool::free(), free);
    memory.unmap(0, 0xa_0000).unwrap();
    memory.unmap(0xc_0000, 2 * HUGE - 0xc_0000).unwrap();
    assert_eq!(Pool::free(), free + COUNT, "they are freed");
}
