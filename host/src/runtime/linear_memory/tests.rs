use std::fs::File;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};

use super::*;
use crate::runtime::bounds;

const ARENA: u32 = WASM_PAGE as u32;
const GUEST: u64 = 0x10_0000;

/// A linear memory with an arena after its first 64 KiB, and 16 pages of guest
/// memory, each of which begins with its number.
struct Machine {
    linear: Arc<Reservation>,
    guest: GuestMemory,
    file: File,
}

impl Machine {
    fn new(view: View) -> Self {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, 16 * PAGE_SIZE).unwrap();
        for page in 0..16 {
            pwrite(&file, &[page as u8 + 1], page * PAGE_SIZE).unwrap();
        }
        let linear = Reservation::new(1 << 20, 1 << 16, 4 * WASM_PAGE).unwrap();
        linear
            .reserve_arena(ARENA, 2 * WASM_PAGE as u32, view)
            .unwrap();
        let mut machine = Self {
            linear,
            guest: GuestMemory::new(),
            file,
        };
        machine.share(0, 16);
        machine
    }

    fn share(&mut self, first: u64, pages: u64) {
        let file = self.file.try_clone().unwrap();
        let (address, offset) = (GUEST + first * PAGE_SIZE, first * PAGE_SIZE);
        let size = pages * PAGE_SIZE;
        self.guest.map(address, size, file, offset, true).unwrap();
    }

    /// Lays the guest's pages with these numbers at an offset into the arena.
    fn lay(&self, offset: u32, pages: &[u64]) -> Result<(), WindowError> {
        let pages: Vec<u64> = pages.iter().map(|page| GUEST + page * PAGE_SIZE).collect();
        let access = WindowAccess::ReadWrite;
        self.linear.map(ARENA + offset, &pages, access, &self.guest)
    }

    /// Lays one guest page as a read-only window.
    fn lay_read_only(&self, offset: u32, page: u64) {
        let pages = [GUEST + page * PAGE_SIZE];
        let access = WindowAccess::ReadOnly;
        let laid = self.linear.map(ARENA + offset, &pages, access, &self.guest);
        laid.unwrap();
    }

    fn at(&self, offset: u32) -> *mut u8 {
        self.linear.at((ARENA + offset) as usize).cast()
    }

    fn load(&self, offset: u32) -> u8 {
        // SAFETY: all of the memory is accessible, whatever is mapped there.
        unsafe { self.at(offset).read_volatile() }
    }

    fn store(&self, offset: u32, value: u8) {
        // SAFETY: as in `load`.
        unsafe { self.at(offset).write_volatile(value) }
    }

    /// Returns the first byte of a guest page.
    fn guest(&self, page: u64) -> u8 {
        let mut byte = [0];
        pread(&self.file, &mut byte, page * PAGE_SIZE).unwrap();
        byte[0]
    }

    fn take_away(&mut self, first: u64, pages: u64) -> Vec<u32> {
        let gone = self
            .guest
            .unmap(GUEST + first * PAGE_SIZE, pages * PAGE_SIZE);
        self.linear.revoke(&gone.unwrap()).unwrap()
    }
}

#[test]
fn windows_lie_in_the_arena_only_and_there_is_one() {
    let machine = Machine::new(View::Shared);
    machine.lay(0, &[3, 1]).unwrap();
    assert_eq!((machine.load(0), machine.load(4096)), (4, 2));
    machine.store(0, 9);
    assert_eq!(machine.guest(3), 9);
    let page = GUEST;
    for offset in [
        0,
        ARENA - 4096,
        ARENA + 2 * WASM_PAGE as u32,
        ARENA + 1,
        ARENA,
        ARENA + 4096,
    ] {
        let laid = machine
            .linear
            .map(offset, &[page], WindowAccess::ReadWrite, &machine.guest);
        assert!(
            matches!(laid, Err(WindowError::Invalid)),
            "{offset:#x}: {laid:?}"
        );
    }
    assert!(machine.lay(8192, &[16]).is_err());
    assert!(machine.lay(8192, &[]).is_err());
    for (offset, length) in [(0, 65536), (3 * 65536, 65536)] {
        let again = machine.linear.reserve_arena(offset, length, View::Shared);
        assert!(matches!(again, Err(WindowError::Invalid)));
    }
    machine.linear.unmap(ARENA).unwrap();
    assert_eq!(machine.load(0), 0);
    machine.store(0, 7);
    assert_eq!(machine.guest(3), 9);
}

#[test]
fn an_arena_is_aligned_and_inside_the_memory() {
    let linear = Reservation::new(1 << 20, 1 << 16, 2 * WASM_PAGE).unwrap();
    for (offset, length) in [
        (0, 0),
        (4096, 65536),
        (0, 4096),
        (65536, 131072),
        (!0, 65536),
    ] {
        let reserved = linear.reserve_arena(offset, length, View::Shared);
        assert!(reserved.is_err(), "{offset:#x}+{length:#x}");
    }
    assert!(linear.reserve_arena(0, 131072, View::Shared).is_ok());
}

