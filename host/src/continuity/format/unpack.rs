//! Reads a device that was handed over: hostile input.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::records::{PastState, PortState, QueueState, RegionState, SessionState, State};
use crate::component::Digest;
use crate::continuity::error::OfferError;
use crate::continuity::state_file::StateFile;
use crate::continuity::{HandOver, MAX_NOTES, STATE, Session, Vector};
use crate::contract::RegisterWrite;
use crate::device::{DeviceState, Past, PortPast, QueuePast};
use crate::endpoint::{Counters, MAX_QUEUES, RxBuffer, RxQueue};
use crate::memory::{GuestMemory, Segment, SharedRegion};

/// The most ports that a device can have.
const MAX_PORTS: usize = 256;
/// The most vectors that a function can have.
const MAX_VECTORS: usize = 2048;
/// The most doorbells that are kept.
const MAX_HELD: usize = 8192;
/// The most descriptors of messages that were received in part.
const MAX_RECEIVED: usize = 64;

/// Reads the descriptors of a device.
pub fn unpack(descriptors: Vec<(String, OwnedFd)>) -> Result<HandOver, OfferError> {
    let mut named = Named::new(descriptors)?;
    let (file, bytes) = StateFile::read(named.take(STATE)?)?;
    assemble(State::decode(&bytes)?, named, Some(file))
}

/// Puts what was read of a device and its descriptors together.
pub fn assemble(
    state: State,
    mut named: Named,
    file: Option<StateFile>,
) -> Result<HandOver, OfferError> {
    let vectors = state.vectors.into_iter().map(|vector| {
        Ok(Vector {
            vector: vector.vector,
            eventfd: vector.eventfd.map(|name| named.take(&name)).transpose()?,
            masked: vector.masked,
            pending: vector.pending,
        })
    });
    let vectors = vectors.collect::<Result<_, OfferError>>()?;
    let session = state
        .session
        .map(|session| unpack_session(session, &mut named));
    let session = session.transpose()?;
    let digest: [u8; 32] = state.component.try_into().map_err(|_| {
        OfferError::Malformed("the digest of its component has not 32 bytes".to_owned())
    })?;
    let held = state.held.into_iter();
    let device = DeviceState {
        component: Digest(digest),
        snapshot: state.snapshot,
        down: state.down,
        paused: state.paused,
        work_left: state.work_left,
        unfinished: state.unfinished,
        held: held
            .map(|(bar, offset, value)| RegisterWrite { bar, offset, value })
            .collect(),
        pending: state.pending,
        ports: state.ports.into_iter().map(unpack_port).collect(),
        past: unpack_past(&state.past),
        memory: unpack_memory(state.memory, &mut named)?,
        died: None,
    };
    Ok(HandOver {
        device,
        begun: Duration::from_nanos(state.begun),
        build: state.build,
        vectors,
        session,
        notes: state.notes,
        others: named.rest(),
        file,
        lost: None,
        offered: state.offered.unwrap_or(false),
    })
}

impl State {
    /// Reads what was written, and checks it.
    ///
    /// # Errors
    ///
    /// If no build writes that.
    pub fn decode(bytes: &[u8]) -> Result<Self, OfferError> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let state: Self = decoder.decode()?;
        if decoder.position() != bytes.len() {
            return Err(OfferError::Malformed("bytes follow it".to_owned()));
        }
        state.check()?;
        Ok(state)
    }

    /// Checks every count against its bound.
    pub fn check(&self) -> Result<(), OfferError> {
        let received = self.session.as_ref().map_or(0, |it| it.descriptors.len());
        let queues = self.ports.iter().map(|port| port.queues.len()).max();
        let all = || self.ports.iter().flat_map(|port| &port.queues);
        let buffers = all().map(|queue| queue.buffers.len()).max();
        let segments = all().map(|queue| queue.segments.len()).max();
        let counts = [
            ("ports", self.ports.len(), MAX_PORTS),
            ("queues of a port", queues.unwrap_or(0), MAX_QUEUES.into()),
            (
                "buffers of a queue",
                buffers.unwrap_or(0),
                RxQueue::MAX_BUFFERS,
            ),
            (
                "segments of a queue",
                segments.unwrap_or(0),
                RxQueue::MAX_SEGMENTS,
            ),
            ("vectors", self.vectors.len(), MAX_VECTORS),
            ("pending vectors", self.pending.len(), MAX_VECTORS),
            ("doorbells", self.held.len(), MAX_HELD),
            (
                "regions of memory",
                self.memory.len(),
                GuestMemory::MAX_REGIONS,
            ),
            ("received descriptors", received, MAX_RECEIVED),
        ];
        for (what, count, most) in counts {
            if count > most {
                return Err(OfferError::too_many(what, count, most));
            }
        }
        if !all().all(QueueState::adds_up) {
            let text = "the segments of posted buffers do not add up".to_owned();
            return Err(OfferError::Malformed(text));
        }
        match self.notes.len() {
            length if length > MAX_NOTES => Err(OfferError::notes(length)),
            _ => Ok(()),
        }
    }
}

