//! The state of a device that survives its process: a file in memory, written while the device
//! runs, and descriptors, which somebody else stores.
//!
//! ```text
//!  the process that serves                     who stores descriptors        its successor
//!   every change ──> file in memory ─┐
//!   every descriptor of the VMM's ───┴──────────────> store ─────────────────> Lost
//!        SIGKILL                                                       a fresh instance recovers
//! ```
//!
//! A process that is killed is to its successor what a component that failed is to its host: the
//! last checkpoint, the doorbells that rang since, and the last packets that were handed over are
//! in the file, and a fresh instance [recovers](crate::contract) from them and from the guest's own
//! rings. All of it is written by stores to memory; nothing on the path of packets and doorbells
//! makes a system call for it.
//!
//! What changes as a whole is written twice (`section.rs`), so that a death between any two stores
//! leaves the one before or the one after. The successor writes a file of its own, with the next
//! number, and [activates](LiveState::activate) it once it is complete: until then, the file
//! before counts.

mod cells;
mod doorbells;
mod layout;
mod lost;
mod regions;
pub(crate) mod section;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use minicbor::{Decode, Encode};
use parking_lot::Mutex;

use super::MAX_NOTES;
use super::format::VectorState;
use crate::contract::RegisterWrite;
use crate::memory::{FileId, SharedRegion};
pub use cells::Cell;
use cells::Cells;
pub use doorbells::DoorbellTable;
pub use layout::MAX_ANSWER;
pub use lost::{Follow, Lost, LostSession};
use regions::Regions;

/// The prefix of the names of a file and of its descriptors.
pub const PREFIX: &str = "live-";

/// Stores descriptors for the next process, by names.
pub trait DescriptorStore: std::fmt::Debug + Send + Sync {
    /// Stores a descriptor. When it returns, it survives this process.
    ///
    /// # Errors
    ///
    /// If it is not stored.
    fn store(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()>;

    /// Removes the descriptors of a name.
    fn remove(&self, name: &str);
}

/// Returns the number of the file that comes after all whose names, or whose descriptors' names,
/// are among these.
pub fn next_number<'a>(names: impl Iterator<Item = &'a str>) -> u64 {
    let number = |name: &str| name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok();
    names
        .filter_map(number)
        .max()
        .map_or(1, |last: u64| last.saturating_add(1))
}

/// The phase of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// It is not complete yet.
    Preparing = 0,
    /// A successor continues from it.
    Active = 1,
    /// No successor continues from it: the device was handed over, or storing failed.
    Ended = 2,
}

/// The VMM's connection, by its name.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(map)]
struct SessionRecord {
    #[n(0)]
    connection: Option<String>,
}

/// The VMM's vectors.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(map)]
struct VectorsRecord {
    #[n(0)]
    vectors: Vec<VectorState>,
}

/// A vector to be stored.
#[derive(Debug)]
pub struct LiveVector<'a> {
    /// Its number.
    pub vector: u16,
    /// The eventfd that the VMM gave it.
    pub eventfd: Option<BorrowedFd<'a>>,
    /// A number that no other assignment of an eventfd has: one that is stored already is not stored
    /// again.
    pub assignment: u64,
    /// Whether the VMM has masked it.
    pub masked: bool,
}

/// The file that a device's state is written to while it runs. Cheap to clone; every clone is the
/// same.
#[derive(Clone, Debug)]
pub struct LiveState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    number: u64,
    cells: Arc<Cells>,
    store: Box<dyn DescriptorStore>,
    /// The pipe for answers: read end and write end.
    pipe: (OwnedFd, OwnedFd),
    regions: Mutex<Regions>,
    /// The names of the session's and the vectors' descriptors.
    names: Mutex<Names>,
    /// The number of the VMM's request in progress.
    request: AtomicU64,
    /// The same, if it had taken effect when the predecessor died.
    executed: AtomicU64,
    failed: AtomicBool,
}

