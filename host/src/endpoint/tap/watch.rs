//! Watches TAP interfaces while they are in use: whether they are up, and their MTU.
//!
//! The kernel reports every change of an interface over netlink (rtnetlink(7)), to sockets that
//! subscribed before: one that is opened at the start can be read in a jail.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, bind, recvfrom, send};
use zerocopy::{FromBytes, IntoBytes};

use super::netlink::{LinkMessage, MAX_ANSWER, RTM_DELLINK, RTM_NEWLINK, find, number, open};

/// Changes of interfaces (`RTMGRP_LINK`).
const LINKS: u32 = 1;

const IFLA_MTU: u16 = 4;
/// The attribute with the new namespace of an interface that was moved to it.
const IFLA_NEW_NETNSID: u16 = 45;

const IFF_UP: u32 = 1;
/// It has a carrier.
const IFF_LOWER_UP: u32 = 1 << 16;

/// Messages that are read at a time.
const BUDGET: usize = 64;

/// The state of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum InterfaceState {
    /// Packets pass.
    Up,
    /// Packets are dropped.
    Down,
    /// The interface was deleted.
    Gone,
}

/// The last known state of a TAP interface. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct TapLink(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    name: String,
    index: u32,
    state: AtomicU8,
    mtu: AtomicU16,
    /// Whether the kernel reports changes.
    watched: AtomicBool,
}

impl TapLink {
    pub(super) fn new(name: &str, index: u32, mtu: u16) -> Self {
        Self(Arc::new(Seen {
            name: name.to_owned(),
            index,
            state: AtomicU8::new(InterfaceState::Up as u8),
            mtu: AtomicU16::new(mtu),
            watched: AtomicBool::new(false),
        }))
    }

    /// Returns the interface's name when it was attached.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns its state: as packets show it, if nobody [watches](LinkWatch).
    pub fn state(&self) -> InterfaceState {
        match self.0.state.load(Ordering::Relaxed) {
            0 => InterfaceState::Up,
            1 => InterfaceState::Down,
            _ => InterfaceState::Gone,
        }
    }

    /// Returns its MTU: as it was at the start, if nobody [watches](LinkWatch).
    pub fn mtu(&self) -> u16 {
        self.0.mtu.load(Ordering::Relaxed)
    }

    /// Returns whether it is in this network namespace, where the kernel reports it.
    fn is_here(&self) -> bool {
        self.0.index != 0
    }

    /// Records the state that a packet shows. For up or down, the kernel's reports take precedence:
    /// packets may have waited.
    pub(super) fn note_by_packet(&self, state: InterfaceState) {
        if state == InterfaceState::Gone || !self.0.watched.load(Ordering::Relaxed) {
            self.note(state);
        }
    }

    /// Records its state, and logs a change, whoever notices first. Returns whether it changed.
    fn note(&self, state: InterfaceState) -> bool {
        // A load is cheaper than a write, and each packet gets here.
        if self.state() == state || self.0.state.swap(state as u8, Ordering::Relaxed) == state as u8
        {
            return false;
        }
        let interface = self.name();
        match state {
            InterfaceState::Up => tracing::info!(interface, "the interface is up"),
            InterfaceState::Down => tracing::warn!(
                interface,
                "the interface is down, packets are dropped; `ip link set {interface} up`"
            ),
            InterfaceState::Gone => tracing::error!(interface, "the interface was deleted"),
        }
        true
    }
}

/// Watches TAP interfaces.
#[derive(Debug)]
pub struct LinkWatch {
    socket: OwnedFd,
    taps: Vec<TapLink>,
    buffer: Vec<u8>,
}

impl LinkWatch {
    /// Watches these interfaces, which are in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// If a system call fails.
    pub fn open(taps: Vec<TapLink>) -> io::Result<Self> {
        let socket = open(SocketFlags::NONBLOCK)?;
        bind(&socket, &SocketAddrNetlink::new(0, LINKS))?;
        let watch = Self {
            socket,
            taps,
            buffer: vec![0; MAX_ANSWER],
        };
        watch.ask()?;
        for tap in watch.taps.iter().filter(|tap| tap.is_here()) {
            tap.0.watched.store(true, Ordering::Relaxed);
        }
        Ok(watch)
    }

    /// Requests the state of all. The answers are like reports of changes.
    fn ask(&self) -> io::Result<()> {
        for tap in self.taps.iter().filter(|tap| tap.is_here()) {
            let request = LinkMessage::get(tap.0.index);
            send(&self.socket, request.as_bytes(), SendFlags::empty())?;
        }
        Ok(())
    }

