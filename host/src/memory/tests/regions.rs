//! Mapping regions, refusals, and unmapping.

use super::*;

fn budgets(regions: u64, bytes: u64, files: u64) -> Budgets {
    Budgets {
        regions: Budget::new(regions),
        bytes: Budget::new(bytes),
        files: Budget::new(files),
    }
}

#[test]
fn only_pages_shared_for_writing_have_a_source() {
    let memory = guest_memory();
    assert!(memory.page(LOW + PAGE_SIZE).is_ok());
    for page in [LOW + 8, READ_ONLY, UNREACHABLE, NOWHERE] {
        assert_eq!(memory.page(page).unwrap_err(), NoWindow::NotMemory);
    }
}

#[test]
fn regions_that_do_not_fit_are_refused() {
    let mut memory = guest_memory();
    let mut map = |at, size, offset| memory.map(at, size, memfd(PAGE_SIZE), offset, true);
    assert!(matches!(
        map(LOW + PAGE_SIZE, PAGE_SIZE, 0),
        Err(MapError::Overlaps(.., LOW))
    ));
    assert!(matches!(
        map(LOW - PAGE_SIZE, 3 * PAGE_SIZE, 0),
        Err(MapError::Overlaps(..))
    ));
    assert!(matches!(map(1, PAGE_SIZE, 0), Err(MapError::Unaligned(..))));
    assert!(matches!(map(0, 0, 0), Err(MapError::Unaligned(..))));
    assert!(matches!(map(0, PAGE_SIZE, 1), Err(MapError::Unaligned(..))));
    assert!(matches!(
        map(u64::MAX - PAGE_SIZE + 1, PAGE_SIZE, 0),
        Err(MapError::Wraps(..))
    ));
    assert!(matches!(
        map(0, PAGE_SIZE, u64::MAX - PAGE_SIZE + 1),
        Err(MapError::Wraps(..))
    ));
    assert!(matches!(
        map(0, 2 * PAGE_SIZE, 0),
        Err(MapError::FileTooShort { .. })
    ));
    assert!(matches!(
        map(0, PAGE_SIZE, PAGE_SIZE),
        Err(MapError::FileTooShort { .. })
    ));
    assert_eq!(memory.regions().len(), 5, "nothing was added");
}

#[test]
fn the_number_of_regions_is_bounded() {
    let mut memory = GuestMemory::new();
    let file = memfd(PAGE_SIZE);
    for index in 0..GuestMemory::MAX_REGIONS as u64 {
        let at = index * 2 * PAGE_SIZE;
        let shared = file.try_clone().unwrap();
        memory.map(at, PAGE_SIZE, shared, 0, true).unwrap();
    }
    let one_more = memory.map_unreachable(PAGE_SIZE, PAGE_SIZE);
    assert!(matches!(one_more, Err(MapError::TooMany)));
    assert!(one_more.unwrap_err().to_string().contains("65535"));
    // All of them map the file's only page.
    memory.write(0, &7u64.to_le_bytes()).unwrap();
    let last = (GuestMemory::MAX_REGIONS as u64 - 1) * 2 * PAGE_SIZE;
    assert_eq!(memory.load(last), Some(7));
    memory.unmap(0, PAGE_SIZE).unwrap();
    memory.map_unreachable(PAGE_SIZE, PAGE_SIZE).unwrap();
}

#[test]
fn all_devices_share_a_budget_of_regions() {
    let budgets = budgets(3, 1 << 30, 10);
    let (mut one, mut other) = (
        GuestMemory::within(budgets.clone()),
        GuestMemory::within(budgets),
    );
    one.map_unreachable(0, PAGE_SIZE).unwrap();
    other.map_unreachable(0, PAGE_SIZE).unwrap();
    one.map(PAGE_SIZE, PAGE_SIZE, memfd(PAGE_SIZE), 0, true)
        .unwrap();
    let refused = other.map(PAGE_SIZE, PAGE_SIZE, memfd(PAGE_SIZE), 0, true);
    assert!(matches!(refused, Err(MapError::TooManyInProcess)));
    assert_eq!(other.regions().len(), 1);
    // A refusal uses no budget, and unmapped regions return theirs.
    assert!(one.map_unreachable(0, PAGE_SIZE).is_err());
    drop(one);
    for page in 1..3 {
        other.map_unreachable(page * PAGE_SIZE, PAGE_SIZE).unwrap();
    }
    assert!(other.map_unreachable(9 * PAGE_SIZE, PAGE_SIZE).is_err());
    other.clear();
    other.map_unreachable(9 * PAGE_SIZE, PAGE_SIZE).unwrap();
}

#[test]
fn files_and_their_bytes_are_bounded() {
    let mut memory = GuestMemory::within(budgets(100, 10 * PAGE_SIZE, 3));
    let mut map = |at: u64, size| memory.map(at * PAGE_SIZE, PAGE_SIZE, memfd(size), 0, true);
    map(0, 7 * PAGE_SIZE).unwrap();
    let refused = map(1, 4 * PAGE_SIZE);
    assert!(matches!(refused, Err(MapError::TooLarge { .. })));
    map(2, PAGE_SIZE).unwrap();
    map(3, PAGE_SIZE).unwrap();
    assert!(matches!(map(4, PAGE_SIZE), Err(MapError::TooManyFiles)));
    memory.unmap(0, PAGE_SIZE).unwrap();
    memory
        .map(0, PAGE_SIZE, memfd(8 * PAGE_SIZE), 0, true)
        .unwrap();
}

