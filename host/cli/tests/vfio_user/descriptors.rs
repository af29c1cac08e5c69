//! Descriptors that block or otherwise harm a careless server.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::net::sockopt::set_socket_linger;
use rustix::thread::UnshareFlags;

use crate::harness::{MSIX, Manatee, config_u32, memfd};
use crate::interrupts::{EVENTFD, NONE, TRIGGER, assign, eventfd, set, taken};
use crate::raw::{self, Raw};

/// Longer than any test.
const HOUR: Duration = Duration::from_secs(3600);

fn still_serves(manatee: &Manatee) {
    assert_eq!(config_u32(&mut manatee.attach(), 0), 0x00ba_1414);
}

/// Returns the request to use eventfds for the vectors from 0 on.
fn assignment(count: usize) -> Vec<u8> {
    raw::words(&[20, EVENTFD | TRIGGER, MSIX, 0, count as u32])
}

#[test]
fn full_eventfd_that_blocks_costs_its_owner_interrupts_and_nobody_anything() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let (full, other) = (eventfd(), eventfd());
    assign(&mut client, 0, &[&full, &other]);
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    // The flag belongs to the open file, which the server shares.
    for flags in [OFlags::empty(), OFlags::NONBLOCK, OFlags::empty()] {
        fcntl_setfl(&full, flags).unwrap();
        set(&mut client, NONE | TRIGGER, 0, 2);
    }
    assert_eq!(taken(&other), 3);
    drop(client);
    still_serves(&manatee);
    assert!(taken(&full) >= u64::MAX - 1);
}

#[test]
fn eventfd_whose_flags_change_all_the_time_holds_nobody_up() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let full = eventfd();
    assign(&mut client, 0, &[&full]);
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let flags = full.try_clone().unwrap();
    let toggler = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            fcntl_setfl(&flags, OFlags::NONBLOCK).unwrap();
            fcntl_setfl(&flags, OFlags::empty()).unwrap();
        }
    });
    for _ in 0..2000 {
        set(&mut client, NONE | TRIGGER, 0, 1);
    }
    drop(stop);
    toggler.join().unwrap();
    drop(client);
    still_serves(&manatee);
}

#[test]
fn only_eventfds_are_taken_for_vectors() {
    let manatee = Manatee::start();
    let mut raw = Raw::connect(&manatee.socket());
    let own = |fd| {
        assert!(fd >= 0);
        // SAFETY: the descriptor is new, and has no other owner.
        unsafe { OwnedFd::from_raw_fd(fd) }
    };
    // SAFETY: the calls take numbers, and a valid empty set of signals, all zeros.
    let (timer, signals, epoll, inotify) = unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        (
            own(libc::timerfd_create(libc::CLOCK_MONOTONIC, 0)),
            own(libc::signalfd(-1, &raw const none, 0)),
            own(libc::epoll_create1(0)),
            own(libc::inotify_init()),
        )
    };
    let open = |flags| rustix::fs::open("/dev/null", flags, Mode::empty()).unwrap();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let (pipe, _writer) = io::pipe().unwrap();
    let good = eventfd();
    let kinds: [(&str, OwnedFd); 10] = [
        ("timerfd", timer),
        ("signalfd", signals),
        ("epoll", epoll),
        ("inotify", inotify),
        ("memfd", memfd(4096)),
        ("device", open(OFlags::RDWR)),
        ("place", open(OFlags::PATH)),
        ("socket", near.into()),
        ("pipe", pipe.into()),
        ("another socket", far.into()),
    ];
    for (kind, fd) in &kinds {
        let both = [good.as_fd(), fd.as_fd()];
        let refused = raw.ask_with(raw::SET_IRQS, &assignment(2), &both);
        assert!(refused.is_err(), "{kind}");
    }
    assert!(
        manatee.log().contains("vector 1 is no eventfd"),
        "{}",
        manatee.log()
    );
    raw.ask_with(raw::SET_IRQS, &assignment(1), &[good.as_fd()])
        .unwrap();
    let fire = raw::words(&[20, NONE | TRIGGER, MSIX, 0, 1]);
    raw.ask(raw::SET_IRQS, &fire).unwrap();
    assert_eq!(taken(&good), 1, "the session is alive");
    raw.finish();
    still_serves(&manatee);
}

