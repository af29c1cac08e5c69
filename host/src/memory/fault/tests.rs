//! Real faults, each in a process of its own: this program, run again.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Output};
use std::sync::atomic::AtomicI32;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use super::*;
use crate::memory::{Access, GuestMemory, PAGE_SIZE};

const PAGE: usize = PAGE_SIZE as usize;
/// The environment variable that is set for a child process.
const CHILD: &str = "MANATEE_FAULT_TEST";
/// The child's last output.
const DONE: &str = "the child is done";

/// Runs `act` in a child process, which runs the test named `test` again and so calls this too.
fn in_child(test: &str, act: fn()) -> Output {
    if std::env::var_os(CHILD).is_some_and(|value| value == test) {
        act();
        eprintln!("{DONE}");
        std::process::exit(0);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = format!("memory::fault::tests::{test}");
    command.args(["--exact", &name, "--nocapture"]);
    command.env(CHILD, test).output().unwrap()
}

/// Checks that the child ran to its end.
fn assert_done(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {said}", output.status);
    assert!(said.contains(DONE), "the test was not run: {said}");
}

fn memfd(pages: u64) -> File {
    let file = File::from(rustix::fs::memfd_create("lost", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(pages * PAGE_SIZE).unwrap();
    file
}

/// Creates memory of eight pages, all written, and the file that it is in.
fn guest() -> (GuestMemory, File) {
    let file = memfd(8);
    let mut memory = GuestMemory::new();
    let shared = file.try_clone().unwrap();
    memory.map(0, 8 * PAGE_SIZE, shared, 0, true).unwrap();
    memory.write(0, &[7; 8 * PAGE]).unwrap();
    (memory, file)
}

/// Maps a page of a file that has none. Returns its address.
fn lost_page() -> *mut u8 {
    let file = memfd(1);
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let page =
        unsafe { rustix::mm::mmap(null_mut(), PAGE, rights, MapFlags::SHARED, &file, 0).unwrap() };
    file.set_len(0).unwrap();
    page.cast()
}

fn touch(page: *mut u8) -> u8 {
    // SAFETY: a mapped page; the tests are about the signal that it raises.
    unsafe { page.read_volatile() }
}

#[test]
fn memory_outlives_its_file() {
    let output = in_child("memory_outlives_its_file", || {
        install_fault_handler().unwrap();
        install_fault_handler().unwrap();
        let (memory, file) = guest();
        let other = guest();
        assert_eq!(memory.lost(), None);
        file.set_len(2 * PAGE_SIZE).unwrap();
        assert_eq!(memory.lost(), None, "nothing was accessed yet");

        // The remaining pages are still the file's; the rest reads as zero.
        let mut seen = [1; 2 * PAGE];
        memory.read(PAGE_SIZE, &mut seen).unwrap();
        assert_eq!((seen[0], seen[PAGE - 1]), (7, 7));
        assert!(seen[PAGE..].iter().all(|byte| *byte == 0));
        let lost = memory.lost().expect("it is reported");
        assert!(lost.contains("0x0+0x8000"), "{lost}");

        // All other kinds of access, each to a page that was not accessed before.
        memory.write(3 * PAGE_SIZE - 4, &[9; 8]).unwrap();
        assert_eq!(memory.load(4 * PAGE_SIZE), Some(0));
        memory.copy(5 * PAGE_SIZE, 0, 100).unwrap();
        memory.copy(PAGE_SIZE, 6 * PAGE_SIZE, 100).unwrap();
        assert_eq!(memory.load(0), Some(0));
        assert_eq!(memory.load(6 * PAGE_SIZE), Some(u64::from_le_bytes([7; 8])));
        assert!(
            memory
                .check(7 * PAGE_SIZE, PAGE_SIZE, Access::Write)
                .is_ok()
        );

        // Other devices are not affected.
        assert_eq!(other.0.lost(), None);
        assert_eq!(
            other.0.load(7 * PAGE_SIZE),
            Some(u64::from_le_bytes([7; 8]))
        );
    });
    assert_done(&output);
}

#[test]
fn each_way_of_access_survives_alone() {
    let output = in_child("each_way_of_access_survives_alone", || {
        install_fault_handler().unwrap();
        let ways: [fn(&GuestMemory); 5] = [
            |memory| memory.read(3 * PAGE_SIZE, &mut [1; 100]).unwrap(),
            |memory| memory.write(3 * PAGE_SIZE + 1, &[1; 100]).unwrap(),
            |memory| memory.copy(0, 3 * PAGE_SIZE, 100).unwrap(),
            |memory| memory.copy(3 * PAGE_SIZE, 0, 100).unwrap(),
            |memory| assert_eq!(memory.load(3 * PAGE_SIZE), Some(0)),
        ];
        for way in ways {
            let (memory, file) = guest();
            file.set_len(0).unwrap();
            way(&memory);
            assert!(memory.lost().is_some());
        }
    });
    assert_done(&output);
}

#[test]
fn a_file_that_lost_pages_is_not_used_again() {
    let output = in_child("a_file_that_lost_pages_is_not_used_again", || {
        install_fault_handler().unwrap();
        let (mut memory, file) = guest();
        file.set_len(0).unwrap();
        assert_eq!(memory.load(0), Some(0));
        assert!(memory.lost().is_some());
        // The file has its old length and is mapped again: the old mapping has other pages.
        file.set_len(8 * PAGE_SIZE).unwrap();
        let shared = file.try_clone().unwrap();
        memory.map(1 << 20, PAGE_SIZE, shared, 0, true).unwrap();
        memory.write(1 << 20, b"shared").unwrap();
        let mut seen = [0; 6];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut seen, 0).unwrap();
        assert_eq!(&seen, b"shared");
        // The region that lost its pages does not get them back.
        assert_eq!(memory.load(0), Some(0));
        assert!(memory.lost().is_some());
        memory.unmap(0, 8 * PAGE_SIZE).unwrap();
        assert_eq!(memory.lost(), None);
        memory.clear();
        assert_eq!(memory.lost(), None);
    });
    assert_done(&output);
}

#[test]
fn a_page_may_be_replaced_by_itself() {
    let output = in_child("a_page_may_be_replaced_by_itself", || {
        install_fault_handler().unwrap();
        let page = lost_page();
        let flag = Arc::new(AtomicBool::new(false));
        let start = NonNull::new(page).unwrap();
        let range = FaultRange::register(start, PAGE, PAGE, flag.clone()).unwrap();
        assert!(!range.was_hit());
        assert_eq!(touch(page), 0);
        assert!(range.was_hit() && flag.load(Relaxed));
        drop(range);
        assert_eq!(Arc::strong_count(&flag), 1);
    });
    assert_done(&output);
}

#[test]
fn without_the_handler_the_process_ends() {
    let output = in_child("without_the_handler_the_process_ends", || {
        let (memory, file) = guest();
        file.set_len(0).unwrap();
        let _ = memory.load(0);
    });
    assert_eq!(output.status.signal(), Some(libc::SIGBUS));
}

/// The signal that another handler received.
static SEEN: AtomicI32 = AtomicI32::new(0);

/// Installs a handler before the one under test.
fn install_before(handler: usize, flags: c_int) {
    // SAFETY: all zeros is a value of this structure.
    let mut own: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    own.sa_sigaction = handler;
    own.sa_flags = flags;
    action(Some(&own)).unwrap();
    install_fault_handler().unwrap();
}

extern "C" fn with_info(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel's structure, for a fault.
    let address = unsafe { (*info).si_addr() };
    // SAFETY: the page is the test's own lost page.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        libc::mmap(address, PAGE, libc::PROT_READ, flags, -1, 0);
    }
    SEEN.fetch_add(1, Relaxed);
}

extern "C" fn without_info(signal: c_int) {
    SEEN.store(signal, Relaxed);
}

#[test]
fn foreign_faults_go_to_the_handler_before() {
    let output = in_child("foreign_faults_go_to_the_handler_before", || {
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = with_info;
        install_before(handler as usize, libc::SA_SIGINFO);
        assert_eq!(touch(lost_page()), 0);
        assert_eq!(SEEN.load(Relaxed), 1);
        // A fault in guest memory is handled, and is not passed on.
        let (memory, file) = guest();
        file.set_len(0).unwrap();
        assert_eq!(memory.load(0), Some(0));
        assert_eq!(SEEN.load(Relaxed), 1);
        drop(memory);
        assert_eq!(touch(lost_page()), 0);
        assert_eq!(SEEN.load(Relaxed), 2);
    });
    assert_done(&output);
}

fn raise() {
    // SAFETY: nothing is accessed.
    unsafe { libc::raise(libc::SIGBUS) };
}

#[test]
fn signals_that_were_sent_go_to_the_handler_before() {
    let output = in_child("signals_that_were_sent_go_to_the_handler_before", || {
        let handler: extern "C" fn(c_int) = without_info;
        install_before(handler as usize, 0);
        raise();
        assert_eq!(SEEN.load(Relaxed), libc::SIGBUS);
    });
    assert_done(&output);
}

fn killed(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGBUS)
}

