//! What may happen between a rehearsal and the replacement.

use std::fs::File;

use manatee::component::Component;
use manatee::device::{Device, SwapError, SwapOptions};
use manatee_conformance::driver::Driver;
use manatee_conformance::guest::{MEMORY_SIZE, Unwired};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::candidate::{Candidate, Restores};
use crate::{COMMAND, NO_PROBATION, component, echo, machine, next};
use manatee_kit::machine::Machine;

fn embedded() -> Machine {
    machine(&Component::embedded().unwrap())
}

/// Replaces a machine's memory by a file with this name.
fn rename_memory(machine: &mut Machine, name: &str) {
    let memory = File::from(memfd_create(name, MemfdFlags::CLOEXEC).unwrap());
    memory.set_len(MEMORY_SIZE).unwrap();
    machine.device.unmap_memory(0, MEMORY_SIZE).unwrap();
    map(&machine.device, &memory);
    machine.memory = memory;
}

fn map(device: &Device, memory: &File) {
    let shared = memory.try_clone().unwrap();
    let mapped = device.map_memory(0, MEMORY_SIZE, Some((shared, 0)), true);
    mapped.unwrap();
}

/// Returns how often this process has mapped a file.
fn mappings(name: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let name = format!("/memfd:{name} ");
    maps.lines().filter(|line| line.contains(&name)).count()
}

fn windows(device: &Device) -> u64 {
    let tree = device.inspect();
    let windows = tree["runtime"]["linear_memory"]["windows"].as_u64();
    windows.unwrap()
}

#[test]
fn queues_come_and_go_between_rehearsal_and_swap() {
    let mut machine = Unwired(embedded());
    let device = machine.0.device.clone();
    let successors = [next(), Component::embedded().unwrap()];
    let mut driver = Driver::new(&mut machine);

    let rehearsal = device.rehearse(&successors[0], NO_PROBATION).unwrap();
    let mut vport = driver.start_and_open().unwrap();
    echo(&mut driver, &mut vport).unwrap();
    let laid = windows(&device);
    rehearsal.swap().unwrap();
    // Windows that the device writes are laid when their queue is used next.
    let kept = windows(&device);
    assert!(kept < laid, "{kept} of {laid} windows");
    driver.query_vport(0).unwrap();
    echo(&mut driver, &mut vport).unwrap();
    assert_eq!(windows(&device), laid);

    let rehearsal = device.rehearse(&successors[1], NO_PROBATION).unwrap();
    echo(&mut driver, &mut vport).unwrap();
    driver.close(&vport).unwrap();
    let left = windows(&device);
    assert!(left < laid, "{left} of {laid} windows");
    rehearsal.swap().unwrap();
    let kept = windows(&device);
    assert!(kept < left, "{kept} of {left} windows");

    // The new queues have other addresses than those in the rehearsal.
    let mut vport = driver.open(0).unwrap();
    let rehearsal = device.rehearse(&successors[0], NO_PROBATION).unwrap();
    driver.close(&vport).unwrap();
    vport = driver.open(0).unwrap();
    rehearsal.swap().unwrap();
    driver.query_vport(0).unwrap();
    echo(&mut driver, &mut vport).unwrap();
    assert_eq!(windows(&device), laid);
}

#[test]
fn a_reset_comes_between_rehearsal_and_swap() {
    let mut machine = Unwired(embedded());
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    driver.start_and_open().unwrap();
    let rehearsal = device.rehearse(&next(), NO_PROBATION).unwrap();
    device.reset();
    device.config_write(COMMAND.0, &COMMAND.1);
    rehearsal.swap().unwrap();
    assert_eq!(windows(&device), 0);
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    echo(&mut driver, &mut vport).unwrap();
}

