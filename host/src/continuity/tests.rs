//! States that are cut off, altered, or of another kind.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::component::Component;
use crate::device::{Port, SnapshotError};
use crate::endpoint::{Null, RxBuffer};
use crate::interrupt::{Interrupts, VectorSink};
use crate::memory::Segment;

struct Nowhere;

impl VectorSink for Nowhere {
    fn raise(&self, _vector: u16) {}
}

fn ports(count: u8) -> Vec<Port> {
    let ports = (0..count).map(|number| Port {
        mac: [2, 0, 0, 0, 0, number],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(Null::with_queues(1)),
    });
    ports.collect()
}

fn device(count: u8) -> Device {
    let component = Component::embedded().unwrap();
    let interrupts = Interrupts::Vectors(Box::new(Nowhere));
    let device = Device::builder(&component)
        .ports(ports(count))
        .build(interrupts);
    let device = device.unwrap();
    device.config_write(4, &[6, 0]);
    device
}

fn memory(device: &Device) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 << 20).unwrap();
    let share = |offset| Some((file.try_clone().unwrap(), offset));
    device.map_memory(0, 1 << 20, share(0), true).unwrap();
    device
        .map_memory(1 << 32, 1 << 20, share(1 << 20), true)
        .unwrap();
    device.map_memory(1 << 30, 4096, None, true).unwrap();
}

/// Returns a device with memory and the descriptors that it gives away.
fn given() -> (Device, Vec<(String, OwnedFd)>) {
    let device = device(1);
    memory(&device);
    let mut hand_over = give_away(&device).unwrap();
    hand_over.set_notes(b"notes".to_vec());
    hand_over.add("own", tempfile::tempfile().unwrap().into());
    (device, hand_over.into_descriptors().unwrap())
}

fn copies(descriptors: &[(String, OwnedFd)]) -> Vec<(String, OwnedFd)> {
    let copy = |(name, fd): &(String, OwnedFd)| (name.clone(), fd.try_clone().unwrap());
    descriptors.iter().map(copy).collect()
}

/// Returns the bytes of the state among descriptors.
fn state(descriptors: &[(String, OwnedFd)]) -> Vec<u8> {
    let (_, fd) = descriptors.iter().find(|(name, _)| name == STATE).unwrap();
    let file = File::from(fd.try_clone().unwrap());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Replaces the state among descriptors.
fn with_state(descriptors: &[(String, OwnedFd)], bytes: &[u8]) -> Vec<(String, OwnedFd)> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    let mut changed = copies(descriptors);
    changed.retain(|(name, _)| name != STATE);
    changed.push((STATE.to_owned(), file.into()));
    changed
}

#[test]
fn memory_and_configuration_arrive() {
    let (old, descriptors) = given();
    let names: Vec<_> = descriptors.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["own", "memory-0", "state"], "one file, two regions");
    assert!(old.is_paused());
    let mut read = HandOver::from_descriptors(descriptors).unwrap();
    assert_eq!(read.notes(), b"notes");
    assert_eq!(read.component(), old.component().digest());
    assert!(read.take("own").is_some() && read.take("own").is_none());
    let next = device(1);
    next.config_write(4, &[0, 0]);
    read.take_over(&next).unwrap();
    assert_eq!(next.inspect()["memory"], old.inspect()["memory"]);
    assert_eq!(next.inspect()["memory"]["region_count"], 3);
    let mut command = [0; 2];
    next.config_read(4, &mut command);
    assert_eq!(command, [6, 0]);
    assert!(!next.is_paused());
    assert_eq!(next.totals().hand_overs, 1);
}

#[test]
fn device_that_was_paused_stays_so_and_one_that_nobody_takes_goes_on() {
    let old = device(1);
    old.pause();
    let descriptors = give_away(&old).unwrap().into_descriptors().unwrap();
    let next = device(1);
    let read = HandOver::from_descriptors(descriptors).unwrap();
    read.take_over(&next).unwrap();
    assert!(next.is_paused());
    let other = device(1);
    drop(give_away(&other).unwrap());
    other.resume();
    assert!(!other.is_paused() && other.failure().is_none());
}

