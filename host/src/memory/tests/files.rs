//! Files: each is mapped once, and unmapped with its last region.

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, SealFlags, fcntl_add_seals};

use super::*;

/// Counts a name among this process's mappings, and among its descriptors.
fn kept(name: &str) -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let named = targets.filter(|target| target.to_string_lossy().contains(name));
    (maps.matches(name).count(), named.count())
}

/// Returns a page in memory that may be sealed.
fn sealable() -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("sealed", flags).unwrap());
    file.set_len(PAGE_SIZE).unwrap();
    file
}

#[test]
fn a_file_is_mapped_once_and_goes_with_its_last_region() {
    let name = "mapped-once";
    let file = named(name, 64 * PAGE_SIZE);
    let mut memory = GuestMemory::new();
    for index in 0..32 {
        let shared = file.try_clone().unwrap();
        let at = index * PAGE_SIZE;
        memory
            .map(at, PAGE_SIZE, shared, (63 - index) * PAGE_SIZE, true)
            .unwrap();
    }
    assert_eq!(kept(name), (1, 2), "one mapping; its descriptor and ours");
    // A read-only descriptor of it needs a mapping of its own.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let readable = File::open(path).unwrap();
    memory
        .map(1 << 30, PAGE_SIZE, readable, 63 * PAGE_SIZE, false)
        .unwrap();
    assert_eq!(kept(name), (2, 3));
    memory.write(0, &[5; 8]).unwrap();
    assert_eq!(memory.load(1 << 30), Some(0x0505_0505_0505_0505));

    memory.unmap(0, 31 * PAGE_SIZE).unwrap();
    memory.unmap(1 << 30, PAGE_SIZE).unwrap();
    assert_eq!(kept(name), (1, 2), "it still has a region");
    memory.unmap(31 * PAGE_SIZE, PAGE_SIZE).unwrap();
    assert_eq!(kept(name), (0, 1));
    // The same again.
    let shared = file.try_clone().unwrap();
    memory.map(0, PAGE_SIZE, shared, 0, true).unwrap();
    let copy = memory.clone();
    memory.clear();
    assert_eq!(kept(name), (1, 2), "the clone has it");
    drop(copy);
    assert_eq!(kept(name), (0, 1));
}

#[test]
fn a_file_that_has_grown_is_mapped_again() {
    let name = "grown-file";
    let file = named(name, 2 * PAGE_SIZE);
    let mut memory = GuestMemory::new();
    let map = |memory: &mut GuestMemory, page: u64| {
        let shared = file.try_clone().unwrap();
        let at = page * PAGE_SIZE;
        memory.map(at, PAGE_SIZE, shared, at, true)
    };
    map(&mut memory, 0).unwrap();
    assert!(map(&mut memory, 2).is_err());
    file.set_len(4 * PAGE_SIZE).unwrap();
    map(&mut memory, 1).unwrap();
    assert_eq!(kept(name), (1, 2));
    map(&mut memory, 2).unwrap();
    map(&mut memory, 3).unwrap();
    assert_eq!(kept(name), (2, 3), "the old one has regions");
    memory.write(PAGE_SIZE - 4, &[1; 8]).unwrap();
    memory.write(2 * PAGE_SIZE - 4, &[2; 8]).unwrap();
    let mut seen = [0; 8];
    file.read_exact_at(&mut seen, 2 * PAGE_SIZE - 4).unwrap();
    assert_eq!(seen, [2; 8]);
    memory.unmap(0, 2 * PAGE_SIZE).unwrap();
    assert_eq!(kept(name), (1, 2));
    map(&mut memory, 0).unwrap();
    assert_eq!(kept(name), (1, 2), "the new one reaches there too");
}

#[test]
fn rights_are_those_of_region_and_file() {
    let file = memfd(2 * PAGE_SIZE);
    let mut memory = GuestMemory::new();
    let shared = file.try_clone().unwrap();
    memory.map(0, PAGE_SIZE, shared, 0, true).unwrap();
    let shared = file.try_clone().unwrap();
    memory.map(PAGE_SIZE, PAGE_SIZE, shared, 0, false).unwrap();
    memory.write(0, b"shared").unwrap();
    let mut seen = [0; 6];
    memory.read(PAGE_SIZE, &mut seen).unwrap();
    assert_eq!(&seen, b"shared");
    assert!(memory.write(PAGE_SIZE, b"no").is_err());
    assert!(memory.write(PAGE_SIZE - 1, b"no").is_err());
    assert!(memory.copy(0, PAGE_SIZE, 8).is_err());

    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let readable = || File::open(&path).unwrap();
    let refused = memory.map(1 << 20, PAGE_SIZE, readable(), 0, true);
    assert!(matches!(refused, Err(MapError::ReadOnlyFile(..))));
    memory
        .map(1 << 20, PAGE_SIZE, readable(), 0, false)
        .unwrap();
    // Open for writing, but sealed against writes.
    let sealed = sealable();
    fcntl_add_seals(&sealed, SealFlags::FUTURE_WRITE).unwrap();
    let shared = sealed.try_clone().unwrap();
    let refused = memory.map(2 << 20, PAGE_SIZE, shared, 0, true);
    assert!(matches!(refused, Err(MapError::ReadOnlyFile(..))));
    memory.map(2 << 20, PAGE_SIZE, sealed, 0, false).unwrap();
}

