//! How a device on its way is written: CBOR, with descriptors by their names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use minicbor::{Decode, Encode};

use super::error::OfferError;
use super::state_file::StateFile;
use super::{HandOver, MAX_NOTES, STATE, Session, Vector};
use crate::component::Digest;
use crate::contract::RegisterWrite;
use crate::device::{DeviceState, Past, PortPast, QueuePast};
use crate::endpoint::{Counters, MAX_QUEUES, RxBuffer, RxQueue};
use crate::memory::{GuestMemory, Segment, SharedRegion};

/// Ports that a device can have.
const MAX_PORTS: usize = 256;
/// Vectors that a function can have.
const MAX_VECTORS: usize = 2048;
/// Doorbells that are kept.
const MAX_HELD: usize = 8192;
/// Descriptors of messages that were received in part.
const MAX_RECEIVED: usize = 64;

#[derive(Encode, Decode)]
#[cbor(map)]
struct State {
    #[n(0)]
    build: String,
    /// Nanoseconds of the clock that goes on while the machine is suspended.
    #[n(1)]
    begun: u64,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    component: Vec<u8>,
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    snapshot: Vec<u8>,
    #[n(4)]
    down: Option<String>,
    #[n(5)]
    paused: bool,
    /// BAR, offset, value.
    #[n(6)]
    held: Vec<(u8, u64, u64)>,
    #[n(7)]
    pending: Vec<u16>,
    #[n(8)]
    ports: Vec<PortState>,
    #[n(9)]
    past: PastState,
    #[n(10)]
    memory: Vec<RegionState>,
    #[n(11)]
    vectors: Vec<VectorState>,
    #[n(12)]
    session: Option<SessionState>,
    #[n(13)]
    #[cbor(with = "minicbor::bytes")]
    notes: Vec<u8>,
    #[n(14)]
    work_left: bool,
    #[n(15)]
    unfinished: bool,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct PortState {
    #[n(0)]
    link_up: bool,
    #[n(1)]
    queues: Vec<QueueState>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct QueueState {
    /// Counters in a row. Those that a later version adds come last.
    #[n(0)]
    counters: Vec<u64>,
    /// Id and number of segments of the buffers that are posted.
    #[n(1)]
    buffers: Vec<(u32, u16)>,
    /// Address and length.
    #[n(2)]
    segments: Vec<(u64, u32)>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct PastState {
    #[n(0)]
    swaps: u64,
    #[n(1)]
    rollbacks: u64,
    #[n(2)]
    longest_pause: u64,
    #[n(3)]
    failures: u64,
    #[n(4)]
    recoveries: u64,
    #[n(5)]
    restarts: u64,
    #[n(6)]
    hand_overs: u64,
    #[n(7)]
    hand_over_pause: u64,
    #[n(8)]
    longest_hand_over: u64,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct RegionState {
    #[n(0)]
    address: u64,
    #[n(1)]
    size: u64,
    #[n(2)]
    writable: bool,
    /// The descriptor, and the offset there.
    #[n(3)]
    file: Option<(String, u64)>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct VectorState {
    #[n(0)]
    vector: u16,
    #[n(1)]
    eventfd: Option<String>,
    #[n(2)]
    masked: bool,
    #[n(3)]
    pending: bool,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct SessionState {
    #[n(0)]
    connection: String,
    #[n(1)]
    attached: bool,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    received: Vec<u8>,
    #[n(3)]
    descriptors: Vec<(u64, String)>,
}

/// Writes what is handed over.
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
    } = hand_over;
    if notes.len() > MAX_NOTES {
        return Err(io::Error::other(OfferError::notes(notes.len())));
    }
    let memory = pack_memory(&device.memory, &mut descriptors)?;
    let state = State {
        build,
        begun: nanoseconds(begun),
        component: device.component.0.to_vec(),
        snapshot: device.snapshot,
        down: device.down,
        paused: device.paused,
        held: device
            .held
            .iter()
            .map(|write| (write.bar, write.offset, write.value))
            .collect(),
        pending: device.pending,
        ports: device.ports.iter().map(pack_port).collect(),
        past: pack_past(&device.past),
        memory,
        vectors: pack_vectors(vectors, &mut descriptors),
        session: session.map(|session| pack_session(session, &mut descriptors)),
        notes,
        work_left: device.work_left,
        unfinished: device.unfinished,
    };
    let state = minicbor::to_vec(&state).map_err(io::Error::other)?;
    descriptors.push((STATE.to_owned(), StateFile::write(&state)?));
    Ok(descriptors)
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

/// Reads what was handed over.
pub fn unpack(descriptors: Vec<(String, OwnedFd)>) -> Result<HandOver, OfferError> {
    let mut named = Named::new(descriptors)?;
    let (file, bytes) = StateFile::read(named.take(STATE)?)?;
    let mut decoder = minicbor::Decoder::new(&bytes);
    let state: State = decoder.decode()?;
    if decoder.position() != bytes.len() {
        return Err(OfferError::Malformed("bytes follow it".to_owned()));
    }
    state.check()?;
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
    };
    Ok(HandOver {
        device,
        begun: Duration::from_nanos(state.begun),
        build: state.build,
        vectors,
        session,
        notes: state.notes,
        others: named.rest(),
        file: Some(file),
    })
}

impl State {
    /// Checks that there is not more of anything than there can be.
    fn check(&self) -> Result<(), OfferError> {
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
        match self.notes.len() {
            length if length > MAX_NOTES => Err(OfferError::notes(length)),
            _ => Ok(()),
        }
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
struct Named(BTreeMap<String, OwnedFd>);

impl Named {
    fn new(descriptors: Vec<(String, OwnedFd)>) -> Result<Self, OfferError> {
        let mut named = BTreeMap::new();
        for (name, descriptor) in descriptors {
            if named.contains_key(&name) {
                return Err(OfferError::Twice(name));
            }
            named.insert(name, descriptor);
        }
        Ok(Self(named))
    }

    fn take(&mut self, name: &str) -> Result<OwnedFd, OfferError> {
        let taken = self.0.remove(name);
        taken.ok_or_else(|| OfferError::Missing(name.chars().take(64).collect()))
    }

    fn rest(self) -> Vec<(String, OwnedFd)> {
        self.0.into_iter().collect()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}