#[derive(Debug, Default)]
struct Names {
    generation: u64,
    session: Option<String>,
    /// By their vectors: which assignment it is, and the eventfd's name.
    vectors: BTreeMap<u16, (u64, String)>,
}

impl LiveState {
    /// Creates a file with the [next number](next_number) and stores it. Successors use it once it
    /// is [activated](Self::activate).
    ///
    /// # Errors
    ///
    /// If the kernel or the store refuses.
    pub fn new(store: Box<dyn DescriptorStore>, number: u64) -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(
            rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
        )?;
        rustix::pipe::fcntl_setpipe_size(&write, 2 * MAX_ANSWER)?;
        Self::make(store, number, (read, write))
    }

    /// Creates a file that follows that of a process that died.
    ///
    /// # Errors
    ///
    /// If the kernel or the store refuses.
    pub fn follow(
        store: Box<dyn DescriptorStore>,
        number: u64,
        follow: Follow,
    ) -> io::Result<Self> {
        let Follow {
            pipe,
            request,
            progress,
            answer,
            session,
            took_effect,
        } = follow;
        let live = Self::make(store, number, pipe)?;
        let cells = &live.0.cells;
        live.0.request.store(request, Ordering::Relaxed);
        let executed = if took_effect { request } else { 0 };
        live.0.executed.store(executed, Ordering::Relaxed);
        cells.store(layout::REQUEST_AT, request);
        live.write_answer(&answer);
        if let Some((connection, attached)) = session {
            live.open_session(connection.as_fd())?;
            cells.store(layout::ATTACHED_AT, attached.into());
        }
        cells.store(layout::PROGRESS_AT, progress);
        Ok(live)
    }

    fn make(
        store: Box<dyn DescriptorStore>,
        number: u64,
        pipe: (OwnedFd, OwnedFd),
    ) -> io::Result<Self> {
        let cells = Arc::new(Cells::new(layout::LENGTH)?);
        cells.store(layout::MAGIC_AT, layout::MAGIC);
        cells.store(layout::VERSION_AT, layout::VERSION);
        let live = Self(Arc::new(Inner {
            number,
            regions: Mutex::new(Regions::new(cells.clone())),
            cells,
            store,
            pipe,
            names: Mutex::default(),
            // 0 means none.
            request: AtomicU64::new(1),
            executed: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        }));
        let Inner { store, pipe, .. } = &*live.0;
        store.store(&live.name("answers-out"), pipe.0.as_fd())?;
        store.store(&live.name("answers-in"), pipe.1.as_fd())?;
        store.store(&format!("{PREFIX}{number}"), live.0.cells.as_fd())?;
        Ok(live)
    }

    fn name(&self, what: &str) -> String {
        format!("{PREFIX}{}-{what}", self.0.number)
    }

    /// Makes successors continue from this file.
    pub fn activate(&self) {
        if !self.has_failed() {
            self.set_phase(Phase::Active);
        }
    }

    /// Ends that: the device is handed over, or ends.
    pub fn end(&self) {
        self.set_phase(Phase::Ended);
    }

    fn set_phase(&self, phase: Phase) {
        self.0.cells.store(layout::PHASE_AT, phase as u64);
    }

    /// Returns whether something could not be stored, so that no successor can continue.
    pub fn has_failed(&self) -> bool {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// Stores a descriptor by a name of the library's.
    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        if self.has_failed() {
            return Err(io::Error::other("another descriptor could not be stored"));
        }
        let kept = self.0.store.store(name, descriptor);
        if let Err(error) = &kept {
            self.fail("a descriptor", error);
        }
        kept
    }

    /// Removes what is stored by a name. Nobody asks a store twice that does not listen.
    fn forget(&self, name: &str) {
        if !self.has_failed() {
            self.0.store.remove(name);
        }
    }

    fn fail(&self, what: &str, error: &dyn std::fmt::Display) {
        self.end();
        if !self.0.failed.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "{what} can't be stored ({error}): the device continues, and would not survive \
                 the death of this process"
            );
        }
    }

    /// Replaces the caller's notes, of up to [`MAX_NOTES`] bytes.
    pub fn set_notes(&self, notes: &[u8]) {
        if !layout::NOTES.commit(&self.0.cells, notes, 0) {
            let error = format!("{} bytes, and there is room for {MAX_NOTES}", notes.len());
            self.fail("the notes", &error);
        }
    }

    /// Stores a descriptor of the caller's, which a successor finds under this name.
    pub fn add(&self, name: &str, descriptor: BorrowedFd<'_>) {
        // That it failed is noted.
        let _ = self.keep(name, descriptor);
    }

    /// Removes a descriptor of the caller's.
    pub fn remove(&self, name: &str) {
        self.forget(name);
    }
}