#[test]
fn private_windows_show_the_guest_and_change_nothing() {
    let machine = Machine::new(View::Private);
    machine.lay(0, &[0, 1]).unwrap();
    assert_eq!(machine.load(4096), 2);
    // As `memory.fill` would.
    // SAFETY: two accessible pages, to which nothing refers.
    unsafe { machine.at(0).write_bytes(0xff, 8192) };
    assert_eq!((machine.guest(0), machine.guest(1)), (1, 2));
    machine.linear.show(View::Shared, &machine.guest).unwrap();
    assert_eq!((machine.load(0), machine.load(4096)), (1, 2));
    machine.store(0, 8);
    assert_eq!(machine.guest(0), 8);
}

#[test]
fn windows_that_are_read_follow_the_guest_and_change_nothing() {
    for view in [View::Shared, View::Private] {
        let mut machine = Machine::new(view);
        machine.lay_read_only(0, 2);
        machine.lay(4096, &[3]).unwrap();
        machine.lay_read_only(8192, 4);
        assert_eq!((machine.load(0), machine.load(8192)), (3, 5));
        // Reads before and after a change of view.
        pwrite(&machine.file, &[40], 2 * PAGE_SIZE).unwrap();
        assert_eq!(machine.load(0), 40);
        machine.linear.show(View::Shared, &machine.guest).unwrap();
        pwrite(&machine.file, &[41], 2 * PAGE_SIZE).unwrap();
        assert_eq!((machine.load(0), machine.load(4096)), (41, 4));
        // A store is visible in this window only.
        machine.store(8192, 99);
        assert_eq!((machine.load(8192), machine.guest(4)), (99, 5));
        // Its memory is unmapped and mapped again like that of others.
        assert_eq!(machine.take_away(0, 16).len(), 3);
        assert_eq!((machine.load(0), machine.load(8192)), (0, 0));
        machine.share(0, 16);
        machine.linear.restore(&machine.guest).unwrap();
        assert_eq!((machine.load(0), machine.load(8192)), (41, 5));
        machine.linear.show(View::Nothing, &machine.guest).unwrap();
        assert_eq!((machine.load(0), machine.load(4096)), (0, 0));
        machine.linear.show(View::Shared, &machine.guest).unwrap();
        pwrite(&machine.file, &[42], 2 * PAGE_SIZE).unwrap();
        assert_eq!((machine.load(0), machine.load(4096)), (42, 4));
    }
}

#[test]
fn hidden_windows_are_zero_and_come_back() {
    let machine = Machine::new(View::Nothing);
    machine.lay(0, &[0]).unwrap();
    assert_eq!(machine.load(0), 0);
    machine.store(0, 5);
    assert_eq!(machine.guest(0), 1);
    machine.linear.show(View::Shared, &machine.guest).unwrap();
    assert_eq!(machine.load(0), 1);
    machine.linear.show(View::Nothing, &machine.guest).unwrap();
    assert_eq!(machine.load(0), 0);
}

#[test]
fn memory_that_goes_is_zero_and_comes_back_by_itself() {
    let mut machine = Machine::new(View::Shared);
    machine.guest.clear();
    machine.share(0, 8);
    machine.share(8, 8);
    machine.lay(0, &[7, 8]).unwrap();
    machine.lay(0x4000, &[9]).unwrap();
    machine.lay(0x8000, &[1]).unwrap();
    assert_eq!(machine.take_away(8, 8), [ARENA, ARENA + 0x4000]);
    assert_eq!((machine.load(0), machine.load(4096)), (8, 0));
    // SAFETY: accessible pages, to which nothing refers.
    unsafe { machine.at(0).copy_from(machine.at(0x8000), 4096) };
    machine.store(4096, 77);
    machine.store(0x4000, 77);
    assert_eq!(
        (machine.guest(7), machine.guest(8), machine.guest(9)),
        (2, 9, 10)
    );
    assert!(machine.linear.restore(&machine.guest).unwrap().is_empty());
    machine.share(8, 8);
    let back = machine.linear.restore(&machine.guest).unwrap();
    assert_eq!(back, [ARENA, ARENA + 0x4000]);
    assert_eq!((machine.load(4096), machine.load(0x4000)), (9, 10));
    assert!(machine.linear.restore(&machine.guest).unwrap().is_empty());
}

#[test]
fn bounds_hold() {
    let machine = Machine::new(View::Shared);
    let pages = vec![GUEST; bounds::WINDOW_PAGES + 1];
    let laid = machine
        .linear
        .map(ARENA, &pages, WindowAccess::ReadWrite, &machine.guest);
    assert!(matches!(laid, Err(WindowError::Exhausted)));
}
