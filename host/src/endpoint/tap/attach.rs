//! Attaches to a TAP interface.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use super::{ioctl, queues};
use crate::endpoint::queue_set::MAX_QUEUES;
use crate::endpoint::vnet::VNET_HEADER_BYTES;

const DRIVER: &str = "/dev/net/tun";

/// Ethernet frames with a virtio-net header, without the kernel's protocol information.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Room for an interface's name, the zero at its end included (`IFNAMSIZ`).
const NAME_ROOM: usize = libc::IFNAMSIZ;

/// How long an interface may be in use before it is refused: the kernel releases it a moment
/// after its process has ended, or its io_uring is closed.
const PATIENCE: Duration = Duration::from_millis(500);
/// The interval between attempts meanwhile; there is no event for the release.
const PAUSE: Duration = Duration::from_millis(5);

/// The most queues that an interface is created with by default.
const MOST_BY_DEFAULT: u16 = 16;

/// Why a TAP can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Linux would refuse the name, or treat it as a pattern.
    #[error(
        "`{0}` can't be the name of a TAP interface: use 1 to 15 characters, and no `/`, `:`, `%` or white space"
    )]
    InvalidName(String),
    /// The driver's node is missing.
    #[error(
        "there is no {DRIVER}: load the driver (`modprobe tun`), or give the container that device"
    )]
    NoDriver,
    /// The driver's node can't be opened.
    #[error("{DRIVER} can't be opened ({0}): run as a user who may read and write it")]
    DriverClosed(std::io::Error),
    /// The interface is missing and may not be made.
    #[error(
        "there is no interface `{0}`, and making one needs CAP_NET_ADMIN: `sudo ip tuntap add dev {0} mode tap user $USER`, or run as root"
    )]
    Missing(String),
    /// The interface belongs to someone else.
    #[error(
        "the TAP interface `{0}` belongs to another user: make it again with `sudo ip tuntap add dev {0} mode tap user $USER`, or run as root"
    )]
    NotPermitted(String),
    /// Another process holds the interface.
    #[error(
        "the TAP interface `{0}` is in use by another process: stop that one, or choose another interface"
    )]
    Busy(String),
    /// Another process has a queue of the interface, and would get some of the packets.
    #[error(
        "the TAP interface `{0}` is in use: {1} of its queues are attached elsewhere, and packets \
         would be shared with them; stop whoever has them, or choose another interface"
    )]
    Shared(String, u32),
    /// The interface has one queue, and several were asked for.
    #[error(
        "the TAP interface `{0}` has one queue, and {1} are asked for: make it again with `sudo \
         ip tuntap add dev {0} mode tap multi_queue user $USER`, or ask for queues=1"
    )]
    OneQueue(String, u16),
    /// The interface has no more queues.
    #[error(
        "the TAP interface `{0}` has only {1} queues left, and {2} are asked for: stop whoever has \
         the others, or ask for fewer"
    )]
    TooFewQueues(String, u16, u16),
    /// A port can't have this many queues.
    #[error("{0} queues are asked for; a port has 1 to {MAX_QUEUES}")]
    QueueCount(u16),
    /// The interface is no TAP.
    #[error(
        "the interface `{0}` exists but is no TAP (another kind of interface, or a TUN): choose another name, or make one with `sudo ip tuntap add dev NAME mode tap`"
    )]
    WrongKind(String),
    /// A descriptor is no queue of a TAP.
    #[error(
        "it is no queue of a TAP or macvtap interface: hand over one that was opened as \
         /dev/net/tun or /dev/tapN"
    )]
    NoTap,
    /// A descriptor of the driver has no interface.
    #[error("it is no queue of an interface yet: whoever opens it has to do TUNSETIFF")]
    Detached,
    /// A queue was opened in another way.
    #[error(
        "the queue of `{0}` was opened in another way than it has to be: with IFF_TAP, IFF_NO_PI and \
         IFF_VNET_HDR (`vnet_hdr=on` of those who open it for QEMU)"
    )]
    WrongMode(String),
    /// Queues are of different interfaces.
    #[error("the descriptors are queues of `{0}` and `{1}`: a port has one interface")]
    Different(String, String),
    /// Any other failure.
    #[error("setting up the TAP interface `{name}`: {step}: {source}")]
    Setup {
        /// Its name.
        name: String,
        /// The operation that failed.
        step: &'static str,
        /// The kernel's error.
        source: std::io::Error,
    },
}

/// A TAP interface that this process is attached to.
#[derive(Debug)]
pub struct Attached {
    /// The descriptors of its queues.
    pub fds: Vec<OwnedFd>,
    /// The kernel's number for it; 0 if it is in another network namespace.
    pub index: u32,
    /// Its MTU when it was attached; None if the interface is in another network namespace.
    pub mtu: Option<u16>,
    /// Its drop counter, if the kernel reports one.
    pub dropped: Option<queues::Dropped>,
    /// Whether it was created here, and is removed with `fds`.
    pub created: bool,
}

/// Attaches to the TAP of this name with `count` queues, or creates one.
pub fn attach(name: &str, queues: Option<u16>) -> Result<Attached, TapError> {
    check_name(name)?;
    if let Some(count) = queues.filter(|count| !(1..=MAX_QUEUES).contains(count)) {
        return Err(TapError::QueueCount(count));
    }
    let give_up = Instant::now() + PATIENCE;
    loop {
        match try_attach(name, queues) {
            // One that is about to go may have had one queue.
            Err(TapError::Busy(_) | TapError::Shared(..) | TapError::OneQueue(..))
                if Instant::now() < give_up =>
            {
                thread::sleep(PAUSE);
            }
            attached => return attached,
        }
    }
}