/// Returns a socket whose close blocks for an hour, unless its peer is closed.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let peer = listener.accept().unwrap().0;
    set_socket_linger(&socket, Some(HOUR)).unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 1 << 16]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    (socket, peer)
}

/// Runs a test in a network namespace with only a loopback interface.
fn in_namespace(test: impl FnOnce() + Send) {
    let isolated = || {
        // The deprecated function is the safe one; its successor is unsafe because of another
        // flag.
        #[expect(deprecated)]
        let unshared = rustix::thread::unshare(UnshareFlags::NEWNET);
        if let Err(error) = unshared {
            let _ = writeln!(io::stderr(), "skipped: no network namespace: {error}");
            return;
        }
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success(), "`ip` comes with iproute2");
        test();
    };
    let outcome = std::thread::scope(|scope| scope.spawn(isolated).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn descriptors_that_take_an_hour_to_close_hold_nobody_up() {
    in_namespace(|| {
        let manatee = Manatee::start();
        // While another client is served, nothing is received, so the server has the last
        // reference when it receives the descriptor.
        let other = manatee.attach();
        let mut raw = Raw::connect(&manatee.socket());
        let mut peers = Vec::new();
        let read = raw::message(raw::REGION_READ, 0, &raw::region_access(0, 7, 4));
        let assign = raw::message(raw::SET_IRQS, 0, &assignment(1));
        // As a vector; with a message that should have no descriptors; and more than a message may
        // have. None may be closed on the server's thread.
        for (message, count) in [(&assign, 1), (&read, 1), (&read, 200)] {
            let (socket, peer) = lingering();
            raw.send_with(message, &vec![socket.as_fd(); count]);
            peers.push(peer);
        }
        drop(other);
        assert!(raw.answer().is_err());
        assert_eq!(raw.answer().unwrap()[16..], [0x14, 0x14, 0xba, 0x00]);
        raw.finish();
        still_serves(&manatee);
        let log = manatee.log();
        assert!(log.contains("more than 16 descriptors"), "{log}");
        drop(peers);
        still_serves(&manatee);
    });
}

#[test]
fn descriptors_that_nobody_received_hold_nobody_up() {
    in_namespace(|| {
        let manatee = Manatee::start();
        let other = manatee.attach();
        let mut raw = Raw::connect(&manatee.socket());
        // The session ends at the first message, which is longer than one receive, so the
        // second is never received.
        raw.send(&raw::claiming(0, raw::RESET, 0, &[0; 4096]))
            .unwrap();
        let (socket, peer) = lingering();
        raw.send_with(&raw::message(raw::RESET, 0, &[]), &[socket.as_fd()]);
        drop(socket);
        drop(other);
        raw.finish();
        still_serves(&manatee);
        drop(peer);
    });
}

/// Returns whether the process soon has at most this many open descriptors.
fn settles_below(manatee: &Manatee, most: usize) -> bool {
    let begun = std::time::Instant::now();
    while manatee.descriptors() > most {
        if begun.elapsed() > Duration::from_secs(60) {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn descriptors_that_are_not_kept_are_closed() {
    let manatee = Manatee::start();
    still_serves(&manatee);
    let before = manatee.descriptors();
    let file = memfd(4096);
    for count in [1, 2, 16, 17, 200] {
        let mut raw = Raw::connect(&manatee.socket());
        let fds: Vec<BorrowedFd<'_>> = (0..count).map(|_| file.as_fd()).collect();
        raw.send_with(&raw::message(raw::RESET, 0, &[]), &fds);
        raw.finish();
    }
    still_serves(&manatee);
    assert!(settles_below(&manatee, before), "{}", manatee.descriptors());
}
