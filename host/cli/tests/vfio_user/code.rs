//! Machine code that a process's broker leaves for later processes.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use manatee::component::Digest;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::activation::{activated, bind};
use crate::harness::{Manatee, config_u16};
use crate::restart::{Kept, attached, kill_served};

/// What a process says that loads code which was kept, and what one says that finds it useless.
const LOADED: &str = "machine code that was kept is loaded";
const USELESS: &str = "compiled again: ";

fn loaded(kept: &Kept) -> usize {
    kept.log().matches(LOADED).count()
}

#[test]
fn component_is_compiled_once_for_all_later_processes() {
    let kept = Kept::start(&[]);
    let (mut client, _fds) = attached(&kept);
    let running = kept.swap();
    kill_served(&kept);
    assert_eq!(config_u16(&mut client, 4), 6);
    assert_eq!(kept.inspect()["component"]["sha256"], running);
    assert_eq!(loaded(&kept), 1, "{}", kept.log());
    kept.upgraded();
    assert_eq!(loaded(&kept), 2, "{}", kept.log());
    kill_served(&kept);
    assert_eq!(config_u16(&mut client, 4), 6);
    assert_eq!(kept.inspect()["component"]["sha256"], running);
    assert_eq!(loaded(&kept), 3, "{}", kept.log());
    assert!(!kept.log().contains(USELESS), "{}", kept.log());
}

#[test]
fn component_of_the_command_line_is_compiled_once_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("next.wasm");
    std::fs::write(&file, manatee_variants::NEXT).unwrap();
    let options = ["--port", "loopback", "--component", file.to_str().unwrap()];
    let kept = Kept::start_with(&[], &options);
    let (mut client, _fds) = attached(&kept);
    kill_served(&kept);
    assert_eq!(config_u16(&mut client, 4), 6);
    kept.inspect();
    assert_eq!(loaded(&kept), 1, "{}", kept.log());
}

/// Returns the log of a process that is offered, as machine code of its component, bytes that
/// are none.
fn log_of_one_that_is_offered_code(by_keeper: bool) -> String {
    let dir = Rc::new(tempfile::tempdir().unwrap());
    let file = dir.path().join("next.wasm");
    std::fs::write(&file, manatee_variants::NEXT).unwrap();
    let (_vfio, socket) = bind(dir.path(), "vfio.sock");
    let digest = Digest::of(manatee_variants::NEXT);
    let names = format!("vfio:manatee-code-{digest}");
    let options = ["--component", file.to_str().unwrap()];
    let mut command = activated([socket, sealed(b"exit(0)")], &names, &options);
    if by_keeper {
        command.env("MANATEE_KEEPER", "1");
    }
    let manatee = Manatee::start_as_it_is(dir, command);
    assert_eq!(config_u16(&mut manatee.attach(), 0), 0x1414);
    manatee.log()
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("code", flags).unwrap());
    file.write_all(bytes).unwrap();
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

#[test]
fn only_a_keepers_machine_code_is_loaded() {
    let log = log_of_one_that_is_offered_code(true);
    assert!(
        log.contains(USELESS) && log.contains("not compiled code"),
        "{log}"
    );
    // Another service manager hands over what a process stored, whoever controlled it.
    let log = log_of_one_that_is_offered_code(false);
    assert!(!log.contains(USELESS) && !log.contains(LOADED), "{log}");
}