    /// Handles pending reports, without waiting. Returns whether an interface has changed; None if
    /// nothing was pending.
    ///
    /// # Errors
    ///
    /// If the socket fails: nothing is reported any more.
    pub fn note(&mut self) -> io::Result<Option<bool>> {
        let mut changed = None;
        for _ in 0..BUDGET {
            let received = recvfrom(&self.socket, &mut self.buffer[..], RecvFlags::empty());
            let (_, length, sender) = match received {
                Ok(received) => received,
                Err(Errno::WOULDBLOCK) => break,
                Err(Errno::INTR) => continue,
                Err(Errno::NOBUFS) => {
                    // Reports were lost.
                    self.ask()?;
                    continue;
                }
                Err(errno) => return Err(errno.into()),
            };
            let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
            // Other processes may send too.
            if sender.is_some_and(|sender| sender.pid() == 0) {
                let news = note_all(&self.taps, &self.buffer[..length.min(MAX_ANSWER)]);
                changed = Some(changed.unwrap_or(false) | news);
            }
        }
        Ok(changed)
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Handles messages. Returns whether an interface has changed.
fn note_all(taps: &[TapLink], mut messages: &[u8]) -> bool {
    let mut changed = false;
    while let Ok((message, _)) = LinkMessage::read_from_prefix(messages) {
        let length = message.length as usize;
        let Some(attributes) = messages.get(size_of::<LinkMessage>()..length) else {
            break;
        };
        let tap = taps
            .iter()
            .find(|tap| tap.is_here() && tap.0.index == message.index);
        if let Some(tap) = tap
            && tap.state() != InterfaceState::Gone
        {
            changed |= note(tap, &message, attributes);
        }
        let next = messages.get(length.next_multiple_of(4)..);
        messages = next.unwrap_or_default();
    }
    changed
}

fn note(tap: &TapLink, message: &LinkMessage, attributes: &[u8]) -> bool {
    match message.kind {
        RTM_NEWLINK => {
            let up = IFF_UP | IFF_LOWER_UP;
            let state = match message.device_flags & up == up {
                true => InterfaceState::Up,
                false => InterfaceState::Down,
            };
            let mtu = number(attributes, IFLA_MTU).unwrap_or_default();
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
            let same = tap.0.mtu.swap(mtu, Ordering::Relaxed) == mtu;
            if !same {
                tracing::info!(
                    interface = tap.name(),
                    mtu,
                    "the interface's MTU has changed"
                );
            }
            tap.note(state) | !same
        }
        RTM_DELLINK if find(attributes, IFLA_NEW_NETNSID).is_some() => {
            let interface = tap.name();
            tracing::warn!(
                interface,
                "the interface was moved to another network namespace, where its state is not \
                 seen: it is taken to be up"
            );
            tap.note(InterfaceState::Up)
        }
        RTM_DELLINK => tap.note(InterfaceState::Gone),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, index: u32, device_flags: u32, attributes: &[u8]) -> Vec<u8> {
        let message = LinkMessage {
            length: (size_of::<LinkMessage>() + attributes.len()) as u32,
            kind,
            index,
            device_flags,
            ..LinkMessage::default()
        };
        [message.as_bytes(), attributes].concat()
    }

    fn mtu(mtu: u32) -> Vec<u8> {
        [
            &8_u16.to_ne_bytes()[..],
            &IFLA_MTU.to_ne_bytes(),
            &mtu.to_ne_bytes(),
        ]
        .concat()
    }

    #[test]
    fn several_messages_come_at_once() {
        let taps = [TapLink::new("a", 1, 1500), TapLink::new("b", 2, 1500)];
        let all = [
            message(RTM_NEWLINK, 1, IFF_UP, &mtu(1500)),
            message(RTM_NEWLINK, 3, 0, &mtu(68)),
            message(RTM_DELLINK, 2, 0, &[]),
        ];
        assert!(note_all(&taps, &all.concat()));
        assert_eq!(taps[0].state(), InterfaceState::Down);
        assert_eq!(taps[1].state(), InterfaceState::Gone);
        assert!(!note_all(&taps, &all.concat()));
        let up = IFF_UP | IFF_LOWER_UP;
        assert!(note_all(&taps, &message(RTM_NEWLINK, 1, up, &mtu(9000))));
        assert_eq!((taps[0].state(), taps[0].mtu()), (InterfaceState::Up, 9000));
        // Its number has been reused by another interface.
        assert!(!note_all(&taps, &message(RTM_NEWLINK, 2, up, &mtu(1500))));
    }

    #[test]
    fn cut_and_broken_messages_end() {
        let taps = [TapLink::new("a", 1, 1500)];
        let whole = message(RTM_NEWLINK, 1, 0, &mtu(1500));
        for end in 0..whole.len() {
            assert!(!note_all(&taps, &whole[..end]));
        }
        assert!(!note_all(&taps, &[0; 64]));
        assert!(!note_all(&taps, &[0xff; 64]));
    }
}
