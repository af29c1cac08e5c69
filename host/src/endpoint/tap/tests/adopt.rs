//! Interfaces that another process opened.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::thread::UnshareFlags;

use super::{CHILDREN, NAME, in_namespace, ip};
use crate::endpoint::tap::ioctl;
use crate::endpoint::{Endpoint, Tap, TapError};

const AS_WANTED: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

fn driver() -> File {
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).open("/dev/net/tun");
    opened.unwrap()
}

/// Opens a queue of an interface, as its owner does.
fn queue(name: &str, flags: libc::c_int) -> OwnedFd {
    let driver = driver();
    ioctl::set_interface(driver.as_fd(), name, flags).unwrap();
    driver.into()
}

fn refusal(fds: Vec<OwnedFd>) -> TapError {
    Tap::from_descriptors(fds).expect_err("descriptors that should be refused")
}

#[test]
fn queues_of_others_are_used() {
    in_namespace(|| {
        let _no_child = CHILDREN.lock();
        let tap = Tap::from_descriptors(vec![queue(NAME, AS_WANTED)]).unwrap();
        assert_eq!((tap.name(), tap.mtu()), (format!("tap={NAME}"), Some(1500)));
        let shown = tap.inspect();
        assert_eq!(
            (&shown["made_here"], &shown["queues"]),
            (&false.into(), &1.into())
        );
        for fd in tap.descriptors() {
            assert!(fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK));
        }
        drop(tap);
        let several = AS_WANTED | libc::IFF_MULTI_QUEUE;
        let both = (0..2).map(|_| queue(NAME, several)).collect();
        let mut tap = Tap::from_descriptors(both).unwrap();
        assert_eq!(tap.take_queues().len(), 2);
    });
}

#[test]
fn queue_of_an_interface_elsewhere_has_no_mtu() {
    in_namespace(|| {
        let _no_child = CHILDREN.lock();
        let elsewhere = queue(NAME, AS_WANTED);
        #[expect(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
        // An interface with the same name exists here too.
        let own = queue(NAME, AS_WANTED);
        let tap = Tap::from_descriptors(vec![elsewhere]).unwrap();
        assert_eq!((tap.name(), tap.mtu()), (format!("tap={NAME}"), None));
        drop(own);
    });
}

#[test]
fn what_is_no_such_queue_is_refused_by_name() {
    in_namespace(|| {
        ip(&format!("tuntap add dev {NAME} mode tap multi_queue"));
        let _no_child = CHILDREN.lock();
        let refused = refusal(vec![queue("tun-x", libc::IFF_TUN | libc::IFF_NO_PI)]);
        assert!(matches!(refused, TapError::WrongKind(name) if name == "tun-x"));
        let refused = refusal(vec![queue("tap-x", libc::IFF_TAP | libc::IFF_NO_PI)]);
        assert!(matches!(refused, TapError::WrongMode(name) if name == "tap-x"));
        let refused = refusal(vec![driver().into()]);
        assert!(matches!(refused, TapError::Detached), "{refused}");
        let refused = refusal(vec![File::open("/dev/null").unwrap().into()]);
        assert!(matches!(refused, TapError::NoTap), "{refused}");
        assert!(matches!(refusal(Vec::new()), TapError::QueueCount(0)));
        let both = ["tap-x", "tap-y"].map(|name| queue(name, AS_WANTED));
        assert!(matches!(refusal(both.into()), TapError::Different(..)));
        let several = AS_WANTED | libc::IFF_MULTI_QUEUE;
        let [one, _other] = [(); 2].map(|()| queue(NAME, several));
        assert!(matches!(refusal(vec![one]), TapError::Shared(_, 1)));
    });
}
