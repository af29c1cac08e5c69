//! Attaching to interfaces, and refusals.

use std::os::fd::AsFd;

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::CapabilitySet;

use super::{CHILDREN, NAME, in_namespace, ip, keep_quiet, open};
use crate::endpoint::{Endpoint, Tap, TapError};

fn exists(name: &str) -> bool {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    name_to_index(socket, name).is_ok()
}

fn refusal(name: &str) -> TapError {
    Tap::open(name).expect_err("an interface that should be refused")
}

/// Drops this thread's capability to create and attach to interfaces.
fn drop_network_capability() {
    let mut sets = rustix::thread::capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::NET_ADMIN);
    sets.permitted.remove(CapabilitySet::NET_ADMIN);
    sets.inheritable.remove(CapabilitySet::NET_ADMIN);
    rustix::thread::set_capabilities(None, sets).unwrap();
}

#[test]
fn an_interface_made_here_goes_away_again() {
    in_namespace(|| {
        let _no_child = CHILDREN.lock();
        let tap = open().unwrap();
        assert!(exists(NAME));
        assert_eq!(tap.mtu(), Some(1500));
        assert_eq!(tap.name(), "tap=tap-test");
        assert_eq!(tap.inspect()["made_here"], true);
        drop(tap);
        assert!(!exists(NAME));
    });
}

#[test]
fn an_interface_that_was_there_stays() {
    in_namespace(|| {
        ip(&format!("tuntap add dev {NAME} mode tap"));
        ip(&format!("link set {NAME} mtu 9000"));
        let _no_child = CHILDREN.lock();
        for _ in 0..2 {
            let tap = open().unwrap();
            assert_eq!(tap.mtu(), Some(9000));
            assert_eq!(tap.inspect()["made_here"], false);
        }
        assert!(exists(NAME));
    });
}

#[test]
fn an_interface_of_several_queues_will_do() {
    in_namespace(|| {
        ip(&format!("tuntap add dev {NAME} mode tap multi_queue"));
        let _no_child = CHILDREN.lock();
        for _ in 0..2 {
            assert!(open().is_ok());
        }
    });
}

#[test]
fn a_queue_that_another_has_is_a_reason_to_refuse() {
    in_namespace(|| {
        ip(&format!("tuntap add dev {NAME} mode tap multi_queue"));
        let _no_child = CHILDREN.lock();
        let first = open().unwrap();
        for _ in 0..2 {
            let refused = refusal(NAME);
            assert!(matches!(refused, TapError::Shared(_, 1)), "{refused}");
            assert!(refused.to_string().contains(NAME), "{refused}");
        }
        // A queue that is detached from traffic still counts.
        super::ioctl::set_queue(first.queues[0].fd.as_fd(), false).unwrap();
        let refused = refusal(NAME);
        assert!(matches!(refused, TapError::Shared(_, 1)), "{refused}");
        drop(first);
        assert!(open().is_ok());
    });
}

#[test]
fn a_busy_interface_is_left_alone() {
    in_namespace(|| {
        let tap = open().unwrap();
        let refused = refusal(NAME);
        assert!(matches!(refused, TapError::Busy(_)), "{refused}");
        drop(tap);
    });
}

#[test]
fn other_kinds_of_interface_are_refused() {
    in_namespace(|| {
        keep_quiet();
        ip("tuntap add dev tun-test mode tun");
        for name in ["tun-test", "lo"] {
            let refused = refusal(name);
            assert!(matches!(refused, TapError::WrongKind(_)), "{refused}");
        }
    });
}

#[test]
fn names_that_cannot_be_are_refused() {
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "a:1",
        "tap%d",
        "a\n",
        "sixteen-letters!",
    ] {
        let refused = refusal(name);
        assert!(matches!(refused, TapError::InvalidName(_)), "{refused}");
    }
}

#[test]
fn making_one_needs_permission() {
    in_namespace(|| {
        drop_network_capability();
        let refused = refusal(NAME);
        assert!(matches!(refused, TapError::Missing(_)), "{refused}");
        let said = refused.to_string();
        assert!(said.contains("sudo ip tuntap add dev tap-test"), "{said}");
    });
}

#[test]
fn attaching_needs_permission_unless_it_is_ours() {
    in_namespace(|| {
        ip("tuntap add dev tap-theirs mode tap user 65534");
        let uid = rustix::process::geteuid().as_raw();
        ip(&format!("tuntap add dev tap-ours mode tap user {uid}"));
        drop_network_capability();
        let refused = refusal("tap-theirs");
        assert!(matches!(refused, TapError::NotPermitted(_)), "{refused}");
        assert!(Tap::open("tap-ours").is_ok());
    });
}
