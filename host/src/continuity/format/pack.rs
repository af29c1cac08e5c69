//! Writes a device that is handed over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::records::{
    PastState, PortState, QueueState, RegionState, SessionState, State, VectorState,
};
use crate::continuity::error::OfferError;
use crate::continuity::limits::{BUILD, VERSION, WRITES};
use crate::continuity::state_file::StateFile;
use crate::continuity::{HandOver, MAX_NOTES, STATE, Session, Vector};
use crate::device::{DeviceState, Past, PortPast, QueuePast};
use crate::memory::SharedRegion;

/// Writes the state, and returns all named descriptors.
pub fn pack(hand_over: HandOver) -> io::Result<Vec<(String, OwnedFd)>> {
    let HandOver {
        device,
        begun,
        build,
        vectors,
        session,
        notes,
        others: mut descriptors,
        file: _,
        offered,
        lost: _,
    } = hand_over;
    if notes.len() > MAX_NOTES {
        return Err(io::Error::other(OfferError::notes(notes.len())));
    }
    let memory = pack_memory(&device.memory, &mut descriptors)?;
    let state = State {
        build,
        begun: nanoseconds(begun),
        memory,
        vectors: pack_vectors(vectors, &mut descriptors),
        session: session.map(|session| pack_session(session, &mut descriptors)),
        notes,
        offered: offered.then_some(true),
        ..pack_device(device)
    };
    let version = if offered { VERSION } else { WRITES };
    let state = minicbor::to_vec(&state).map_err(io::Error::other)?;
    descriptors.push((STATE.to_owned(), StateFile::write(&state, version)?));
    Ok(descriptors)
}

/// Returns what is written of a device itself.
pub fn pack_device(device: DeviceState) -> State {
    let held = device.held.iter();
    State {
        build: BUILD.to_owned(),
        begun: 0,
        component: device.component.0.to_vec(),
        snapshot: device.snapshot,
        down: device.down,
        paused: device.paused,
        held: held
            .map(|write| (write.bar, write.offset, write.value))
            .collect(),
        pending: device.pending,
        ports: device.ports.iter().map(pack_port).collect(),
        past: pack_past(&device.past),
        memory: Vec::new(),
        vectors: Vec::new(),
        session: None,
        notes: Vec::new(),
        work_left: device.work_left,
        unfinished: device.unfinished,
        offered: None,
    }
}

fn pack_memory(
    regions: &[SharedRegion],
    descriptors: &mut Vec<(String, OwnedFd)>,
) -> io::Result<Vec<RegionState>> {
    let mut names: BTreeMap<*const File, String> = BTreeMap::new();
    let mut packed = Vec::with_capacity(regions.len());
    for region in regions {
        let mut place = None;
        if let Some((file, offset)) = &region.file {
            let key = Arc::as_ptr(file);
            let name = match names.get(&key) {
                Some(name) => name.clone(),
                None => {
                    let name = format!("memory-{}", names.len());
                    descriptors.push((name.clone(), file.try_clone()?.into()));
                    names.insert(key, name.clone());
                    name
                }
            };
            place = Some((name, *offset));
        }
        packed.push(RegionState {
            address: region.address,
            size: region.size,
            writable: region.writable,
            file: place,
        });
    }
    Ok(packed)
}

fn pack_port(port: &PortPast) -> PortState {
    let queues = port.queues.iter();
    PortState {
        link_up: port.link_up,
        queues: queues.map(pack_queue).collect(),
    }
}

fn pack_queue(queue: &QueuePast) -> QueueState {
    let buffers = queue.buffers.iter();
    let segments = queue.segments.iter();
    QueueState {
        counters: queue.counters.words().to_vec(),
        buffers: buffers.map(|it| (it.id, it.segments)).collect(),
        segments: segments.map(|it| (it.address, it.length)).collect(),
    }
}

fn pack_past(past: &Past) -> PastState {
    PastState {
        swaps: past.swaps,
        rollbacks: past.rollbacks,
        longest_pause: nanoseconds(past.longest_pause),
        failures: past.failures,
        recoveries: past.recoveries,
        restarts: past.restarts,
        hand_overs: past.hand_overs,
        hand_over_pause: nanoseconds(past.hand_over_pause),
        longest_hand_over: nanoseconds(past.longest_hand_over),
    }
}

fn pack_vectors(
    vectors: Vec<Vector>,
    descriptors: &mut Vec<(String, OwnedFd)>,
) -> Vec<VectorState> {
    let packed = vectors.into_iter().map(|vector| VectorState {
        vector: vector.vector,
        eventfd: vector.eventfd.map(|eventfd| {
            let name = format!("vector-{}", vector.vector);
            descriptors.push((name.clone(), eventfd));
            name
        }),
        masked: vector.masked,
        pending: vector.pending,
    });
    packed.collect()
}

fn pack_session(session: Session, descriptors: &mut Vec<(String, OwnedFd)>) -> SessionState {
    let connection = "session".to_owned();
    descriptors.push((connection.clone(), session.connection));
    let received = session.descriptors.into_iter().enumerate();
    let received = received.map(|(number, (place, descriptor))| {
        let name = format!("received-{number}");
        descriptors.push((name.clone(), descriptor));
        (place, name)
    });
    SessionState {
        connection,
        attached: session.attached,
        descriptors: received.collect(),
        received: session.received,
    }
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}
