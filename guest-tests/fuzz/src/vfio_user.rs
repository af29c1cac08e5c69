//! Bytes and descriptors of any kind on the vfio-user socket.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use manatee::device::{Device, Port};
use manatee::endpoint::Loopback;
use manatee::interrupt::Interrupts;
use manatee::vfio_user::{Server, Vectors};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, inotify, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::direct_abi::component;

/// Sends the input's messages over a connection of its own. The server answers or
/// closes the connection, and accepts the next.
pub fn run(data: &[u8]) {
    let mut stream = UnixStream::connect(socket()).expect("the server is there");
    let mut input = Unstructured::new(data);
    while !input.is_empty() && send(&stream, &mut input).is_ok() {}
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = [0; 4096];
    while matches!(stream.read(&mut answer), Ok(1..)) {}
}

/// Sends a message, mostly one with a valid header.
fn send(stream: &UnixStream, input: &mut Unstructured<'_>) -> Result<()> {
    let command = match input.int_in_range(0..=15)? {
        0 => input.arbitrary::<u16>()?,
        n => n,
    };
    let length = input.int_in_range(0..=128_usize)?;
    let size = match input.int_in_range(0..=15)? {
        0 => input.arbitrary::<u32>()?,
        _ => 16 + length.min(input.len().saturating_sub(4)) as u32,
    };
    let kinds = input.int_in_range(0..=3_usize)?;
    let descriptors: Vec<OwnedFd> = (0..kinds)
        .filter_map(|_| descriptor(input.arbitrary().unwrap_or_default()))
        .collect();
    let mut message = Vec::new();
    message.extend(1_u16.to_le_bytes());
    message.extend(command.to_le_bytes());
    message.extend(size.to_le_bytes());
    message.extend([0; 8]);
    message.extend(input.bytes(length.min(input.len()))?);
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    // A closed connection is an answer, too.
    let _ = sendmsg(
        stream,
        &[IoSlice::new(&message)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
    Ok(())
}

/// Creates a descriptor of some kind.
fn descriptor(kind: u8) -> Option<OwnedFd> {
    match kind % 6 {
        0 | 1 => {
            let file = memfd_create("guest", MemfdFlags::CLOEXEC).ok()?;
            rustix::fs::ftruncate(&file, 1 << 20).ok()?;
            Some(file)
        }
        2 => eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok(),
        3 => eventfd(u32::MAX, EventfdFlags::CLOEXEC).ok(),
        4 => inotify::init(inotify::CreateFlags::CLOEXEC).ok(),
        _ => UnixStream::pair().ok().map(|(one, _)| one.into()),
    }
}

/// Starts the server once; it runs until the process ends.
fn socket() -> &'static PathBuf {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder").keep();
        let path = folder.join("vfio.sock");
        let port = Port {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            link_speed_mbps: 10_000,
            endpoint: Box::new(Loopback::new()),
        };
        let vectors = Vectors::new(65);
        let sink = Interrupts::Vectors(Box::new(vectors.clone()));
        let device = Device::new(component(true), vec![port], sink).expect("a device");
        let server = Server::bind(&path).expect("the socket is free");
        std::thread::spawn(move || server.serve(&device, &vectors));
        path
    })
}
