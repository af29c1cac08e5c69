//! What outlives a server: the journal, the device's effects, and the descriptors. A server
//! dies at any of its steps by a panic that nobody catches before it has left the server.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::Arc;

use manatee_vfio_user::{
    Backend, Journal, Lost, MemoryMap, Progress, Refused, Stopper, VectorState, Vectors,
};
use parking_lot::Mutex;
use rustix::io::Errno;

/// A write to this offset of a BAR raises vector 0.
pub const RAISES: u64 = 0x100;

/// What a server dies of.
pub struct Killed;

/// What the device was made to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Bar(u64, Vec<u8>),
    Config(u64, Vec<u8>),
    /// The address, and the first byte of the file there.
    Map(u64, Option<u8>),
    Unmap(u64),
    Reset,
}

pub struct World(Mutex<State>, io::PipeReader, io::PipeWriter);

struct State {
    word: u64,
    answer: Vec<u8>,
    connection: Option<OwnedFd>,
    attached: bool,
    vectors: Vec<VectorState>,
    effects: Vec<Effect>,
    /// Effects before the request in progress.
    before: usize,
    closed: u32,
    /// Ends the server when the session is over.
    stopper: Option<Stopper>,
    steps: u64,
    dies_at: u64,
    refuses_vectors: bool,
    refuses_connection: bool,
}

impl World {
    pub fn new() -> Arc<Self> {
        let (out, into) = io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&into, 1 << 16).unwrap();
        let state = State {
            word: Progress::Idle { done: 0 }.to_word(),
            answer: Vec::new(),
            connection: None,
            attached: false,
            vectors: Vec::new(),
            effects: Vec::new(),
            before: 0,
            closed: 0,
            stopper: None,
            steps: 0,
            dies_at: u64::MAX,
            refuses_vectors: false,
            refuses_connection: false,
        };
        Arc::new(Self(Mutex::new(state), out, into))
    }

    /// Lets the server take `steps` more.
    pub fn dies_after(&self, steps: u64) {
        let mut state = self.0.lock();
        state.dies_at = state.steps.saturating_add(steps);
    }

    pub fn refuse_vectors(&self) {
        self.0.lock().refuses_vectors = true;
    }

    pub fn refuse_connection(&self) {
        self.0.lock().refuses_connection = true;
    }

    /// Puts another server into the place of the last.
    pub fn set_stopper(&self, stopper: Stopper) {
        self.0.lock().stopper = Some(stopper);
    }

    pub fn closed(&self) -> u32 {
        self.0.lock().closed
    }

    pub fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    pub fn effects(&self) -> Vec<Effect> {
        self.0.lock().effects.clone()
    }

    /// Notes what a server would have noted when it died.
    pub fn leave(&self, connection: &UnixStream, progress: Progress, answer: &[u8]) {
        let mut state = self.0.lock();
        state.connection = Some(connection.try_clone().unwrap().into());
        state.attached = true;
        state.word = progress.to_word();
        state.answer = answer.to_vec();
    }

    /// Returns what a successor is given.
    pub fn lost(&self) -> Lost {
        let state = self.0.lock();
        let connection = state.connection.as_ref().unwrap();
        Lost {
            connection: connection.try_clone().unwrap(),
            attached: state.attached,
            progress: Progress::from_word(state.word).unwrap(),
            answer: state.answer.clone(),
            took_effect: state.effects.len() > state.before,
        }
    }

    /// Returns the vectors that a successor begins with.
    pub fn restored(&self) -> Vectors {
        let copy = |state: &VectorState| VectorState {
            vector: state.vector,
            eventfd: state.eventfd.as_ref().map(|fd| fd.try_clone().unwrap()),
            assignment: state.assignment,
            masked: state.masked,
            pending: state.pending,
        };
        let vectors = Vectors::new(8);
        let saved = self.0.lock().vectors.iter().map(copy).collect();
        vectors.restore(saved).unwrap();
        vectors
    }

    fn step(&self) {
        let mut state = self.0.lock();
        state.steps += 1;
        if state.steps == state.dies_at {
            drop(state);
            resume_unwind(Box::new(Killed));
        }
    }

    fn between<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        self.step();
        let result = act(&mut self.0.lock());
        self.step();
        result
    }
}

impl Journal for World {
    fn opened(&self, connection: BorrowedFd<'_>) -> io::Result<()> {
        {
            let mut state = self.0.lock();
            if state.refuses_connection {
                return Err(io::Error::other("the keeper has gone"));
            }
            state.connection = Some(connection.try_clone_to_owned()?);
            state.word = Progress::Idle { done: 0 }.to_word();
            state.attached = false;
        }
        self.step();
        Ok(())
    }

