//! What the kernel does with peeks at a Unix stream socket: the contract that the journal
//! stands on.

use std::io::{IoSliceMut, Write};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};

use super::*;

const PEEK: RecvFlags = RecvFlags::PEEK.union(RecvFlags::DONTWAIT);

fn pair() -> (UnixStream, UnixStream) {
    let (vmm, ours) = UnixStream::pair().unwrap();
    set_offset(ours.as_fd(), 0).unwrap();
    (vmm, ours)
}

/// Receives bytes, and returns them with the number of descriptors that came along.
fn take(socket: &UnixStream, room: usize, flags: RecvFlags) -> (Vec<u8>, usize) {
    let mut bytes = vec![0; room];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut slices, &mut ancillary, flags).unwrap();
    let count = |message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.count(),
        _ => 0,
    };
    let descriptors = ancillary.drain().map(count).sum();
    bytes.truncate(received.bytes);
    (bytes, descriptors)
}

fn send_with(vmm: &UnixStream, bytes: &[u8], fd: &UnixStream) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd(), fd.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let slices = [std::io::IoSlice::new(bytes)];
    let sent = sendmsg(vmm, &slices, &mut ancillary, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

fn readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

#[test]
fn offset_counts_what_is_peeked_at_and_not_consumed() {
    let (mut vmm, ours) = UnixStream::pair().unwrap();
    assert_eq!(offset(ours.as_fd()), Ok(OFF));
    set_offset(ours.as_fd(), 0).unwrap();
    vmm.write_all(b"abcd").unwrap();
    vmm.write_all(b"efgh").unwrap();
    assert_eq!(take(&ours, 3, PEEK).0, b"abc");
    assert_eq!(take(&ours, 9, PEEK).0, b"defgh", "over the packets' border");
    assert_eq!(offset(ours.as_fd()), Ok(8));
    let nothing = recv(&ours, &mut [0; 4], PEEK).unwrap_err();
    assert_eq!(nothing, Errno::AGAIN);
    assert_eq!(take(&ours, 6, RecvFlags::DONTWAIT).0, b"abcdef");
    assert_eq!(offset(ours.as_fd()), Ok(2));
    vmm.write_all(b"ij").unwrap();
    assert_eq!(take(&ours, 9, PEEK).0, b"ij");
    set_offset(ours.as_fd(), 0).unwrap();
    assert_eq!(take(&ours, 9, PEEK).0, b"ghij");
    // It is one for all descriptors of the socket.
    assert_eq!(offset(ours.try_clone().unwrap().as_fd()), Ok(4));
    drop(vmm);
    assert_eq!(take(&ours, 9, PEEK).0, b"", "the VMM has gone");
    set_offset(ours.as_fd(), OFF).unwrap();
    assert_eq!(take(&ours, 9, PEEK).0, b"ghij");
}

#[test]
fn descriptors_come_with_every_peek_at_their_packet_and_end_it() {
    let (mut vmm, ours) = pair();
    vmm.write_all(b"ab").unwrap();
    send_with(&vmm, b"cdef", &vmm);
    vmm.write_all(b"gh").unwrap();
    // As much as there is room for, and they would come again with the rest.
    assert_eq!(take(&ours, 4, PEEK), (b"abcd".to_vec(), 2));
    assert_eq!(take(&ours, 9, PEEK), (b"ef".to_vec(), 2));
    assert_eq!(take(&ours, 9, PEEK), (b"gh".to_vec(), 0));
    set_offset(ours.as_fd(), 0).unwrap();
    assert_eq!(take(&ours, 9, PEEK), (b"abcdef".to_vec(), 2));
    // Consuming ends there too.
    assert_eq!(take(&ours, 8, RecvFlags::empty()), (b"abcdef".to_vec(), 2));
    assert_eq!(offset(ours.as_fd()), Ok(0));
}

#[test]
fn consumed_start_of_a_packet_takes_its_descriptors_along() {
    let (vmm, ours) = pair();
    send_with(&vmm, b"abcd", &vmm);
    assert_eq!(take(&ours, 9, PEEK), (b"abcd".to_vec(), 2));
    assert_eq!(take(&ours, 1, RecvFlags::empty()), (b"a".to_vec(), 2));
    set_offset(ours.as_fd(), 0).unwrap();
    assert_eq!(take(&ours, 9, PEEK), (b"bcd".to_vec(), 0));
}

#[test]
fn arrivals_wake_once_where_the_socket_stays_readable() {
    let (mut vmm, ours) = pair();
    vmm.write_all(b"ab").unwrap();
    assert_eq!(take(&ours, 9, PEEK).0, b"ab");
    let arrivals = Arrivals::of(ours.as_fd()).unwrap();
    assert!(readable(&arrivals), "something may have come before");
    arrivals.forget().unwrap();
    assert!(readable(&ours), "it is not consumed");
    assert!(!readable(&arrivals));
    vmm.write_all(b"cd").unwrap();
    assert!(readable(&arrivals));
    arrivals.forget().unwrap();
    assert_eq!(take(&ours, 9, PEEK).0, b"cd");
    assert!(!readable(&arrivals));
    drop(vmm);
    assert!(readable(&arrivals));
}

#[test]
fn pipe_is_moved_to_the_socket_and_keeps_what_has_no_room() {
    use rustix::pipe::{SpliceFlags, splice};
    let (vmm, ours) = pair();
    let (out, into) = std::io::pipe().unwrap();
    let answer: Vec<_> = (0..1 << 16).map(|at: u32| at as u8).collect();
    assert_eq!(rustix::io::write(&into, &answer).unwrap(), answer.len());
    let flags = SpliceFlags::NONBLOCK;
    let moved = splice(&out, None, &ours, None, 1000, flags).unwrap();
    assert_eq!(moved, 1000);
    assert_eq!(rustix::io::ioctl_fionread(&out).unwrap(), (1 << 16) - 1000);
    let mut left = answer.len() - moved;
    while left > 0 {
        left -= splice(&out, None, &ours, None, left, flags).unwrap();
    }
    let empty = splice(&out, None, &ours, None, 1, flags);
    assert_eq!(empty, Err(Errno::AGAIN));
    let mut got = Vec::new();
    while got.len() < answer.len() {
        got.extend(take(&vmm, 1 << 16, RecvFlags::empty()).0);
    }
    assert!(got == answer);
}