#[test]
fn other_kinds_of_descriptors_are_refused_by_name() {
    let mut memory = GuestMemory::new();
    let (pipe, _end) = pipe();
    let (socket, _peer) = UnixStream::pair().unwrap();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let directory = rustix::fs::open("/", OFlags::RDONLY, Mode::empty()).unwrap();
    let device = rustix::fs::open("/dev/zero", OFlags::RDWR, Mode::empty()).unwrap();
    let kinds: [(OwnedFd, &str); 5] = [
        (pipe, "a pipe"),
        (socket.into(), "a socket"),
        (event, "an eventfd"),
        (directory, "a directory"),
        (device, "a character device"),
    ];
    for (descriptor, name) in kinds {
        let refused = memory.map(0, PAGE_SIZE, descriptor.into(), 0, true);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(name), "{refused}");
        assert!(
            refused.contains("memfd"),
            "it names what is accepted: {refused}"
        );
    }
    // A file that can't be mapped at all.
    let path = rustix::fs::open("/proc/self/exe", OFlags::PATH, Mode::empty()).unwrap();
    let refused = memory.map(0, PAGE_SIZE, path.into(), 0, false);
    assert!(matches!(refused, Err(MapError::Mmap(..))), "{refused:?}");
    assert_eq!(memory.regions().len(), 0);
}

#[test]
fn sealed_files_keep_their_size() {
    let check = |file| GuestFile::new(file, 0, PAGE_SIZE).unwrap().may_shrink();
    assert!(check(memfd(PAGE_SIZE)), "it can't be sealed");
    let sealed = sealable();
    assert!(check(sealed.try_clone().unwrap()));
    fcntl_add_seals(&sealed, SealFlags::GROW).unwrap();
    assert!(check(sealed.try_clone().unwrap()));
    fcntl_add_seals(&sealed, SealFlags::SHRINK).unwrap();
    assert!(!check(sealed));
    assert!(check(tempfile::tempfile().unwrap()), "a file on a disk");
}

#[test]
fn files_on_a_disk_need_not_end_with_a_page() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * PAGE_SIZE + 1).unwrap();
    let mut memory = GuestMemory::new();
    let shared = file.try_clone().unwrap();
    memory.map(0, 2 * PAGE_SIZE, shared, 0, true).unwrap();
    memory.write(2 * PAGE_SIZE - 4, b"last").unwrap();
    let mut seen = [0; 4];
    file.read_exact_at(&mut seen, 2 * PAGE_SIZE - 4).unwrap();
    assert_eq!(&seen, b"last");
    let refused = memory.map(1 << 20, PAGE_SIZE, file, 2 * PAGE_SIZE, true);
    assert!(matches!(refused, Err(MapError::FileTooShort { .. })));
}

/// Closing a TCP socket with SO_LINGER blocks while its peer does not read. The peer gets
/// everything only if the time did not run out.
#[test]
fn closing_a_refused_socket_does_not_block() {
    let name = "closing_a_refused_socket_does_not_block";
    let test = || {
        #[expect(deprecated)]
        let unshared = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET);
        if let Err(error) = unshared {
            let line = format!("skipped {name}: no network namespace of its own ({error})\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
            return;
        }
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let linger = Some(std::time::Duration::from_secs(20));
        rustix::net::sockopt::set_socket_linger(&socket, linger).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(length) = socket.write(&[7; 4096]) {
            sent += length;
        }
        let file = File::from(OwnedFd::from(socket));
        let refused = GuestMemory::new().map(0, PAGE_SIZE, file, 0, true);
        assert!(refused.unwrap_err().to_string().contains("a socket"));
        let mut seen = Vec::new();
        peer.read_to_end(&mut seen).unwrap();
        assert_eq!(seen.len(), sent);
    };
    std::thread::scope(|scope| scope.spawn(test).join()).unwrap();
}
