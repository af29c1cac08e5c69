//! The window arena: which guest pages are mapped where in it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};

use super::{PAGE, Reservation};
use crate::memory::{FaultRange, GuestMemory, NoWindow, PageSource};
use crate::runtime::bounds;

/// Why a window was refused.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// Not inside the arena, not aligned, overlapping, or not over guest memory.
    #[error("the range or a page is not one that a window can have")]
    Invalid,
    /// Too many windows or mappings, or too large.
    #[error("too many windows")]
    Exhausted,
    /// It is guest memory that can't be in a window: of larger pages, or of no file.
    #[error("this guest memory can't be laid into windows")]
    Unsupported,
    /// The kernel refused, and the previous contents are lost.
    #[error("laying a window: {0}")]
    Broken(#[from] io::Error),
}

/// Guest pages could not be unmapped from windows one by one.
#[derive(Debug, thiserror::Error)]
#[error("taking guest memory out of windows: {error}")]
pub struct RevokeError {
    /// The error of the kernel.
    pub error: io::Error,
    /// Whether the pages may still be there; otherwise all windows were unmapped.
    pub in_reach: bool,
}

/// The contents of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The guest's pages, for reading and writing.
    Shared,
    /// The guest's pages; stores go to private copies.
    Private,
    /// Zeros; stores go to private copies.
    Nothing,
}

/// The access of a component to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowAccess {
    /// Loads and stores of guest memory.
    ReadWrite,
    /// Loads of guest memory; stores go to private copies.
    ReadOnly,
}

/// The guest pages that are mapped over a range of linear memory.
#[derive(Debug)]
struct Window {
    /// Guest address of each page, in order.
    pages: Vec<u64>,
    access: WindowAccess,
    mappings: usize,
    /// Whether a page of it is not guest memory any more.
    lost: bool,
}

impl Window {
    fn range(&self, offset: usize) -> Range<usize> {
        offset..offset + self.pages.len() * PAGE
    }
}

/// The arena of a linear memory.
#[derive(Debug)]
pub struct Arena {
    range: Range<usize>,
    /// By offset.
    windows: BTreeMap<usize, Window>,
    mappings: usize,
    view: View,
    /// Set when a file was shrunk under a window.
    lost: Arc<AtomicBool>,
    /// None if too many ranges are registered: then a lost page ends the process, as without the
    /// handler.
    _faults: Option<FaultRange>,
}

impl Arena {
    /// Creates an arena without windows at this address.
    pub fn new(at: NonNull<u8>, range: Range<usize>, view: View) -> Self {
        let lost = Arc::new(AtomicBool::new(false));
        Self {
            _faults: FaultRange::register(at, range.len(), PAGE, lost.clone()),
            lost,
            range,
            windows: BTreeMap::new(),
            mappings: 0,
            view,
        }
    }

    /// Returns whether a page of a window was lost with its file.
    pub fn lost(&self) -> Arc<AtomicBool> {
        self.lost.clone()
    }

    pub fn usage(&self) -> (usize, usize) {
        (self.windows.len(), self.mappings)
    }

    /// Checks and maps a window.
    pub fn map(
        &mut self,
        within: &Reservation,
        offset: usize,
        pages: &[u64],
        access: WindowAccess,
        memory: &GuestMemory,
    ) -> Result<(), WindowError> {
        if pages.len() > bounds::WINDOW_PAGES {
            return Err(WindowError::Exhausted);
        }
        let end = offset
            .checked_add(pages.len() * PAGE)
            .ok_or(WindowError::Invalid)?;
        let inside = self.range.start <= offset && end <= self.range.end;
        if pages.is_empty() || !offset.is_multiple_of(PAGE) || !inside {
            return Err(WindowError::Invalid);
        }
        // Windows do not overlap, so only the last that begins before the end
        // of this one could.
        let before = self.windows.range(..end).next_back();
        if before.is_some_and(|(at, window)| offset < window.range(*at).end) {
            return Err(WindowError::Invalid);
        }
        for page in pages {
            memory.page(*page).map_err(|why| match why {
                NoWindow::NotMemory => WindowError::Invalid,
                NoWindow::Unsupported => WindowError::Unsupported,
            })?;
        }
        let runs = runs(pages, memory);
        if self.windows.len() >= bounds::WINDOWS || self.mappings + runs.len() > bounds::MAPPINGS {
            return Err(WindowError::Exhausted);
        }
        let window = Window {
            pages: pages.to_vec(),
            access,
            mappings: runs.len(),
            lost: false,
        };
        lay_all(within, offset, &runs, backing(self.view, access))?;
        self.mappings += runs.len();
        self.windows.insert(offset, window);
        Ok(())
    }

    /// Unmaps a window.
    pub fn unmap(&mut self, within: &Reservation, offset: usize) -> io::Result<()> {
        let Some(window) = self.windows.remove(&offset) else {
            return Ok(());
        };
        self.mappings -= window.mappings;
        clear(within, window.range(offset))
    }

    /// Replaces lost pages by zeroed ones.
    pub fn revoke(
        &mut self,
        within: &Reservation,
        gone: &[Range<u64>],
    ) -> Result<Vec<u32>, RevokeError> {
        let mut lost = Vec::new();
        for (offset, window) in &mut self.windows {
            let hits = |page: &u64| gone.iter().any(|range| range.contains(page));
            if !window.pages.iter().any(hits) {
                continue;
            }
            lost.push(*offset as u32);
            window.lost = true;
            for (index, _) in window
                .pages
                .iter()
                .enumerate()
                .filter(|(_, page)| hits(page))
            {
                let at = offset + index * PAGE;
                if let Err(error) = clear(within, at..at + PAGE) {
                    // One mapping in place of many needs no room in the kernel's
                    // table, and takes everything out of reach.
                    let in_reach = clear(within, self.range.clone()).is_err();
                    return Err(RevokeError { error, in_reach });
                }
            }
        }
        Ok(lost)
    }

