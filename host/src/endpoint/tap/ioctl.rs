//! The ioctls that a TAP needs, each as a safe function.
//!
//! linux/if_tun.h and linux/sockios.h; netdevice(7). This is the endpoints'
//! only unsafe code.

use std::os::fd::BorrowedFd;

use rustix::io::{Errno, Result};
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl};

const TUNSETIFF: Opcode = libc::TUNSETIFF as Opcode;
const TUNSETOFFLOAD: Opcode = libc::TUNSETOFFLOAD as Opcode;
const TUNSETVNETHDRSZ: Opcode = libc::TUNSETVNETHDRSZ as Opcode;
const TUNSETVNETLE: Opcode = libc::TUNSETVNETLE as Opcode;
const TUNGETIFF: Opcode = libc::TUNGETIFF as Opcode;
const SIOCGIFHWADDR: Opcode = libc::SIOCGIFHWADDR as Opcode;
const SIOCGIFMTU: Opcode = libc::SIOCGIFMTU as Opcode;

/// Attaches a descriptor of `/dev/net/tun` to the interface of this name, which is created if
/// there is none. `flags` are `IFF_TAP` and the like.
pub fn set_interface(tun: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(|_| Errno::INVAL)?;
    // SAFETY: TUNSETIFF reads a `struct ifreq` and writes the name back to it.
    unsafe { ioctl(tun, Updater::<TUNSETIFF, _>::new(&mut request)) }
}

/// Sets which offloads the interface may leave to this process: `TUN_F_CSUM` and the like.
pub fn set_offload(tun: BorrowedFd<'_>, flags: libc::c_uint) -> Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    unsafe {
        ioctl(
            tun,
            IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags as usize),
        )
    }
}

/// Sets the length of the virtio-net header.
pub fn set_header_size(tun: BorrowedFd<'_>, bytes: libc::c_int) -> Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    unsafe { ioctl(tun, Setter::<TUNSETVNETHDRSZ, libc::c_int>::new(bytes)) }
}

/// Makes the virtio-net header's fields little-endian on every machine.
pub fn set_little_endian(tun: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: TUNSETVNETLE reads an int.
    unsafe { ioctl(tun, Setter::<TUNSETVNETLE, libc::c_int>::new(1)) }
}

/// Enables or disables reception on a queue of a `multi_queue` interface.
#[cfg(test)]
pub fn set_queue(tun: BorrowedFd<'_>, receives: bool) -> Result<()> {
    const TUNSETQUEUE: Opcode = rustix::ioctl::opcode::write::<libc::c_int>(b'T', 217);
    let mut request = request("")?;
    request.ifr_ifru.ifru_flags = match receives {
        true => libc::IFF_ATTACH_QUEUE as i16,
        false => libc::IFF_DETACH_QUEUE as i16,
    };
    // SAFETY: TUNSETQUEUE reads a `struct ifreq`.
    unsafe { ioctl(tun, Updater::<TUNSETQUEUE, _>::new(&mut request)) }
}

/// Returns the MTU of an interface, asked of any socket in its network namespace.
pub fn interface_mtu(socket: BorrowedFd<'_>, name: &str) -> Result<libc::c_int> {
    let mut request = request(name)?;
    // SAFETY: SIOCGIFMTU reads the name in a `struct ifreq` and writes the MTU.
    unsafe { ioctl(socket, Updater::<SIOCGIFMTU, _>::new(&mut request))? };
    // SAFETY: every bit pattern is an int, and all of the union was
    // initialised by `request`.
    Ok(unsafe { request.ifr_ifru.ifru_mtu })
}

/// Returns the name of the interface that a descriptor is a queue of, and how it was opened.
pub fn interface(tun: BorrowedFd<'_>) -> Result<(String, libc::c_int)> {
    let mut request = request("")?;
    // SAFETY: TUNGETIFF writes a `struct ifreq`.
    unsafe { ioctl(tun, Updater::<TUNGETIFF, _>::new(&mut request))? };
    // A `c_char` has a sign on some processors.
    let name = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]);
    let name = name.take_while(|byte| *byte != 0).collect();
    // SAFETY: every bit pattern is a short, and all of the union was initialised by
    // `request`.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let name = String::from_utf8(name).map_err(|_| Errno::INVAL)?;
    Ok((name, libc::c_int::from(flags as u16)))
}

/// Returns the address of an interface, asked of a queue of it or of any socket in its network
/// namespace.
pub fn hardware_address(asked: BorrowedFd<'_>, name: &str) -> Result<[libc::c_char; 14]> {
    let mut request = request(name)?;
    // SAFETY: SIOCGIFHWADDR reads the name in a `struct ifreq` and writes the address.
    unsafe { ioctl(asked, Updater::<SIOCGIFHWADDR, _>::new(&mut request))? };
    // SAFETY: every bit pattern is a `struct sockaddr`, and all of the union was
    // initialised by `request`.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data)
}

/// Returns a `struct ifreq` about an interface, with nothing else in it.
fn request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: a `struct ifreq` is integers, arrays of them and pointers, for
    // all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero: the name ends there.
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(Errno::INVAL);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