impl QueueState {
    /// Checks that each buffer has segments, and that their counts add up to the number of segments.
    fn adds_up(&self) -> bool {
        let mut counts = self.buffers.iter().map(|(_, count)| usize::from(*count));
        let sum: usize = counts.clone().sum();
        sum == self.segments.len() && counts.all(|count| count > 0)
    }
}

fn unpack_port(port: PortState) -> PortPast {
    PortPast {
        link_up: port.link_up,
        queues: port.queues.into_iter().map(unpack_queue).collect(),
    }
}

fn unpack_queue(queue: QueueState) -> QueuePast {
    let mut row = [0; Counters::WORDS];
    let words = row.iter_mut().zip(queue.counters);
    words.for_each(|(to, from)| *to = from);
    let buffers = queue.buffers.into_iter();
    let segments = queue.segments.into_iter();
    QueuePast {
        counters: Counters::from_words(row),
        buffers: buffers
            .map(|(id, segments)| RxBuffer { id, segments })
            .collect(),
        segments: segments
            .map(|(address, length)| Segment { address, length })
            .collect(),
    }
}

fn unpack_past(past: &PastState) -> Past {
    Past {
        swaps: past.swaps,
        rollbacks: past.rollbacks,
        longest_pause: Duration::from_nanos(past.longest_pause),
        failures: past.failures,
        recoveries: past.recoveries,
        restarts: past.restarts,
        hand_overs: past.hand_overs,
        hand_over_pause: Duration::from_nanos(past.hand_over_pause),
        longest_hand_over: Duration::from_nanos(past.longest_hand_over),
    }
}

fn unpack_memory(
    regions: Vec<RegionState>,
    named: &mut Named,
) -> Result<Vec<SharedRegion>, OfferError> {
    let mut files: BTreeMap<String, Arc<File>> = BTreeMap::new();
    let mut unpacked = Vec::with_capacity(regions.len());
    for region in regions {
        let mut place = None;
        if let Some((name, offset)) = region.file {
            let file = match files.get(&name) {
                Some(file) => file.clone(),
                None => {
                    let file = Arc::new(File::from(named.take(&name)?));
                    files.insert(name, file.clone());
                    file
                }
            };
            place = Some((file, offset));
        }
        unpacked.push(SharedRegion {
            address: region.address,
            size: region.size,
            writable: region.writable,
            file: place,
        });
    }
    Ok(unpacked)
}

fn unpack_session(session: SessionState, named: &mut Named) -> Result<Session, OfferError> {
    let received = session.descriptors.into_iter();
    let received = received.map(|(place, name)| Ok((place, named.take(&name)?)));
    let descriptors = received.collect::<Result<_, OfferError>>()?;
    Ok(Session {
        connection: named.take(&session.connection)?,
        attached: session.attached,
        received: session.received,
        descriptors,
    })
}

/// Descriptors by their names.
pub struct Named(BTreeMap<String, OwnedFd>);

impl Named {
    /// Sorts them.
    ///
    /// # Errors
    ///
    /// If a name came twice.
    pub fn new(descriptors: Vec<(String, OwnedFd)>) -> Result<Self, OfferError> {
        let mut named = BTreeMap::new();
        for (name, descriptor) in descriptors {
            if named.contains_key(&name) {
                return Err(OfferError::Twice(name));
            }
            named.insert(name, descriptor);
        }
        Ok(Self(named))
    }

    /// Takes one by its name.
    ///
    /// # Errors
    ///
    /// If it did not come along.
    pub fn take(&mut self, name: &str) -> Result<OwnedFd, OfferError> {
        let taken = self.0.remove(name);
        taken.ok_or_else(|| OfferError::Missing(name.chars().take(64).collect()))
    }

    fn rest(self) -> Vec<(String, OwnedFd)> {
        self.0.into_iter().collect()
    }
}