#[test]
fn unmapping_takes_whole_regions_only() {
    let mut memory = guest_memory();
    let half = memory.unmap(LOW, PAGE_SIZE);
    assert!(matches!(half, Err(MapError::Cuts(LOW, PAGE_SIZE, LOW, _))));
    let tail = memory.unmap(LOW + PAGE_SIZE, PAGE_SIZE);
    assert!(matches!(tail, Err(MapError::Cuts(..))));
    let middle = memory.unmap(LARGE + PAGE_SIZE, PAGE_SIZE);
    assert!(matches!(
        middle,
        Err(MapError::Cuts(.., LARGE, LARGE_BYTES))
    ));
    let one_and_a_half = memory.unmap(LOW, 3 * PAGE_SIZE);
    assert!(matches!(one_and_a_half, Err(MapError::Cuts(.., HIGH, _))));
    for empty in [
        memory.unmap(NOWHERE, PAGE_SIZE),
        memory.unmap(LOW - PAGE_SIZE, PAGE_SIZE),
    ] {
        assert!(matches!(empty, Err(MapError::NotMapped(..))));
    }
    assert!(matches!(
        memory.unmap(1, u64::MAX),
        Err(MapError::Wraps(..))
    ));
    assert!(memory.unmap(NOWHERE, 0).is_err() && memory.unmap(LOW, 0).is_err());
    assert_eq!(memory.regions().len(), 5, "nothing was unmapped");
    let both = memory.unmap(LOW, 4 * PAGE_SIZE).unwrap();
    assert_eq!(both.len(), 1);
    assert_eq!(both[0], LOW..HIGH + 2 * PAGE_SIZE);
    assert!(memory.check(LOW, 1, Access::Read).is_err());
    assert!(memory.check(HIGH, 1, Access::Read).is_err());
    assert!(memory.check(LARGE, LARGE_BYTES, Access::Write).is_ok());
    let all = memory.clear();
    assert_eq!((all.len(), &all[0]), (1, &(0..u64::MAX)));
    assert!(memory.check(LARGE, 1, Access::Read).is_err());
    assert_eq!(memory.regions().len(), 0);
    assert_eq!(memory.clear(), []);
}

#[test]
fn a_clone_keeps_what_it_was_made_of() {
    let mut memory = guest_memory();
    memory.write(LOW, b"kept").unwrap();
    let copy = memory.clone();
    memory.unmap(LOW, 2 * PAGE_SIZE).unwrap();
    memory
        .map(LOW, PAGE_SIZE, memfd(PAGE_SIZE), 0, true)
        .unwrap();
    memory.write(LOW, b"more").unwrap();
    let mut seen = [0; 4];
    copy.read(LOW, &mut seen).unwrap();
    assert_eq!(&seen, b"kept");
    assert!(copy.check(LOW, 2 * PAGE_SIZE, Access::Write).is_ok());
    assert!(memory.check(LOW, 2 * PAGE_SIZE, Access::Write).is_err());
}

/// Memory that an embedder mapped.
#[derive(Debug)]
struct Own {
    map: vm_memory::MmapRegion,
    file: Option<(File, u64)>,
}

// SAFETY: the region is mapped for reading and writing until it is dropped, it is the
// pages of the file, and there are no references to it.
unsafe impl MemoryRange for Own {
    fn base(&self) -> std::ptr::NonNull<u8> {
        std::ptr::NonNull::new(self.map.as_ptr()).unwrap()
    }

    fn len(&self) -> usize {
        self.map.size()
    }

    fn file(&self) -> Option<(std::os::fd::BorrowedFd<'_>, u64)> {
        self.file.as_ref().map(|(file, at)| (file.as_fd(), *at))
    }
}

#[test]
fn an_embedder_may_have_mapped_memory_itself() {
    let size = 2 * PAGE_SIZE as usize;
    let file = memfd(3 * PAGE_SIZE);
    let offset = vm_memory::FileOffset::new(file.try_clone().unwrap(), PAGE_SIZE);
    let with_file = Own {
        map: vm_memory::MmapRegion::from_file(offset, size).unwrap(),
        file: Some((file.try_clone().unwrap(), PAGE_SIZE)),
    };
    let without = Own {
        map: vm_memory::MmapRegion::new(size).unwrap(),
        file: None,
    };
    let mut memory = guest_memory();
    let (shared, without) = (Arc::new(with_file), Arc::new(without));
    memory.map_range(0x10_000, shared.clone(), true).unwrap();
    memory.map_range(0x12_000, without.clone(), true).unwrap();
    memory.map_range(0x20_000, without.clone(), false).unwrap();
    let overlaps = memory.map_range(0x11_000, without.clone(), true);
    assert!(matches!(overlaps, Err(MapError::Overlaps(..))));

    // The access is in both regions, after the first page of the file.
    let sent = pattern(2000);
    memory.write(0x12_000 - 1000, &sent).unwrap();
    let mut seen = vec![0; 1000];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut seen, 3 * PAGE_SIZE - 1000).unwrap();
    assert_eq!(seen, sent[..1000]);
    let mut seen = vec![0; 1000];
    memory.read(0x20_000, &mut seen).unwrap();
    assert_eq!(seen, sent[1000..]);
    assert!(memory.write(0x20_000, &[1]).is_err());

    let page = memory.page(0x11_000).unwrap();
    assert_eq!(page.offset, 2 * PAGE_SIZE);
    assert_eq!(memory.page(0x12_000).unwrap_err(), NoWindow::Unsupported);
    assert_eq!(memory.page(0x20_000).unwrap_err(), NoWindow::NotMemory);
    let windows: Vec<bool> = memory.regions().take(3).map(|r| r.windows).collect();
    assert_eq!(windows, [true, false, false]);

    assert_eq!(Arc::strong_count(&shared), 2);
    memory.unmap(0x10_000, 0x4000).unwrap();
    assert_eq!(Arc::strong_count(&shared), 1, "it was dropped");
}
