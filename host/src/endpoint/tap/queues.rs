//! The number of a TAP's queues that any process has attached, and its drop counter.
//!
//! A TAP that was created with `multi_queue` has up to 256 queues, and spreads packets over
//! them, whichever process has them. Only its attributes say how many there are
//! (rtnetlink(7), `RTM_GETLINK`; linux/if_link.h, `IFLA_TUN_NUM_QUEUES`).

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, recv, send};
use zerocopy::{FromBytes, IntoBytes};

use super::netlink::{LinkMessage, MAX_ANSWER, NLMSG_ERROR, RTM_NEWLINK, find, number, open};

const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;

/// The counters of an interface, as its other side sees them.
#[derive(Debug)]
pub struct Dropped {
    socket: OwnedFd,
    index: u32,
    /// The packets that were dropped before.
    before: u64,
}

impl Dropped {
    /// Counts packets that the interface with this index drops from now on.
    pub fn open(index: u32) -> rustix::io::Result<Self> {
        let mut counted = Self {
            socket: open(SocketFlags::NONBLOCK)?,
            index,
            before: 0,
        };
        counted.before = counted.count()?;
        Ok(counted)
    }

    /// Returns how many packets the interface had no room for.
    pub fn count(&self) -> rustix::io::Result<u64> {
        let answer = ask(&self.socket, self.index)?;
        let (_, attributes) = link(&answer)?;
        let counters = find(attributes, IFLA_STATS64).unwrap_or_default();
        // `tx_dropped` of `struct rtnl_link_stats64`.
        let bytes = counters.get(56..64).ok_or(Errno::BADMSG)?;
        let bytes = bytes.try_into().map_err(|_| Errno::BADMSG)?;
        Ok(u64::from_ne_bytes(bytes).saturating_sub(self.before))
    }
}

/// Requests the attributes of an interface. The kernel's answer is available on return.
fn ask(socket: &OwnedFd, index: u32) -> rustix::io::Result<Vec<u8>> {
    let request = LinkMessage::get(index);
    send(socket, request.as_bytes(), SendFlags::empty())?;
    let mut answer = vec![0; MAX_ANSWER];
    let (length, _) = recv(socket, &mut answer[..], RecvFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

/// Returns how many queues of the interface with this index are attached, those that do not
/// receive at the moment included. One is attached if the interface has no more than that.
pub fn attached(index: u32) -> rustix::io::Result<u32> {
    let socket = open(SocketFlags::empty())?;
    queues_of(&ask(&socket, index)?)
}

/// Parses an answer.
fn link(answer: &[u8]) -> rustix::io::Result<(LinkMessage, &[u8])> {
    let (message, attributes) = LinkMessage::read_from_prefix(answer).map_err(|_| Errno::BADMSG)?;
    match message.kind {
        RTM_NEWLINK => Ok((message, attributes)),
        // The error is where the family and what follows it would be.
        NLMSG_ERROR => {
            let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
            Err(Errno::from_raw_os_error(-code))
        }
        _ => Err(Errno::BADMSG),
    }
}

/// Returns the queues that an answer reports.
fn queues_of(answer: &[u8]) -> rustix::io::Result<u32> {
    let (_, attributes) = link(answer)?;
    let info = find(attributes, IFLA_LINKINFO).and_then(|info| find(info, IFLA_INFO_DATA));
    let Some(info) = info else {
        return Ok(1);
    };
    let enabled = number(info, IFLA_TUN_NUM_QUEUES).unwrap_or(1);
    let disabled = number(info, IFLA_TUN_NUM_DISABLED_QUEUES).unwrap_or(0);
    Ok(enabled.saturating_add(disabled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, bytes: &[u8]) -> Vec<u8> {
        let length = 4 + bytes.len() as u16;
        let mut all = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), bytes].concat();
        all.resize(all.len().next_multiple_of(4), 0);
        all
    }

    fn answer(attributes: &[u8]) -> Vec<u8> {
        let message = LinkMessage {
            kind: RTM_NEWLINK,
            ..LinkMessage::default()
        };
        [message.as_bytes(), attributes].concat()
    }

    #[test]
    fn queues_are_found_among_other_attributes() {
        let number = |kind, number: u32| attribute(kind, &number.to_ne_bytes());
        let data = [number(8, 3), attribute(4, &[1]), number(9, 2)].concat();
        let info = [attribute(1, b"tun\0"), attribute(2 | 0x8000, &data)].concat();
        let all = [attribute(3, b"tap-x\0"), attribute(18, &info)].concat();
        assert_eq!(queues_of(&answer(&all)), Ok(5));
        assert_eq!(queues_of(&answer(&[])), Ok(1));
    }

    #[test]
    fn cut_and_broken_answers_end() {
        let data = attribute(8, &7_u32.to_ne_bytes());
        let whole = answer(&attribute(18, &attribute(2, &data)));
        for end in 0..whole.len() {
            let _ = queues_of(&whole[..end]);
        }
        assert_eq!(queues_of(&answer(&[0; 64])), Ok(1));
        let mut refused = answer(&[0; 16]);
        refused[4] = 2;
        refused[16..20].copy_from_slice(&(-19_i32).to_ne_bytes());
        assert_eq!(queues_of(&refused), Err(Errno::NODEV));
    }
}
