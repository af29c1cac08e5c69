//! A process that dies, and what its successor finds.

mod every_write;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::component::Component;
use crate::continuity::HandOver;
use crate::device::{Device, Port};
use crate::endpoint::Null;
use crate::interrupt::{Interrupts, VectorSink};

/// What outlives the process.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, OwnedFd>>>, Arc<AtomicBool>);

impl DescriptorStore for Kept {
    fn store(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(io::Error::other("it is full"));
        }
        let copy = descriptor.try_clone_to_owned()?;
        let before = self.0.lock().insert(name.to_owned(), copy);
        assert!(before.is_none(), "{name} is stored twice");
        Ok(())
    }

    fn remove(&self, name: &str) {
        let removed = self.0.lock().remove(name);
        assert!(removed.is_some(), "{name} is not stored");
    }
}

impl Kept {
    fn copies(&self) -> Vec<(String, OwnedFd)> {
        let kept = self.0.lock();
        let copy = |(name, fd): (&String, &OwnedFd)| (name.clone(), fd.try_clone().unwrap());
        kept.iter().map(copy).collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }

    fn read(&self) -> Option<HandOver> {
        HandOver::from_live(self.copies()).unwrap()
    }

    fn file(&self, number: u64) -> File {
        let kept = self.0.lock();
        File::from(kept[&format!("live-{number}")].try_clone().unwrap())
    }

    fn live(&self, number: u64) -> LiveState {
        LiveState::new(Box::new(self.clone()), number).unwrap()
    }
}

struct Nowhere;

impl VectorSink for Nowhere {
    fn raise(&self, _vector: u16) {}
}

fn device() -> Device {
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(Null::with_queues(2)),
    };
    let component = Component::embedded().unwrap();
    Device::new(
        &component,
        vec![port],
        Interrupts::Vectors(Box::new(Nowhere)),
    )
    .unwrap()
}

/// Returns a device that is recorded, and what is kept of it.
fn recorded() -> (Device, LiveState, Kept) {
    let (device, kept) = (device(), Kept::default());
    let live = kept.live(1);
    device.record(&live);
    live.activate();
    (device, live, kept)
}

fn map(device: &Device, address: u64, file: &File) {
    let file = file.try_clone().unwrap();
    device
        .map_memory(address, 1 << 20, Some((file, 0)), true)
        .unwrap();
}

fn memory() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    file
}

/// Every change is there when the process dies after it.
#[test]
fn what_changed_last_is_found() {
    let (old, live, kept) = recorded();
    let (first, second) = (memory(), memory());
    map(&old, 0, &first);
    map(&old, 1 << 32, &first);
    map(&old, 1 << 33, &second);
    old.config_write(4, &[6, 0]);
    live.set_notes(b"notes");
    let check = |regions: u64, command: u8| {
        let read = kept.read().unwrap();
        assert_eq!(read.notes(), b"notes");
        let next = device();
        read.take_over(&next).unwrap();
        assert_eq!(next.inspect()["memory"], old.inspect()["memory"]);
        assert_eq!(next.inspect()["memory"]["region_count"], regions);
        let mut read = [0; 2];
        next.config_read(4, &mut read);
        assert_eq!(read, [command, 0]);
    };
    check(3, 6);
    let files = |kept: &Kept| {
        kept.names()
            .iter()
            .filter(|it| it.contains("memory"))
            .count()
    };
    assert_eq!(files(&kept), 2, "one for each file");
    old.unmap_memory(0, 1 << 20).unwrap();
    check(2, 6);
    old.unmap_memory(1 << 32, 1 << 20).unwrap();
    assert_eq!(files(&kept), 1, "that of no region is not kept");
    map(&old, 0, &second);
    old.config_write(4, &[2, 0]);
    check(2, 2);
    old.detach();
    assert_eq!(files(&kept), 0);
}

/// A successor's file counts once it is complete, and nobody's does that ended.
#[test]
fn the_newest_complete_file_counts() {
    let (old, live, kept) = recorded();
    live.set_notes(b"first");
    let next = kept.live(next_number(kept.names().iter().map(String::as_str)));
    next.set_notes(b"second");
    assert_eq!(kept.read().unwrap().notes(), b"first");
    old.record(&next);
    next.activate();
    assert_eq!(kept.read().unwrap().notes(), b"second");
    next.end();
    assert_eq!(kept.read().unwrap().notes(), b"first");
    live.end();
    assert!(kept.read().is_none());
}

/// The session goes along, and a successor's file has the request in progress.
#[test]
fn session_is_found_as_it_was_noted() {
    let (_old, live, kept) = recorded();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    live.open_session(ours.as_fd()).unwrap();
    live.note_attached();
    live.set_progress(7, true);
    live.write_answer(b"answer");
    let mut read = kept.read().unwrap();
    let lost = read.take_lost_session().unwrap();
    assert!(lost.attached && !lost.took_effect);
    assert_eq!((lost.progress, &*lost.answer), (7, &b"answer"[..]));
    let next = LiveState::follow(Box::new(kept.clone()), 2, read.take_follow().unwrap()).unwrap();
    device().record(&next);
    next.activate();
    live.close_session();
    let lost = kept.read().unwrap().take_lost_session().unwrap();
    assert!(lost.attached && !lost.took_effect);
    assert_eq!((lost.progress, &*lost.answer), (7, &b"answer"[..]));
    next.close_session();
    assert!(kept.read().unwrap().take_lost_session().is_none());
}

