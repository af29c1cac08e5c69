//! A guest whose memory is huge pages, which have no windows.

use std::io::Write;

use manatee_conformance::guest::Guest;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::*;

const HUGE: u64 = 2 << 20;
const KNOB: &str = "/proc/sys/vm/nr_hugepages";
/// The bounds of a PC's memory hole, where QEMU splits regions inside a huge page.
const HOLE: [u64; 2] = [0xa_0000, 0xc_0000];

/// Huge pages that were reserved, and are freed at the end.
struct Pool {
    before: u64,
    /// Held so that no other test changes their number meanwhile.
    _lock: File,
}

impl Pool {
    fn pages() -> Option<u64> {
        std::fs::read_to_string(KNOB).ok()?.trim().parse().ok()
    }

    /// Reserves this many more. Returns `None` if the kernel has too few.
    fn new(count: u64) -> Option<Self> {
        let lock = File::open(KNOB).ok()?;
        lock.lock().ok()?;
        let before = Self::pages()?;
        let pool = Self {
            before,
            _lock: lock,
        };
        std::fs::write(KNOB, (before + count).to_string()).ok()?;
        (Self::pages()? >= before + count).then_some(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = std::fs::write(KNOB, self.before.to_string());
    }
}

/// A machine whose memory is mapped here too, since files of huge pages have no `write`.
struct HugeMachine {
    machine: Machine,
    memory: MmapRegion,
}

impl Guest for HugeMachine {
    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        self.machine.read_register(offset, width)
    }

    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        self.machine.write_register(offset, width, value);
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        let slice = self.memory.get_slice(address as usize, data.len());
        assert_eq!(slice.unwrap().copy_to(data), data.len());
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        let slice = self.memory.get_slice(address as usize, data.len());
        slice.unwrap().copy_from(data);
    }

    fn take_interrupts(&mut self) -> Vec<u16> {
        self.machine.take_interrupts()
    }
}

#[test]
fn a_guest_in_huge_pages_carries_packets_by_copies() {
    let size = MEMORY_SIZE.next_multiple_of(HUGE);
    let Some(_pool) = Pool::new(size / HUGE) else {
        let line = "skipped a_guest_in_huge_pages_carries_packets_by_copies: the kernel has no \
                    huge pages left (/proc/sys/vm/nr_hugepages)\n";
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = File::from(memfd_create("huge", flags).unwrap());
    file.set_len(size).unwrap();
    let offset = FileOffset::new(file.try_clone().unwrap(), 0);
    let memory = MmapRegion::from_file(offset, size as usize).unwrap();

    let machine = machine(true);
    let device = machine.device.clone();
    device.unmap_memory(0, MEMORY_SIZE).unwrap();
    let ends = [0, HOLE[0], HOLE[1], size];
    for region in ends.windows(2) {
        let shared = Some((file.try_clone().unwrap(), region[0]));
        let length = region[1] - region[0];
        device.map_memory(region[0], length, shared, true).unwrap();
    }
    device.config_write(COMMAND.0, &COMMAND.1);
    let mut machine = Unwired(HugeMachine { machine, memory });
    echo(&mut Driver::new(&mut machine)).unwrap();

    let tree = device.inspect();
    assert_eq!(tree["runtime"]["linear_memory"]["windows"], 0);
    assert_eq!(tree["memory"]["region_count"], 3);
    for region in tree["memory"]["regions"].as_array().unwrap() {
        assert_eq!(region["page_size"], HUGE);
        assert_eq!(region["windows"], false);
    }
}
