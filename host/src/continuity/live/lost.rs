//! Reads the state of a process that died, which is hostile input.

use std::os::fd::OwnedFd;

use super::cells::{Cells, HANDED};
use super::{PREFIX, Phase, SessionRecord, VectorsRecord, doorbells, layout, regions};
use crate::continuity::error::OfferError;
use crate::continuity::format::{Named, RegionState, State, assemble};
use crate::continuity::{HandOver, MAX_NOTES};
use crate::contract::HandedOver;
use crate::device::Died;

/// A session with a VMM whose server died.
#[derive(Debug)]
pub struct LostSession {
    /// The connection.
    pub connection: OwnedFd,
    /// Whether the VMM has sent a request.
    pub attached: bool,
    /// The recorded progress of the request in progress.
    pub progress: u64,
    /// Its recorded answer.
    pub answer: Vec<u8>,
    /// Whether it had taken effect on the device.
    pub took_effect: bool,
}

/// The beginning of the successor's file.
#[derive(Debug)]
pub struct Follow {
    pub(super) pipe: (OwnedFd, OwnedFd),
    pub(super) request: u64,
    pub(super) progress: u64,
    pub(super) answer: Vec<u8>,
    pub(super) session: Option<(OwnedFd, bool)>,
    pub(super) took_effect: bool,
}

/// The parts of a lost state that are not the device's.
#[derive(Debug)]
pub struct Lost {
    pub(crate) session: Option<LostSession>,
    pub(crate) follow: Option<Follow>,
}

/// Returns the newest active file and its number.
///
/// # Errors
///
/// If a descriptor with a file's name is not such a file.
fn newest(named: &mut Vec<(String, OwnedFd)>) -> Result<Option<(u64, Cells)>, OfferError> {
    let number = |name: &str| name.strip_prefix(PREFIX)?.parse::<u64>().ok();
    let mut newest: Option<(u64, Cells)> = None;
    let (files, others) = std::mem::take(named)
        .into_iter()
        .partition::<Vec<_>, _>(|(name, _)| number(name).is_some());
    *named = others;
    for (name, file) in files {
        let Some(number) = number(&name) else {
            continue;
        };
        let cells = Cells::open(file, layout::LENGTH)
            .map_err(|_| OfferError::NoState("its file has another length"))?;
        let active = cells.load(layout::PHASE_AT) == Phase::Active as u64;
        if active && newest.as_ref().is_none_or(|(other, _)| *other < number) {
            newest = Some((number, cells));
        }
    }
    Ok(newest)
}

impl HandOver {
    /// Reads the state of a process that died without giving its device away; None if there is none.
    ///
    /// # Errors
    ///
    /// [`OfferError`]; the descriptors are closed, of which whoever tries again keeps copies.
    pub fn from_live(mut named: Vec<(String, OwnedFd)>) -> Result<Option<Self>, OfferError> {
        let Some((number, cells)) = newest(&mut named)? else {
            return Ok(None);
        };
        // Descriptors of older files are useless.
        let own = format!("{PREFIX}{number}-");
        named.retain(|(name, _)| !name.starts_with(PREFIX) || name.starts_with(&own));
        read(number, &cells, Named::new(named)?).map(Some)
    }
}

fn read(number: u64, cells: &Cells, mut named: Named) -> Result<HandOver, OfferError> {
    if cells.load(layout::MAGIC_AT) != layout::MAGIC {
        return Err(OfferError::NoState("it begins with something else"));
    }
    let version = cells.load(layout::VERSION_AT);
    if version != layout::VERSION {
        return Err(OfferError::Version(version.try_into().unwrap_or(u32::MAX)));
    }
    let device = layout::DEVICE.read(cells).ok_or(OfferError::Checksum)?;
    let mut state = State::decode(&device.bytes)?;
    let rung = doorbells::read(cells, device.number);
    let rung = rung.ok_or_else(|| OfferError::Malformed("its doorbells are none".to_owned()))?;
    let request = cells.load(layout::REQUEST_AT);
    let (regions, changed) = regions::read(cells, request);
    state.memory = regions
        .into_iter()
        .map(|region| RegionState {
            address: region.address,
            size: region.size,
            writable: region.writable,
            file: region.file.map(|(file, offset)| {
                let name = format!("{PREFIX}{number}-memory-{file}");
                (name, offset)
            }),
        })
        .collect();
    if let Some(copy) = layout::VECTORS.read(cells) {
        let record: VectorsRecord = minicbor::decode(&copy.bytes)?;
        state.vectors = record.vectors;
    }
    if let Some(copy) = layout::NOTES.read(cells) {
        state.notes = copy.bytes;
        state.notes.truncate(MAX_NOTES);
    }
    let answer = answer(cells);
    let progress = cells.load(layout::PROGRESS_AT);
    let attached = cells.load(layout::ATTACHED_AT) == 1;
    let record = layout::SESSION.read(cells);
    let record = record.map(|copy| minicbor::decode::<SessionRecord>(&copy.bytes));
    let connection = record.transpose()?.and_then(|record| record.connection);
    let connection = connection.map(|name| named.take(&name)).transpose()?;
    let copy = connection.as_ref().map(OwnedFd::try_clone).transpose()?;
    let pipe =
        ["answers-out", "answers-in"].map(|end| named.take(&format!("{PREFIX}{number}-{end}")));
    let [out, into] = pipe;
    let took_effect = changed || device.word == request;
    let lost = Lost {
        session: connection.map(|connection| LostSession {
            connection,
            attached,
            progress,
            answer: answer.clone(),
            took_effect,
        }),
        follow: Some(Follow {
            pipe: (out?, into?),
            request,
            progress,
            answer,
            session: copy.map(|connection| (connection, attached)),
            took_effect,
        }),
    };
    let died = Died {
        rung,
        handed_over: handed_over(cells, &state),
        attempt: cells.load(layout::ATTEMPT_AT).checked_sub(1),
    };
    state.check()?;
    let mut hand_over = assemble(state, named, None)?;
    hand_over.device.died = Some(died);
    hand_over.lost = Some(lost);
    Ok(hand_over)
}

/// Returns the answer to the request in progress.
pub fn answer(cells: &Cells) -> Vec<u8> {
    let length = cells.load(layout::ANSWER_LENGTH_AT);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    cells.read(layout::ANSWER_AT, length.min(layout::MAX_ANSWER))
}

fn handed_over(cells: &Cells, state: &State) -> Vec<HandedOver> {
    let ports = state.ports.iter().take(layout::MAX_PORTS).enumerate();
    let queues = ports.flat_map(|(port, state)| (0..state.queues.len()).map(move |q| (port, q)));
    let handed = queues.filter_map(|(port, queue)| {
        let value = cells.load(layout::handed(port, queue));
        (value & HANDED != 0).then_some(HandedOver {
            port: port as u32,
            queue: queue as u32,
            id: value as u32,
        })
    });
    handed.collect()
}
