//! What the host knows of an instance that it enters directly.

use wasmtime::{AsContextMut, Memory, Result, TypedFunc, bail};

use super::abi;
use crate::runtime::state::HostState;

/// Asks for memory: an old range (none), alignment and size in bytes.
pub type Realloc = TypedFunc<(u32, u32, u32, u32), u32>;

/// Linear memory, and how to get a range of it.
pub struct Inside {
    memory: Memory,
    /// Taken while the instance is asked for memory, or takes back what it
    /// returned: it may not call the host meanwhile.
    realloc: Option<Box<Realloc>>,
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inside").finish_non_exhaustive()
    }
}

impl Inside {
    /// Of an instance that exports these.
    pub fn new(memory: Memory, realloc: Realloc) -> Self {
        Self {
            memory,
            realloc: Some(Box::new(realloc)),
        }
    }
}

/// The memory of a store's instance, and the host's side.
///
/// # Errors
///
/// Nothing is instantiated yet.
pub fn memory_and_state(
    store: &mut impl AsContextMut<Data = HostState>,
) -> Result<(&mut [u8], &mut HostState)> {
    let store = store.as_context_mut();
    let Some(inside) = &store.data().inside else {
        bail!("called the host before it was there");
    };
    let memory = inside.memory;
    Ok(memory.data_and_store_mut(store))
}

/// The same, for an import.
///
/// # Errors
///
/// The instance is not there, or may not call the host.
pub fn called(
    store: &mut impl AsContextMut<Data = HostState>,
) -> Result<(&mut [u8], &mut HostState)> {
    let (memory, state) = memory_and_state(store)?;
    let may_call = |inside: &Inside| inside.realloc.is_some();
    if !state.inside.as_ref().is_some_and(may_call) {
        bail!("called the host while it was asked for memory");
    }
    Ok((memory, state))
}

/// Runs a function of the instance that may not call the host, for which `act`
/// also gets what to ask for memory.
///
/// # Errors
///
/// Those of `act`, or the instance may not call the host itself.
pub fn confined<S: AsContextMut<Data = HostState>, T>(
    store: &mut S,
    act: impl FnOnce(&mut S, &Realloc) -> Result<T>,
) -> Result<T> {
    let (_, state) = memory_and_state(store)?;
    let inside = state.inside.as_mut();
    let Some(realloc) = inside.and_then(|inside| inside.realloc.take()) else {
        bail!("the instance is asked for memory already");
    };
    let result = act(store, &realloc);
    if let Some(inside) = &mut store.as_context_mut().data_mut().inside {
        inside.realloc = Some(realloc);
    }
    result
}

/// Has the instance give memory, and fills it. Returns its address.
///
/// # Errors
///
/// The instance fails, or gives a range that can't be.
pub fn put(
    store: &mut impl AsContextMut<Data = HostState>,
    align: u32,
    size: usize,
    fill: impl FnOnce(&mut [u8], &mut HostState),
) -> Result<u32> {
    let wanted = (0, 0, align, u32::try_from(size)?);
    let address = confined(store, |store, realloc| realloc.call(store, wanted))?;
    let (memory, state) = memory_and_state(store)?;
    fill(abi::range_mut(memory, address, size, align)?, state);
    Ok(address)
}