/// An eventfd is stored once for each assignment, and goes with its VMM.
#[test]
fn eventfds_are_stored_once_and_go_with_their_session() {
    let (_old, live, kept) = recorded();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    live.open_session(ours.as_fd()).unwrap();
    let file = memory();
    let set = |assignments: &[u64]| {
        let vectors = (0..)
            .zip(assignments)
            .map(|(vector, assignment)| LiveVector {
                vector,
                eventfd: Some(file.as_fd()),
                assignment: *assignment,
                masked: false,
            });
        live.set_vectors(&vectors.collect::<Vec<_>>()).unwrap();
        let names = kept.names().into_iter();
        names
            .filter(|name| name.contains("vector"))
            .collect::<Vec<_>>()
    };
    let first = set(&[1, 2]);
    assert_eq!(first.len(), 2);
    assert_eq!(set(&[1, 2]), first);
    let second = set(&[1, 3]);
    assert_eq!((second.len(), &second[0]), (2, &first[0]));
    assert_ne!(second[1], first[1]);
    assert_eq!(kept.read().unwrap().take_vectors().len(), 2);
    live.close_session();
    let gone = |name: &String| !name.contains("vector") && !name.contains("session");
    assert!(kept.names().iter().all(gone), "{:?}", kept.names());
    assert!(kept.read().unwrap().take_vectors().is_empty());
}

/// A store that has no room is asked once, and nobody continues from what is missing something.
#[test]
fn store_that_refuses_ends_what_is_kept() {
    let (old, live, kept) = recorded();
    kept.1.store(true, Ordering::Relaxed);
    map(&old, 0, &memory());
    assert!(live.has_failed());
    kept.1.store(false, Ordering::Relaxed);
    let before = kept.names();
    map(&old, 1 << 32, &memory());
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert!(live.open_session(ours.as_fd()).is_err());
    assert_eq!(kept.names(), before);
    live.activate();
    assert!(kept.read().is_none());
    assert_eq!(old.inspect()["memory"]["region_count"], 2);
}

/// A successor that dies too leaves what it found.
#[test]
fn effect_is_known_after_a_second_death() {
    let (old, live, kept) = recorded();
    map(&old, 0, &memory());
    let (ours, _theirs) = UnixStream::pair().unwrap();
    live.open_session(ours.as_fd()).unwrap();
    for (number, effect) in [(2, false), (3, true)] {
        live.set_progress(1, true);
        if effect {
            old.config_write(4, &[6, 0]);
        }
        let mut read = kept.read().unwrap();
        let follow = read.take_follow().unwrap();
        let next = LiveState::follow(Box::new(kept.clone()), number, follow).unwrap();
        let device = device();
        read.take_over(&device).unwrap();
        device.record(&next);
        next.activate();
        let lost = kept.read().unwrap().take_lost_session().unwrap();
        assert_eq!(lost.took_effect, effect);
        next.end();
    }
}

/// The effect of a request on the device is part of what is found, or not.
#[test]
fn effect_of_a_request_is_known() {
    let (old, live, kept) = recorded();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    live.open_session(ours.as_fd()).unwrap();
    let took_effect = || {
        kept.read()
            .unwrap()
            .take_lost_session()
            .unwrap()
            .took_effect
    };
    live.set_progress(1, true);
    assert!(!took_effect());
    old.config_write(4, &[6, 0]);
    assert!(took_effect());
    live.set_progress(1, true);
    assert!(!took_effect());
    map(&old, 0, &memory());
    assert!(took_effect());
    live.set_progress(1, true);
    assert!(!took_effect());
    old.unmap_memory(0, 1 << 20).unwrap();
    assert!(took_effect());
}

#[test]
fn what_is_no_file_of_ours_is_refused() {
    let (_old, _live, kept) = recorded();
    let refused = |offset: usize, value: u64| {
        let mut before = [0; 8];
        let file = kept.file(1);
        file.read_exact_at(&mut before, offset as u64).unwrap();
        file.write_all_at(&value.to_le_bytes(), offset as u64)
            .unwrap();
        let error = HandOver::from_live(kept.copies()).unwrap_err();
        file.write_all_at(&before, offset as u64).unwrap();
        error.to_string()
    };
    assert!(refused(layout::MAGIC_AT, 1).contains("begins with something else"));
    assert!(refused(layout::VERSION_AT, 3).contains("version 3"));
    let cells = Cells::open(kept.file(1).into(), layout::LENGTH).unwrap();
    let copy = layout::DEVICE.read(&cells).unwrap().number;
    assert!(refused(layout::doorbells(copy), u64::MAX).contains("doorbells"));
    let mut others = kept.copies();
    others.retain(|(name, _)| name != "live-1");
    others.push(("live-1".to_owned(), tempfile::tempfile().unwrap().into()));
    let error = HandOver::from_live(others).unwrap_err().to_string();
    assert!(error.contains("another length"), "{error}");
}

/// Whatever is changed in the file, reading it ends.
#[test]
fn any_change_is_refused_or_survived() {
    let (old, live, kept) = recorded();
    map(&old, 0, &memory());
    live.set_vectors(&[]).unwrap();
    live.set_notes(b"notes");
    let file = kept.file(1);
    let device_bytes = layout::DEVICE.offset..layout::DEVICE.offset + 4096;
    let anywhere = prop_oneof![
        0..4096_usize,
        device_bytes,
        layout::doorbells(0)..layout::doorbells(0) + 64,
        layout::region(0)..layout::region(2),
        layout::NOTES.offset..layout::NOTES.offset + 256,
    ];
    let change = (anywhere, any::<u64>());
    proptest!(ProptestConfig::with_cases(64), |(change in change)| {
        let (at, value) = (change.0 / 8 * 8, change.1.to_le_bytes());
        let mut before = [0; 8];
        file.read_exact_at(&mut before, at as u64).unwrap();
        file.write_all_at(&value, at as u64).unwrap();
        let _ = HandOver::from_live(kept.copies());
        file.write_all_at(&before, at as u64).unwrap();
    });
}