/// For the device, whose lock is held.
impl LiveState {
    /// Returns the number of the VMM's request in progress.
    #[inline]
    pub(crate) fn request(&self) -> u64 {
        self.0.request.load(Ordering::Relaxed)
    }

    /// Returns the number of the VMM's request in progress if it took effect before the predecessor
    /// died, and 0 otherwise.
    pub(crate) fn executed(&self) -> u64 {
        self.0.executed.load(Ordering::Relaxed)
    }

    /// Replaces the device's state, which includes the effect of the request `executed`. Returns the
    /// table for doorbells, which begins with those that `rung` since the checkpoint.
    pub(crate) fn commit(
        &self,
        state: &[u8],
        executed: u64,
        rung: &[RegisterWrite],
    ) -> DoorbellTable {
        let cells = &self.0.cells;
        let table = DoorbellTable::fill(cells, layout::DEVICE.next(cells), rung);
        if !layout::DEVICE.commit(cells, state, executed) {
            let error = format!("it has {} bytes", state.len());
            self.fail("the device's state", &error);
        }
        table
    }

    /// Returns the cell with the last packet handed to a queue.
    pub(crate) fn handed(&self, port: usize, queue: usize) -> Option<Cell> {
        let inside = port < layout::MAX_PORTS;
        inside.then(|| Cell::new(&self.0.cells, layout::handed(port, queue)))
    }

    /// Returns the cell with the WQE that the component announced.
    pub(crate) fn attempt(&self) -> Cell {
        Cell::new(&self.0.cells, layout::ATTEMPT_AT)
    }

    /// Adds a region of guest memory, mapped by the request in progress or by an earlier one.
    pub(crate) fn map(&self, region: &SharedRegion, id: Option<FileId>, mapped_now: bool) {
        let mut regions = self.0.regions.lock();
        if let (Some(id), Some((file, _))) = (id, &region.file) {
            let (number, new) = regions.file(id);
            let name = self.name(&format!("memory-{number}"));
            if new {
                // That it failed is noted.
                let _ = self.keep(&name, file.as_fd());
            }
        }
        let request = if mapped_now { self.request() } else { 0 };
        regions.add(region, id, request);
    }

    /// Removes the regions in a range.
    pub(crate) fn unmap(&self, range: std::ops::Range<u64>) {
        let unused = self.0.regions.lock().remove(range, self.request());
        for number in unused {
            self.forget(&self.name(&format!("memory-{number}")));
        }
    }
}

/// For whoever serves a VMM.
impl LiveState {
    /// Begins a session with a VMM.
    ///
    /// # Errors
    ///
    /// If the connection can't be stored.
    pub fn open_session(&self, connection: BorrowedFd<'_>) -> io::Result<()> {
        self.close_session();
        let mut names = self.0.names.lock();
        names.generation += 1;
        let name = self.name(&format!("session-{}", names.generation));
        self.keep(&name, connection)?;
        self.0.cells.store(layout::ATTACHED_AT, 0);
        self.0.cells.store(layout::PROGRESS_AT, 0);
        self.commit_session(Some(name.clone()));
        names.session = Some(name);
        Ok(())
    }

    /// Notes that the VMM uses the device.
    pub fn note_attached(&self) {
        self.0.cells.store(layout::ATTACHED_AT, 1);
    }