#[test]
fn state_is_taken_once() {
    let (_old, descriptors) = given();
    let kept = copies(&descriptors);
    // A device that can't take over leaves the state for another.
    let other = device(2);
    let read = HandOver::from_descriptors(copies(&kept)).unwrap();
    let error = read.take_over(&other).unwrap_err();
    assert!(matches!(error, TakeOverError::Ports { saved: 1, own: 2 }));
    assert_eq!(other.inspect()["memory"]["region_count"], 0);
    let read = HandOver::from_descriptors(descriptors).unwrap();
    read.take_over(&device(1)).unwrap();
    let error = HandOver::from_descriptors(kept).unwrap_err();
    assert!(matches!(error, OfferError::Taken), "{error}");
}

#[test]
fn offer_is_rehearsed_with_and_never_taken_over() {
    let old = device(1);
    memory(&old);
    let offer = || offer(&old).unwrap().into_descriptors().unwrap();
    let read = |descriptors| HandOver::from_descriptors(descriptors).unwrap();
    assert!(!old.is_paused(), "it continues");
    let component = Component::embedded().unwrap();
    let rehearse =
        |offer: HandOver, ports: Vec<Port>| offer.rehearse(&component, &ports, Limits::default());
    assert!(read(offer()).is_offer());
    rehearse(read(offer()), self::ports(1)).unwrap();
    let error = rehearse(read(offer()), self::ports(2)).unwrap_err();
    assert!(matches!(error, TakeOverError::Ports { saved: 1, own: 2 }));
    let mut wrong = super::offer(&old).unwrap();
    wrong.device.snapshot.truncate(40);
    let error = rehearse(wrong, self::ports(1)).unwrap_err();
    assert!(matches!(error, TakeOverError::Restore(_)), "{error}");
    let next = device(1);
    let error = read(offer()).take_over(&next).unwrap_err();
    assert!(matches!(error, TakeOverError::Offered), "{error}");
    // A device that was given away is no offer.
    let given = give_away(&old).unwrap().into_descriptors().unwrap();
    assert!(!read(copies(&given)).is_offer());
    read(given).take_over(&next).unwrap();
}

#[test]
fn device_in_use_takes_nothing_over() {
    let (_old, descriptors) = given();
    let used = device(1);
    memory(&used);
    let read = HandOver::from_descriptors(descriptors).unwrap();
    let error = read.take_over(&used).unwrap_err();
    assert!(matches!(error, TakeOverError::Memory(_)), "{error}");
}

#[test]
fn missing_and_repeated_descriptors_are_named() {
    let (_old, descriptors) = given();
    for name in ["memory-0", STATE] {
        let mut some = copies(&descriptors);
        some.retain(|(own, _)| own != name);
        let error = HandOver::from_descriptors(some).unwrap_err().to_string();
        assert!(error.contains(&format!("`{name}` is missing")), "{error}");
    }
    let mut twice = copies(&descriptors);
    twice.extend(copies(&descriptors[..1]));
    let error = HandOver::from_descriptors(twice).unwrap_err().to_string();
    assert!(error.contains("two descriptors `own`"), "{error}");
}

#[test]
fn descriptors_of_other_kinds_are_refused() {
    let (_old, descriptors) = given();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let mut wrong = copies(&descriptors);
    for (name, fd) in &mut wrong {
        if name == "memory-0" {
            *fd = pipe.try_clone().unwrap().into();
        }
    }
    let next = device(1);
    let error = HandOver::from_descriptors(wrong).unwrap().take_over(&next);
    assert!(error.unwrap_err().to_string().contains("a pipe"));
    let mut wrong = copies(&descriptors);
    wrong.retain(|(name, _)| name != STATE);
    wrong.push((STATE.to_owned(), pipe.into()));
    let error = HandOver::from_descriptors(wrong).unwrap_err();
    assert!(matches!(error, OfferError::NoState(_)), "{error}");
}