#[test]
fn the_default_is_to_end() {
    let by_fault = in_child("the_default_is_to_end", || {
        install_before(libc::SIG_DFL, 0);
        touch(lost_page());
    });
    assert!(killed(by_fault.status));
}

#[test]
fn the_default_is_to_end_by_signals_that_were_sent() {
    let by_signal = in_child("the_default_is_to_end_by_signals_that_were_sent", || {
        install_before(libc::SIG_DFL, 0);
        raise();
    });
    assert!(killed(by_signal.status));
}

#[test]
fn signals_are_ignored_where_they_were_and_faults_are_not() {
    let output = in_child(
        "signals_are_ignored_where_they_were_and_faults_are_not",
        || {
            install_before(libc::SIG_IGN, 0);
            raise();
            eprintln!("ignored");
            touch(lost_page());
        },
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("ignored"));
    assert!(killed(output.status));
}

/// Other threads add and remove ranges while this one faults repeatedly.
#[test]
fn faults_are_found_while_the_table_changes() {
    let output = in_child("faults_are_found_while_the_table_changes", || {
        install_fault_handler().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        let kept: Vec<_> = (0..32).map(|_| guest()).collect();
                        assert!(kept.iter().all(|(memory, _)| memory.lost().is_none()));
                    }
                });
            }
            for _ in 0..500 {
                let (memory, file) = guest();
                file.set_len(0).unwrap();
                assert_eq!(memory.load(PAGE_SIZE), Some(0));
                assert!(memory.lost().is_some());
            }
            stop.store(true, Relaxed);
        });
    });
    assert_done(&output);
}