#[test]
fn memory_that_is_taken_away_leaves_a_rehearsal_too() {
    let name = "taken-away";
    let mut machine = embedded();
    rename_memory(&mut machine, name);
    let memory = machine.memory.try_clone().unwrap();
    let mut machine = Unwired(machine);
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    echo(&mut driver, &mut vport).unwrap();
    let running = mappings(name);
    let rehearsal = device.rehearse(&next(), NO_PROBATION).unwrap();
    assert!(mappings(name) > running, "the rehearsal has windows");
    // Other memory is unmapped first: the rehearsal is invalid, but its windows still exist.
    let other = File::from(memfd_create("other", MemfdFlags::CLOEXEC).unwrap());
    other.set_len(4096).unwrap();
    let mapped = device.map_memory(MEMORY_SIZE, 4096, Some((other, 0)), true);
    mapped.unwrap();
    device.unmap_memory(MEMORY_SIZE, 4096).unwrap();
    device.unmap_memory(0, MEMORY_SIZE).unwrap();
    assert_eq!(mappings(name), 0);

    // The same memory is mapped again: the running instance has lost its windows, and the
    // rehearsed one must not continue with lost ones.
    map(&device, &memory);
    let swap = rehearsal.swap().unwrap();
    assert_eq!(swap.to, "0.1.0+next");
    echo(&mut driver, &mut vport).unwrap();
    assert!(device.failure().is_none());
    assert_eq!(device.inspect()["runtime"]["failures"], 0);
}

#[test]
fn other_memory_comes_and_goes_in_a_rehearsal() {
    let mut machine = Unwired(embedded());
    let device = machine.0.device.clone();
    let other = machine.0.memory.try_clone().unwrap();
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    let rehearsal = device.rehearse(&next(), NO_PROBATION).unwrap();
    let mapped = device.map_memory(MEMORY_SIZE, 4096, Some((other, 0)), true);
    mapped.unwrap();
    device.unmap_memory(MEMORY_SIZE, 4096).unwrap();
    rehearsal.swap().unwrap();
    echo(&mut driver, &mut vport).unwrap();
}

#[test]
fn a_vmm_goes_in_a_rehearsal() {
    let name = "detached";
    let mut machine = embedded();
    rename_memory(&mut machine, name);
    let mut machine = Unwired(machine);
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    driver.start_and_open().unwrap();
    let rehearsal = device.rehearse(&next(), NO_PROBATION).unwrap();
    device.detach();
    assert_eq!(mappings(name), 0);
    rehearsal.swap().unwrap();
    map(&device, &machine.0.memory);
    device.config_write(COMMAND.0, &COMMAND.1);
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    echo(&mut driver, &mut vport).unwrap();
}

#[test]
fn one_that_restores_only_once_takes_over_without_a_rehearsal() {
    for restores in [Restores::Once, Restores::OnceOrTraps] {
        let candidate = Candidate {
            restores,
            ..Candidate::TWIN
        };
        let candidate = component(&candidate.bytes(), "candidate.wasm");
        let mut machine = Unwired(embedded());
        let device = machine.0.device.clone();
        let mut driver = Driver::new(&mut machine);
        let mut vport = driver.start_and_open().unwrap();
        let swap = device.swap(&candidate, SwapOptions::default()).unwrap();
        assert_eq!((&*swap.to, swap.rollback), ("9.9.9", false));
        assert_eq!(device.inspect()["runtime"]["swap_count"], 2);
        // It has no other function, and so was rolled back already.
        echo(&mut driver, &mut vport).unwrap();
        assert_eq!(device.inspect()["component"]["version"], "0.1.0");
    }
}

#[test]
fn a_rehearsal_that_is_called_off_leaves_nothing_behind() {
    let name = "called-off";
    let mut machine = embedded();
    rename_memory(&mut machine, name);
    let mut machine = Unwired(machine);
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    let running = mappings(name);
    let rehearsal = device.rehearse(&next(), NO_PROBATION).unwrap();
    let second = device.swap(&next(), NO_PROBATION);
    assert!(matches!(second, Err(SwapError::Busy)));
    assert!(matches!(device.rollback(), Err(SwapError::Busy)));
    drop(rehearsal);
    assert_eq!(mappings(name), running);
    assert_eq!(device.inspect()["runtime"]["swap_count"], 0);
    echo(&mut driver, &mut vport).unwrap();
    device.swap(&next(), NO_PROBATION).unwrap();
    echo(&mut driver, &mut vport).unwrap();
}
