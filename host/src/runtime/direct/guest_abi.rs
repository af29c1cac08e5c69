//! The host's access to an instance that it calls directly.

use std::ops::Range;
use std::sync::Arc;

use wasmtime::{AsContextMut, Memory, Result, TypedFunc, bail};

use super::heap::{Heap, Place};
use crate::runtime::linear_memory::Reservation;
use crate::runtime::state::HostState;

/// The parameters of the instance's allocator: an old range (none), alignment and size in bytes.
pub type Realloc = TypedFunc<(u32, u32, u32, u32), u32>;

/// Linear memory, and the instance's allocator.
pub struct GuestAbi {
    memory: Memory,
    /// Its reservation, which is used instead of wasmtime's slower lookup.
    reservation: Option<Arc<Reservation>>,
    /// The range of the arena; empty until one is reserved.
    arena: Range<u32>,
    /// Taken while the allocator or a post-return function runs: the instance must not call the
    /// host meanwhile.
    realloc: Option<Box<Realloc>>,
}

impl std::fmt::Debug for GuestAbi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestAbi").finish_non_exhaustive()
    }
}

impl GuestAbi {
    /// Creates the access to an instance with these exports.
    pub fn new(memory: Memory, realloc: Realloc) -> Self {
        Self {
            memory,
            reservation: None,
            arena: 0..0,
            realloc: Some(Box::new(realloc)),
        }
    }

    /// Sets the reservation of the memory, if it is this one.
    pub fn lies_in(&mut self, reservation: &Arc<Reservation>, base: *mut u8) {
        if reservation.base() == base {
            self.reservation = Some(reservation.clone());
        }
    }

    /// Returns the memory.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Records that this range is no heap from now on.
    pub fn set_arena(&mut self, arena: Range<u32>) {
        self.arena = arena;
    }
}

/// Returns the heap of a store's instance, and the host's side.
///
/// # Errors
///
/// Nothing is instantiated yet.
#[inline]
pub fn heap_and_state<S>(store: &mut S) -> Result<(Heap<'_>, &mut HostState)>
where
    S: AsContextMut<Data = HostState>,
{
    let Some(inside) = &store.as_context().data().inside else {
        bail!("called the host before it was there");
    };
    let (memory, arena) = (inside.memory, inside.arena.clone());
    let place = inside.reservation.as_ref().map(|within| Place {
        base: within.base(),
        size: within.size(),
        arena: arena.clone(),
    });
    let place = place.unwrap_or_else(|| Place {
        base: memory.data_ptr(&mut *store),
        size: memory.data_size(&mut *store),
        arena,
    });
    Ok(Heap::of(place, store))
}

/// Returns the same, for an import.
///
/// # Errors
///
/// The instance is not there, or may not call the host.
#[inline]
pub fn called<S>(store: &mut S) -> Result<(Heap<'_>, &mut HostState)>
where
    S: AsContextMut<Data = HostState>,
{
    let (heap, state) = heap_and_state(store)?;
    let may_call = |inside: &GuestAbi| inside.realloc.is_some();
    if !state.inside.as_ref().is_some_and(may_call) {
        bail!("called the host while it was asked for memory");
    }
    Ok((heap, state))
}

/// Runs a function of the instance that must not call the host, passing `act` the allocator as
/// well.
///
/// # Errors
///
/// Those of `act`, or the instance may not call the host itself.
pub fn confined<S: AsContextMut<Data = HostState>, T>(
    store: &mut S,
    act: impl FnOnce(&mut S, &Realloc) -> Result<T>,
) -> Result<T> {
    let taken = |state: &mut HostState| state.inside.as_mut()?.realloc.take();
    let Some(realloc) = taken(store.as_context_mut().data_mut()) else {
        bail!("the instance is asked for memory already");
    };
    let result = act(store, &realloc);
    if let Some(inside) = &mut store.as_context_mut().data_mut().inside {
        inside.realloc = Some(realloc);
    }
    result
}

/// Allocates memory of the instance, and fills it. Returns its address.
///
/// # Errors
///
/// If the instance fails, or returns an invalid range.
pub fn put(
    store: &mut impl AsContextMut<Data = HostState>,
    align: u32,
    size: usize,
    fill: impl FnOnce(&mut [u8], &mut HostState),
) -> Result<u32> {
    let wanted = (0, 0, align, u32::try_from(size)?);
    let address = confined(store, |store, realloc| realloc.call(store, wanted))?;
    let (mut heap, state) = heap_and_state(store)?;
    fill(heap.bytes_mut(address, size, align)?, state);
    Ok(address)
}