#[test]
fn every_bit_of_a_state_counts() {
    let (_old, descriptors) = given();
    let good = state(&descriptors);
    proptest!(ProptestConfig::with_cases(200), |(at in any::<prop::sample::Index>(), bit in 0_u8..8)| {
        let mut bytes = good.clone();
        bytes[at.index(good.len())] ^= 1_u8 << bit;
        prop_assert!(HandOver::from_descriptors(with_state(&descriptors, &bytes)).is_err());
    });
    for length in [0, 7, 55, 56, good.len() - 1] {
        let cut = with_state(&descriptors, &good[..length]);
        assert!(HandOver::from_descriptors(cut).is_err(), "{length}");
    }
    let long = [&*good, &[0]].concat();
    assert!(HandOver::from_descriptors(with_state(&descriptors, &long)).is_err());
    assert!(HandOver::from_descriptors(with_state(&descriptors, &good)).is_ok());
}

#[test]
fn newer_version_is_named() {
    let (_old, descriptors) = given();
    let mut bytes = state(&descriptors);
    bytes[8] = VERSION as u8 + 1;
    let error = HandOver::from_descriptors(with_state(&descriptors, &bytes)).unwrap_err();
    assert!(error.to_string().contains("state has version 3"), "{error}");
}

#[test]
fn component_that_refuses_the_state_leaves_a_device_at_power_on() {
    let (old, _) = given();
    old.resume();
    let mut hand_over = give_away(&old).unwrap();
    hand_over.device.snapshot.truncate(40);
    let read = HandOver::from_descriptors(hand_over.into_descriptors().unwrap()).unwrap();
    let next = device(1);
    let error = read.take_over(&next).unwrap_err();
    let malformed = TakeOverError::Restore(SnapshotError::Malformed(String::new()));
    assert_eq!(
        std::mem::discriminant(&error),
        std::mem::discriminant(&malformed)
    );
    assert_eq!(next.inspect()["memory"]["region_count"], 0);
    // It accepts another state.
    old.resume();
    let descriptors = give_away(&old).unwrap().into_descriptors().unwrap();
    let read = HandOver::from_descriptors(descriptors).unwrap();
    read.take_over(&next).unwrap();
    assert_eq!(next.inspect()["memory"]["region_count"], 3);
}

#[test]
fn notes_have_a_bound() {
    let (old, _) = given();
    old.resume();
    let mut hand_over = give_away(&old).unwrap();
    hand_over.set_notes(vec![0; MAX_NOTES + 1]);
    let error = hand_over.into_descriptors().unwrap_err().to_string();
    assert!(error.contains("65536 at most"), "{error}");
}

#[test]
fn posted_buffers_have_the_segments_that_there_are() {
    for (segments, has_one) in [(2, true), (0, false), (1, false), (0, true)] {
        let mut hand_over = give_away(&device(1)).unwrap();
        let queue = &mut hand_over.device.ports[0].queues[0];
        queue.buffers.push(RxBuffer { id: 1, segments });
        if has_one {
            queue.segments.push(Segment {
                address: 0,
                length: 1,
            });
        }
        let read = HandOver::from_descriptors(hand_over.into_descriptors().unwrap());
        let error = read.unwrap_err().to_string();
        assert!(error.contains("do not add up"), "{error}");
    }
}

#[test]
fn states_of_the_first_version_are_read() {
    use super::state_file::StateFile;
    let (_old, descriptors) = given();
    let bytes = state(&descriptors);
    assert_eq!(u32::from(bytes[8]), WRITES);
    let first = File::from(StateFile::write(&bytes[56..], 1).unwrap());
    let mut first_bytes = vec![0; bytes.len()];
    first.read_exact_at(&mut first_bytes, 0).unwrap();
    let read = HandOver::from_descriptors(with_state(&descriptors, &first_bytes)).unwrap();
    assert!(!read.is_offer());
    let next = device(1);
    read.take_over(&next).unwrap();
    assert_eq!(next.inspect()["memory"]["region_count"], 3);
}
