//! TAP interfaces whose queues another process has opened: a manager that may create
//! interfaces, for a process that may not.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use super::attach::{Attached, TapError, set_up};
use super::{ioctl, queues};
use crate::endpoint::queue_set::MAX_QUEUES;

/// The flags that a queue must be opened with, and those that it must not.
const WANTED: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Takes queues of one interface, of TAP or macvtap. Returns them with its name.
pub fn adopt(fds: Vec<OwnedFd>) -> Result<(String, Attached), TapError> {
    let count = u16::try_from(fds.len()).unwrap_or(u16::MAX);
    if !(1..=MAX_QUEUES).contains(&count) {
        return Err(TapError::QueueCount(count));
    }
    let name = interface_of(fds[0].as_fd())?;
    for fd in &fds {
        let other = interface_of(fd.as_fd())?;
        if other != name {
            return Err(TapError::Different(name, other));
        }
    }
    let failed = |step| {
        let name = name.clone();
        move |error: Errno| TapError::Setup {
            name,
            step,
            source: error.into(),
        }
    };
    for fd in &fds {
        let flags = fcntl_getfl(fd).map_err(failed("F_GETFL"))?;
        fcntl_setfl(fd, flags | OFlags::NONBLOCK).map_err(failed("F_SETFL"))?;
    }
    set_up(fds[0].as_fd()).map_err(|(step, error)| failed(step)(error))?;
    let here = Here::find(fds[0].as_fd(), &name);
    if let Some(Here { index, .. }) = here
        && let Ok(attached) = queues::attached(index)
        && attached > count.into()
    {
        return Err(TapError::Shared(name, attached - u32::from(count)));
    }
    let attached = Attached {
        fds,
        index: here.map_or(0, |here| here.index),
        mtu: here.map(|here| here.mtu),
        dropped: here.and_then(|here| queues::Dropped::open(here.index).ok()),
        created: false,
    };
    Ok((name, attached))
}

/// Returns the name of the interface whose queue this is.
fn interface_of(fd: BorrowedFd<'_>) -> Result<String, TapError> {
    let (name, flags) = ioctl::interface(fd).map_err(|error| match error {
        Errno::BADFD => TapError::Detached,
        _ => TapError::NoTap,
    })?;
    if flags & libc::IFF_TAP == 0 {
        return Err(TapError::WrongKind(name));
    }
    match flags & WANTED == WANTED {
        true => Ok(name),
        false => Err(TapError::WrongMode(name)),
    }
}

/// An interface in this network namespace.
#[derive(Clone, Copy, Debug)]
struct Here {
    index: u32,
    mtu: u16,
}

impl Here {
    /// Finds the interface of a queue. None if it is in another namespace, where its state is
    /// invisible: one of the same name here has another address.
    fn find(fd: BorrowedFd<'_>, name: &str) -> Option<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
        let index = netdevice::name_to_index(&socket, name).ok()?;
        let own = ioctl::hardware_address(fd, name).ok()?;
        let found = ioctl::hardware_address(socket.as_fd(), name).ok()?;
        let mtu = ioctl::interface_mtu(socket.as_fd(), name).ok()?;
        (own == found).then_some(Self {
            index,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        })
    }
}
