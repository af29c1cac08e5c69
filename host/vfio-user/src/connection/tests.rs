//! Messages that are split, long, malformed, or have descriptors.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
use zerocopy::IntoBytes;

use super::*;

fn message(id: u16, body: &[u8]) -> Vec<u8> {
    let header = Header {
        id,
        command: 8,
        size: 16 + body.len() as u32,
        flags: 0,
        error: 0,
    };
    [header.as_bytes(), body].concat()
}

fn send_with(vmm: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    let sent = sendmsg(
        vmm,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::empty(),
    );
    assert_eq!(sent.unwrap(), bytes.len());
}

/// Returns the id, the body's length and the number of descriptors.
fn next(receiver: &mut Receiver<'_>) -> (u16, usize, usize) {
    match receiver.receive(None).unwrap() {
        Received::Message(message) => (
            message.header.id,
            message.body.len(),
            message.descriptors.len(),
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_come_one_by_one_however_they_are_cut() {
    let (mut vmm, ours) = UnixStream::pair().unwrap();
    let halt = Halt::new().unwrap();
    let mut receiver = Receiver::new(ours.as_fd(), &halt, Unread::default());
    let long = vec![7; 3 * CHUNK];
    let all = [
        message(1, &[]),
        message(2, &[1, 2, 3]),
        message(3, &long),
        message(4, &[]),
    ]
    .concat();
    let writer = std::thread::spawn(move || {
        for piece in all.chunks(13) {
            vmm.write_all(piece).unwrap();
        }
    });
    for (id, length) in [(1, 0), (2, 3), (3, long.len()), (4, 0)] {
        assert_eq!(next(&mut receiver), (id, length, 0));
    }
    writer.join().unwrap();
    assert!(matches!(receiver.receive(None), Ok(Received::Closed)));
    assert!(receiver.input.capacity() <= 2 * CHUNK);
}

#[test]
fn long_message_that_comes_byte_by_byte_is_made_room_for_once() {
    let (mut vmm, ours) = UnixStream::pair().unwrap();
    let halt = Halt::new().unwrap();
    let mut receiver = Receiver::new(ours.as_fd(), &halt, Unread::default());
    let body: Vec<_> = (0..1 << 16).map(|at| at as u8).collect();
    let bytes = message(1, &body);
    let soon = || Some(Instant::now());
    let mut rooms = Vec::new();
    for byte in &bytes[..bytes.len() - 1] {
        vmm.write_all(&[*byte]).unwrap();
        assert!(matches!(receiver.receive(soon()), Ok(Received::Nothing)));
        rooms.push(receiver.input.as_ptr());
    }
    rooms.dedup();
    // Only a header whose size is not known yet may be moved.
    assert!(rooms.len() <= 4, "moved {} times", rooms.len());
    vmm.write_all(&bytes[bytes.len() - 1..]).unwrap();
    match receiver.receive(None).unwrap() {
        Received::Message(message) => assert_eq!(message.body, body),
        other => panic!("{other:?}"),
    }
    vmm.write_all(&message(2, &[])).unwrap();
    assert_eq!(next(&mut receiver), (2, 0, 0));
    assert!(
        receiver.input.capacity() <= 2 * CHUNK,
        "the memory is freed"
    );
}

#[test]
fn waiting_ends_at_the_deadline_and_loses_nothing() {
    let (mut vmm, ours) = UnixStream::pair().unwrap();
    let halt = Halt::new().unwrap();
    let mut receiver = Receiver::new(ours.as_fd(), &halt, Unread::default());
    let soon = || Some(Instant::now() + Duration::from_millis(1));
    assert!(matches!(receiver.receive(soon()), Ok(Received::Nothing)));
    let bytes = message(1, &[0; 8]);
    vmm.write_all(&bytes[..20]).unwrap();
    assert!(matches!(receiver.receive(soon()), Ok(Received::Nothing)));
    vmm.write_all(&bytes[20..]).unwrap();
    assert_eq!(next(&mut receiver), (1, 8, 0));
}

#[test]
fn descriptors_stay_with_their_message() {
    let (mut vmm, ours) = UnixStream::pair().unwrap();
    let halt = Halt::new().unwrap();
    let mut receiver = Receiver::new(ours.as_fd(), &halt, Unread::default());
    let file = File::open("/dev/null").unwrap();
    vmm.write_all(&message(1, &[])).unwrap();
    send_with(&vmm, &message(2, &[0; 4]), &[file.as_fd(), file.as_fd()]);
    vmm.write_all(&message(3, &[])).unwrap();
    send_with(&vmm, &message(4, &[]), &[file.as_fd()]);
    let found = [1, 2, 3, 4].map(|_| next(&mut receiver));
    assert_eq!(found, [(1, 0, 0), (2, 4, 2), (3, 0, 0), (4, 0, 1)]);
}

#[test]
fn request_to_stop_that_comes_before_the_wait_ends_it() {
    let (_vmm, ours) = UnixStream::pair().unwrap();
    let halt = Halt::new().unwrap();
    let mut receiver = Receiver::new(ours.as_fd(), &halt, Unread::default());
    halt.ask();
    assert!(matches!(receiver.receive(None), Ok(Received::Nothing)));
}

#[test]
fn nonsense_breaks_it() {
    for size in [0, 15, MAX_MESSAGE as u32 + 1, u32::MAX] {
        let (mut vmm, ours) = UnixStream::pair().unwrap();
        let halt = Halt::new().unwrap();
        let mut receiver = Receiver::new(ours.as_fd(), &halt, Unread::default());
        let mut bytes = message(1, &[]);
        bytes[4..8].copy_from_slice(&size.to_ne_bytes());
        vmm.write_all(&bytes).unwrap();
        let broken = receiver.receive(None).unwrap_err();
        assert!(matches!(broken, Broken::Size(claimed) if claimed == size));
    }
    let (mut vmm, ours) = UnixStream::pair().unwrap();
    let halt = Halt::new().unwrap();
    let mut receiver = Receiver::new(ours.as_fd(), &halt, Unread::default());
    vmm.write_all(&message(1, &[0; 8])[..20]).unwrap();
    drop(vmm);
    assert!(matches!(receiver.receive(None), Err(Broken::Cut)));
}

#[test]
fn too_many_descriptors_break_it() {
    let file = File::open("/dev/null").unwrap();
    let many = [file.as_fd(); MAX_DESCRIPTORS + 1];
    let (vmm, ours) = UnixStream::pair().unwrap();
    let halt = Halt::new().unwrap();
    let mut receiver = Receiver::new(ours.as_fd(), &halt, Unread::default());
    send_with(&vmm, &message(1, &[]), &many);
    assert!(matches!(receiver.receive(None), Err(Broken::Descriptors)));
    // A few with each byte of an endless message.
    let (vmm, ours) = UnixStream::pair().unwrap();
    let halt = Halt::new().unwrap();
    let mut receiver = Receiver::new(ours.as_fd(), &halt, Unread::default());
    for byte in message(1, &[0; 4]).iter().take(5) {
        send_with(&vmm, &[*byte], &many[..8]);
    }
    assert!(matches!(receiver.receive(None), Err(Broken::Descriptors)));
}

#[test]
fn answers_to_nobody_are_an_error_and_no_signal() {
    let (vmm, ours) = UnixStream::pair().unwrap();
    send_all(ours.as_fd(), b"answer").unwrap();
    drop(vmm);
    assert!(matches!(
        send_all(ours.as_fd(), b"answer"),
        Err(Broken::Kernel(_))
    ));
}