    fn attached(&self) {
        self.between(|state| {
            assert!(!state.attached);
            state.attached = true;
        });
    }

    fn closed(&self) {
        self.between(|state| {
            state.closed += 1;
            state.connection = None;
        });
    }

    fn progress(&self) -> Progress {
        Progress::from_word(self.0.lock().word).unwrap()
    }

    fn set_progress(&self, progress: Progress) {
        self.between(|state| {
            assert!(state.connection.is_some());
            state.word = progress.to_word();
            if matches!(
                progress,
                Progress::Executing { .. } | Progress::Posted { .. }
            ) {
                state.before = state.effects.len();
            }
        });
    }

    fn set_answer(&self, answer: &[u8]) {
        self.between(|state| {
            let half = answer.len() / 2;
            state.answer = answer[..half].to_vec();
        });
        self.between(|state| state.answer = answer.to_vec());
    }

    fn answer(&self) -> Vec<u8> {
        self.0.lock().answer.clone()
    }

    fn pipe(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.1.as_fd(), self.2.as_fd())
    }

    fn vectors(&self, vectors: &Vectors) -> io::Result<()> {
        self.between(|state| {
            if state.refuses_vectors {
                return Err(io::Error::other("the keeper has gone"));
            }
            state.vectors = vectors.save()?;
            Ok(())
        })
    }
}

/// A device whose registers hold what was written to them last.
pub struct Device {
    pub world: Arc<World>,
    pub vectors: Vectors,
}

impl Device {
    fn took(&self, effect: Effect) {
        self.world.between(|state| state.effects.push(effect));
    }

    /// Fills data with what `written` finds in the effects, the last first.
    fn read(&self, data: &mut [u8], written: impl Fn(&Effect) -> Option<&[u8]>) {
        let state = self.world.0.lock();
        let last = state.effects.iter().rev().find_map(written);
        data.fill(0x5a);
        let last = last.unwrap_or_default();
        let length = last.len().min(data.len());
        data[..length].copy_from_slice(&last[..length]);
    }
}

impl Backend for Device {
    fn bar_size(&self, bar: u8) -> u64 {
        if bar == 0 { 1 << 20 } else { 0 }
    }

    fn bar_read(&self, _: u8, wanted: u64, data: &mut [u8]) {
        self.read(data, |effect| match effect {
            Effect::Bar(offset, written) if *offset == wanted => Some(written),
            _ => None,
        });
    }

    fn bar_write(&self, _: u8, offset: u64, data: &[u8]) {
        self.world.between(|state| {
            state.effects.push(Effect::Bar(offset, data.to_vec()));
            if offset == RAISES {
                self.vectors.raise(0);
            }
        });
    }

    fn config_read(&self, wanted: u64, data: &mut [u8]) {
        self.read(data, |effect| match effect {
            Effect::Config(offset, written) if *offset == wanted => Some(written),
            _ => None,
        });
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        self.took(Effect::Config(offset, data.to_vec()));
    }

    fn map_memory(&self, map: MemoryMap) -> Result<bool, Refused> {
        let mut byte = [0];
        let first = map.file.map(|(file, offset)| {
            file.read_exact_at(&mut byte, offset).unwrap();
            byte[0]
        });
        self.took(Effect::Map(map.address, first));
        Ok(false)
    }

    fn unmap_memory(&self, address: u64, _: u64) -> Result<(), Refused> {
        let mapped = |effect: &Effect| matches!(effect, Effect::Map(at, _) if *at == address);
        if !self.world.0.lock().effects.iter().any(mapped) {
            return Err(Refused {
                errno: Errno::NOENT,
                reason: "nothing is mapped there".into(),
            });
        }
        self.took(Effect::Unmap(address));
        Ok(())
    }

    fn unmap_all_memory(&self) -> Result<(), Refused> {
        self.took(Effect::Unmap(0));
        Ok(())
    }

    fn raise(&self, vectors: Range<u16>) {
        vectors.for_each(|vector| self.vectors.raise(vector));
    }

    fn reset(&self) {
        self.took(Effect::Reset);
    }

    fn detach(&self) {
        self.world.step();
        // The session is over, and no VMM is to come.
        let stopper = self.world.0.lock().stopper.take();
        if let Some(stopper) = stopper {
            stopper.stop(std::time::Duration::ZERO);
        }
        self.world.step();
    }
}