    /// Ends the session.
    pub fn close_session(&self) {
        let mut names = self.0.names.lock();
        let Some(name) = names.session.take() else {
            return;
        };
        self.commit_session(None);
        self.forget(&name);
        // Its eventfds are those of a VMM that has gone: nothing of them is stored, so this can't fail.
        let _ = self.replace_vectors(&mut names, &[]);
    }

    fn commit_session(&self, connection: Option<String>) {
        let record = SessionRecord { connection };
        self.commit_record(layout::SESSION, &record, "the session");
    }

    fn commit_record(&self, section: section::Section, record: &impl Encode<()>, what: &str) {
        match minicbor::to_vec(record) {
            Ok(bytes) if section.commit(&self.0.cells, &bytes, 0) => {}
            Ok(bytes) => self.fail(what, &format!("{} bytes", bytes.len())),
            Err(error) => self.fail(what, &error),
        }
    }

    /// Replaces the VMM's vectors.
    ///
    /// # Errors
    ///
    /// If an eventfd can't be stored.
    pub fn set_vectors(&self, vectors: &[LiveVector<'_>]) -> io::Result<()> {
        self.replace_vectors(&mut self.0.names.lock(), vectors)
    }

    fn replace_vectors(&self, names: &mut Names, vectors: &[LiveVector<'_>]) -> io::Result<()> {
        let mut stored = BTreeMap::new();
        let mut record = VectorsRecord::default();
        for vector in vectors {
            let mut name = None;
            if let Some(eventfd) = vector.eventfd {
                let named = self.stored_eventfd(names, vector, eventfd)?;
                stored.insert(vector.vector, (vector.assignment, named.clone()));
                name = Some(named);
            }
            record.vectors.push(VectorState {
                vector: vector.vector,
                eventfd: name,
                masked: vector.masked,
                pending: false,
            });
        }
        self.commit_record(layout::VECTORS, &record, "the vectors");
        for (vector, before) in std::mem::replace(&mut names.vectors, stored) {
            if names.vectors.get(&vector) != Some(&before) {
                self.forget(&before.1);
            }
        }
        Ok(())
    }

    /// Returns the name by which an eventfd is stored.
    fn stored_eventfd(
        &self,
        names: &mut Names,
        vector: &LiveVector<'_>,
        eventfd: BorrowedFd<'_>,
    ) -> io::Result<String> {
        match names.vectors.get(&vector.vector) {
            Some((assignment, name)) if *assignment == vector.assignment => Ok(name.clone()),
            _ => {
                names.generation += 1;
                let name = format!("vector-{}-{}", vector.vector, names.generation);
                let name = self.name(&name);
                self.keep(&name, eventfd)?;
                Ok(name)
            }
        }
    }

    /// Returns the progress of the request in progress.
    pub fn progress(&self) -> u64 {
        self.0.cells.load(layout::PROGRESS_AT)
    }

    /// Sets the progress; `begins` if it is that of the next request.
    pub fn set_progress(&self, progress: u64, begins: bool) {
        if begins {
            let request = self.request() + 1;
            self.0.request.store(request, Ordering::Relaxed);
            self.0.cells.store(layout::REQUEST_AT, request);
        }
        self.0.cells.store(layout::PROGRESS_AT, progress);
    }

    /// Notes the answer to the request in progress, of up to [`MAX_ANSWER`] bytes.
    pub fn write_answer(&self, answer: &[u8]) {
        let answer = &answer[..answer.len().min(MAX_ANSWER)];
        self.0.cells.write(layout::ANSWER_AT, answer);
        let length = answer.len() as u64;
        self.0.cells.store(layout::ANSWER_LENGTH_AT, length);
    }

    /// Returns the answer to the request in progress.
    pub fn answer(&self) -> Vec<u8> {
        lost::answer(&self.0.cells)
    }

    /// Returns the pipe through which answers pass: its read end and its write end.
    pub fn pipe(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.0.pipe.0.as_fd(), self.0.pipe.1.as_fd())
    }
}