fn failed(name: &str, step: &'static str) -> impl FnOnce(Errno) -> TapError {
    move |error| TapError::Setup {
        name: name.to_owned(),
        step,
        source: error.into(),
    }
}

/// Returns a socket for queries about interfaces.
fn asking(name: &str) -> Result<OwnedFd, TapError> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
    socket_with(family, kind, SocketFlags::CLOEXEC, None)
        .map_err(failed(name, "a socket to ask about interfaces"))
}

fn try_attach(name: &str, queues: Option<u16>) -> Result<Attached, TapError> {
    let existed = netdevice::name_to_index(asking(name)?, name).is_ok();
    let count = queues.unwrap_or_else(|| if existed { 1 } else { by_default() });
    let fds = claim_all(name, existed, count)?;
    take(name, fds, existed)
}

/// Sets up the interface of this name, of which these are all queues in use.
fn take(name: &str, fds: Vec<OwnedFd>, existed: bool) -> Result<Attached, TapError> {
    let failed = |step| failed(name, step);
    let socket = asking(name)?;
    // There are 64 at most.
    let count = fds.len() as u16;
    // Checked after attaching, so that of two processes at least one notices the other.
    let index = netdevice::name_to_index(&socket, name).map_err(failed("SIOCGIFINDEX"))?;
    let attached = queues::attached(index).map_err(failed("RTM_GETLINK"))?;
    if attached > count.into() {
        return Err(TapError::Shared(
            name.to_owned(),
            attached - u32::from(count),
        ));
    }
    // What follows is the interface's, whichever queue it is said to.
    set_up(fds[0].as_fd()).map_err(|(step, error)| failed(step)(error))?;
    let mtu = ioctl::interface_mtu(socket.as_fd(), name).map_err(failed("SIOCGIFMTU"))?;
    Ok(Attached {
        fds,
        index,
        mtu: Some(u16::try_from(mtu).unwrap_or(u16::MAX)),
        dropped: queues::Dropped::open(index).ok(),
        created: !existed,
    })
}

/// Configures an interface, through any of its queues. Returns the operation that failed.
pub fn set_up(fd: BorrowedFd<'_>) -> Result<(), (&'static str, Errno)> {
    let at = |step| move |error| (step, error);
    ioctl::set_header_size(fd, VNET_HEADER_BYTES as libc::c_int).map_err(at("TUNSETVNETHDRSZ"))?;
    ioctl::set_little_endian(fd).map_err(at("TUNSETVNETLE"))?;
    // No segmentation offload: the device can't deliver packets longer than
    // the MTU. Set even so, since the interface may remember another owner's.
    ioctl::set_offload(fd, libc::TUN_F_CSUM).map_err(at("TUNSETOFFLOAD"))
}

/// Returns how many queues to create an interface with.
fn by_default() -> u16 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    processors.min(MOST_BY_DEFAULT.into()) as u16
}

/// Attaches to an interface with `count` queues, or creates it.
fn claim_all(name: &str, existed: bool, count: u16) -> Result<Vec<OwnedFd>, TapError> {
    let mut fds = Vec::new();
    for claimed in 0..count {
        let fd = open_driver()?;
        let done = match count {
            1 => claim(fd.as_fd(), name),
            _ => ioctl::set_interface(fd.as_fd(), name, FLAGS | libc::IFF_MULTI_QUEUE),
        };
        match done {
            Ok(()) => fds.push(fd),
            Err(Errno::TOOBIG) => {
                return Err(TapError::TooFewQueues(name.to_owned(), claimed, count));
            }
            Err(Errno::INVAL) if existed && has_one_queue(name) => {
                return Err(TapError::OneQueue(name.to_owned(), count));
            }
            Err(error) => return Err(refused(name, existed, error)),
        }
    }
    Ok(fds)
}

/// Returns whether an interface that refuses several queues accepts one.
fn has_one_queue(name: &str) -> bool {
    open_driver().is_ok_and(|fd| {
        let one = ioctl::set_interface(fd.as_fd(), name, FLAGS);
        matches!(one, Ok(()) | Err(Errno::BUSY))
    })
}

/// Checks a name as the kernel's `dev_valid_name` does; with `%` it would choose a number.
fn check_name(name: &str) -> Result<(), TapError> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    let fits = (1..NAME_ROOM).contains(&name.len());
    if !fits || name == "." || name == ".." || name.contains(odd) {
        return Err(TapError::InvalidName(name.to_owned()));
    }
    Ok(())
}

fn open_driver() -> Result<OwnedFd, TapError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(DRIVER, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => TapError::NoDriver,
        other => TapError::DriverClosed(other.into()),
    })
}

/// Attaches to an interface of one queue, or to a queue of one that
/// was made with `multi_queue`: the kernel wants to hear which it is. Of the
/// latter kind it gives every process a queue, and says to none that it is busy;
/// see [`queues`].
fn claim(tun: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    match ioctl::set_interface(tun, name, FLAGS) {
        Err(Errno::INVAL) => ioctl::set_interface(tun, name, FLAGS | libc::IFF_MULTI_QUEUE),
        done => done,
    }
}

fn refused(name: &str, existed: bool, error: Errno) -> TapError {
    let name = name.to_owned();
    match error {
        Errno::PERM | Errno::ACCESS if existed => TapError::NotPermitted(name),
        Errno::PERM | Errno::ACCESS => TapError::Missing(name),
        Errno::BUSY => TapError::Busy(name),
        Errno::INVAL if existed => TapError::WrongKind(name),
        other => TapError::Setup {
            name,
            step: "TUNSETIFF",
            source: other.into(),
        },
    }
}
