//! The bounds of everything that a component passes: one table for both runtimes, checked before
//! anything is copied or allocated.

use wasmtime::{Result, bail};

use super::limits::Limits;
use crate::contract::{Bounds, Features};

/// Bytes of a device's name.
pub const NAME_BYTES: usize = 64;
/// Bytes of a build's version.
pub const BUILD_BYTES: usize = 64;
/// Memory BARs.
pub const BARS: usize = 3;
/// Formats of saved states that a build reads.
pub const STATE_FORMATS: usize = 64;
/// Ranges of doorbells.
pub const DOORBELL_RANGES: usize = 16;
/// Bytes of the lists that `describe` returns, all together.
pub const DESCRIPTION_BYTES: usize = 4096;
/// Bytes of the window arena, if the limit of memory allows.
pub const ARENA_BYTES: usize = 256 << 20;
/// Windows of a device.
pub const WINDOWS: usize = 2048;
/// Pages of a window.
pub const WINDOW_PAGES: usize = 8192;
/// Mappings that the windows of a device are made of: pages that are contiguous
/// in a file are one. The kernel allows 65,530 for the whole process by default.
pub const MAPPINGS: usize = 8192;
/// Bytes of a copy from or to guest memory.
pub const COPY_BYTES: usize = 1 << 20;
/// Packets or buffers of a call.
pub const PACKETS: usize = 4096;
/// Segments of a call.
pub const SEGMENTS: usize = 16 * PACKETS;
/// Receive buffers that the host holds for a queue.
pub const BUFFERS: usize = crate::endpoint::RxQueue::MAX_BUFFERS;
/// Bytes of a saved state.
pub const STATE_BYTES: usize = 1 << 20;
/// Bytes of the result of `inspect`.
pub const INSPECT_BYTES: usize = 1 << 20;
/// Bytes of a line of the log.
pub const LINE_BYTES: usize = 1024;
/// Bytes of the text with which a device refuses something.
pub const WORDS_BYTES: usize = 1024;

/// Returns these bounds as passed to a device.
pub fn told(limits: &Limits) -> Bounds {
    Bounds {
        arena_bytes: arena_bytes(limits) as u32,
        windows: WINDOWS as u32,
        window_pages: WINDOW_PAGES as u32,
        copy_bytes: COPY_BYTES as u32,
        packets: PACKETS as u32,
        segments: SEGMENTS as u32,
        buffers: BUFFERS as u32,
        state_bytes: STATE_BYTES as u32,
        inspect_bytes: INSPECT_BYTES as u32,
        line_bytes: LINE_BYTES as u32,
    }
}

/// Returns the largest arena: half of the memory, so that there is room for a heap.
pub fn arena_bytes(limits: &Limits) -> usize {
    const WASM_PAGE: usize = 1 << 16;
    ARENA_BYTES.min(limits.memory / 2) / WASM_PAGE * WASM_PAGE
}

/// Whether stores to a window reach the guest in the order in which the component
/// makes them: wasm has no store that orders others, so the processor must.
const ORDERED_STORES: bool = cfg!(target_arch = "x86_64");

/// Returns whether windows are supported.
pub fn has_windows(limits: &Limits) -> bool {
    limits.windows && ORDERED_STORES
}

/// Returns the features that this host offers to a device with these limits.
pub fn offered(limits: &Limits) -> Features {
    let mut features = Features::all();
    features.set(Features::WINDOWS, has_windows(limits));
    features
}

/// Checks the length of a list that a component passed.
///
/// # Errors
///
/// It is longer than `most`; the message names it and the bound.
#[inline]
pub fn check(what: &str, length: usize, most: usize) -> Result<()> {
    if length > most {
        bail!("{what}: {length}, which is more than the {most} that the contract allows");
    }
    Ok(())
}