    /// Maps windows again whose pages are back.
    pub fn restore(&mut self, within: &Reservation, memory: &GuestMemory) -> io::Result<Vec<u32>> {
        let mut whole = Vec::new();
        for (offset, window) in self.windows.iter_mut().filter(|(_, window)| window.lost) {
            let runs = runs(&window.pages, memory);
            if runs.iter().any(|run| run.source.is_none()) {
                continue;
            }
            self.mappings = self.mappings - window.mappings + runs.len();
            window.mappings = runs.len();
            window.lost = false;
            lay_all(within, *offset, &runs, backing(self.view, window.access))?;
            whole.push(*offset as u32);
        }
        Ok(whole)
    }

    /// Changes the contents of windows.
    pub fn show(
        &mut self,
        within: &Reservation,
        view: View,
        memory: &GuestMemory,
    ) -> io::Result<()> {
        let before = std::mem::replace(&mut self.view, view);
        // Windows of queues that a driver made together are often contiguous in the arena
        // and in guest memory: then one system call lays many, and no mapping is split.
        let mut laid: Vec<(usize, Run, Backing)> = Vec::with_capacity(self.windows.len());
        for (offset, window) in &mut self.windows {
            let backing = backing(view, window.access);
            if backing == self::backing(before, window.access) {
                continue;
            }
            let mut at = *offset;
            window.lost = false;
            for run in runs(&window.pages, memory) {
                window.lost |= run.source.is_none();
                let length = run.length;
                match laid.last_mut() {
                    Some((begin, last, same))
                        if *same == backing
                            && *begin + last.length == at
                            && last.continues_with(run.source.as_ref()) =>
                    {
                        last.length += length;
                    }
                    _ => laid.push((at, run, backing)),
                }
                at += length;
            }
        }
        // Contiguous ranges are unmapped by one call: it interrupts the other processors once instead
        // of once for each, which takes twice as long.
        let ranges = laid.iter().map(|(at, run, _)| *at..*at + run.length);
        for range in joined(ranges) {
            clear(within, range)?;
        }
        for (at, run, backing) in laid.iter().filter(|(_, _, at)| *at != Backing::Zeros) {
            lay_run(within, *at, run, *backing)?;
        }
        Ok(())
    }
}

/// The mapping under a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    /// The guest's pages.
    Shared,
    /// The guest's pages until they are stored to, and copies from then on.
    Private,
    Zeros,
}

/// Returns the mapping for this contents. In a private mapping, Linux shows what others write to
/// the file as long as nobody has stored to the mapping's page.
fn backing(view: View, access: WindowAccess) -> Backing {
    match (view, access) {
        (View::Nothing, _) => Backing::Zeros,
        (View::Shared, WindowAccess::ReadWrite) => Backing::Shared,
        (View::Shared, WindowAccess::ReadOnly) | (View::Private, _) => Backing::Private,
    }
}

/// Joins ranges, in order, that touch.
fn joined(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// Pages that are contiguous in a file, or that are no guest memory.
#[derive(Debug)]
struct Run {
    source: Option<PageSource>,
    length: usize,
}

impl Run {
    fn continues_with(&self, next: Option<&PageSource>) -> bool {
        match (&self.source, next) {
            (Some(own), Some(next)) => {
                let end = own.offset + self.length as u64;
                Arc::ptr_eq(&own.file, &next.file) && end == next.offset
            }
            (None, None) => true,
            _ => false,
        }
    }
}

/// Joins pages that are contiguous.
fn runs(pages: &[u64], memory: &GuestMemory) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for page in pages {
        let source = memory.page(*page).ok();
        match runs.last_mut() {
            Some(run) if run.continues_with(source.as_ref()) => run.length += PAGE,
            _ => runs.push(Run {
                source,
                length: PAGE,
            }),
        }
    }
    runs
}

/// Maps all contiguous runs of a window, one after the other.
fn lay_all(within: &Reservation, offset: usize, runs: &[Run], backing: Backing) -> io::Result<()> {
    let mut at = offset;
    for run in runs {
        lay_run(within, at, run, backing)?;
        at += run.length;
    }
    Ok(())
}

fn lay_run(within: &Reservation, at: usize, run: &Run, backing: Backing) -> io::Result<()> {
    match (&run.source, backing) {
        (Some(source), Backing::Shared) => lay(within, at, run.length, source, MapFlags::SHARED),
        (Some(source), Backing::Private) => lay(within, at, run.length, source, MapFlags::PRIVATE),
        (None, _) | (_, Backing::Zeros) => clear(within, at..at + run.length),
    }
}

fn lay(
    within: &Reservation,
    offset: usize,
    length: usize,
    source: &PageSource,
    sharing: MapFlags,
) -> io::Result<()> {
    // SAFETY: the range lies inside the arena (`Arena::map` checked it), which is
    // accessible memory of the reservation that nothing in the host refers to: the
    // component reaches it by plain loads and stores, and the host not at all.
    unsafe {
        mmap(
            within.at(offset),
            length,
            ProtFlags::READ | ProtFlags::WRITE,
            sharing | MapFlags::FIXED | MapFlags::NORESERVE,
            source.file.as_fd(),
            source.offset,
        )?;
    }
    Ok(())
}

/// Replaces a range by anonymous, zeroed memory.
fn clear(within: &Reservation, range: Range<usize>) -> io::Result<()> {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: as in `lay`.
    unsafe { mmap_anonymous(within.at(range.start), range.len(), rights, flags)? };
    Ok(())
}
