//! Lists of records that cross the boundary as the words they are made of:
//! one copy, no allocation, whatever their number.
//!
//! wasmtime's own `Vec` of records makes a new allocation for each list and
//! takes it apart field by field. These types have the same place in a
//! function's signature and are checked against the same types.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use wasmtime::component::__internal::{
    CanonicalAbiInfo, InstanceType, InterfaceType, LiftContext, LowerContext, map_maybe_uninit,
};
use wasmtime::component::{ComponentType, Func, Instance, Lift, Lower, TypedFunc, WasmList};
use wasmtime::{Result, Store, StoreContext, ValRaw, bail, format_err};

use crate::bindings::manatee::device::types::RxBuffer;
use crate::endpoint::{Offloads, RxFlags, RxPacket, Segment, TxPacket};

/// The interface that a device exports.
const DEVICE: &str = "manatee:device/device@0.1.0";

/// A record without pointers, as it lies in a component's memory.
///
/// `N` is the number of its words, low bytes first, as the canonical ABI lays it
/// out.
pub trait Record<const N: usize>: ComponentType + Copy {
    /// Reads it. Padding, and bits of flags that do not exist, are ignored.
    fn from_words(words: &[u32; N]) -> Self;
}

const fn words<T: ComponentType>() -> u32 {
    T::SIZE32 as u32 / 4
}

/// A list of records in a component's memory, not yet looked at.
pub struct Records<T, const N: usize> {
    words: WasmList<u32>,
    records: PhantomData<T>,
}

impl<T: Record<N>, const N: usize> Records<T, N> {
    /// Copies the records to the end of `to`.
    pub fn append_to<'a, S: 'static>(
        &self,
        store: impl Into<StoreContext<'a, S>>,
        to: &mut Vec<T>,
    ) {
        const { assert!(words::<T>() as usize == N) };
        let (records, _) = self.words.as_le_slice(store).as_chunks();
        to.extend(records.iter().map(T::from_words));
    }
}

fn words_of<T: ComponentType>() -> usize {
    words::<T>() as usize
}

// SAFETY: the type, its flat form and its form in memory are those of `[T]`.
unsafe impl<T: Record<N>, const N: usize> ComponentType for Records<T, N> {
    type Lower = <[T] as ComponentType>::Lower;

    const ABI: CanonicalAbiInfo = <[T]>::ABI;

    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()> {
        <[T]>::typecheck(ty, types)
    }
}

// SAFETY: wasmtime's list of words checks that the range is in bounds; it is
// given as many words as the records have, and alignment is checked here.
unsafe impl<T: Record<N>, const N: usize> Lift for Records<T, N> {
    fn linear_lift_from_flat(
        cx: &mut LiftContext<'_>,
        ty: InterfaceType,
        source: &Self::Lower,
    ) -> Result<Self> {
        let [address, length] = [source[0].get_u32(), source[1].get_u32()];
        if !address.is_multiple_of(T::ALIGN32) {
            bail!("a list of records is not aligned");
        }
        let length = length.checked_mul(words::<T>());
        let length = length.ok_or_else(|| format_err!("a list of records is too long"))?;
        let source = [ValRaw::u32(address), ValRaw::u32(length)];
        Ok(Self {
            words: WasmList::linear_lift_from_flat(cx, ty, &source)?,
            records: PhantomData,
        })
    }

    fn linear_lift_from_memory(
        _: &mut LiftContext<'_>,
        _: InterfaceType,
        _: &[u8],
    ) -> Result<Self> {
        bail!("lists of records come as parameters only")
    }
}

/// Records on their way into a component, as words.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a, T> {
    words: &'a [u32],
    records: PhantomData<T>,
}

impl<'a> Encoded<'a, RxPacket> {
    /// Encodes packets into `words`, which is emptied first.
    pub fn packets(packets: &[RxPacket], words: &'a mut Vec<u32>) -> Self {
        words.clear();
        words.extend(packets.iter().flat_map(|packet| {
            let flags = packet.flags.as_array()[0];
            let last = u32::from(packet.vlan_tci) | flags << 16;
            [packet.id, packet.length, last]
        }));
        Self {
            words,
            records: PhantomData,
        }
    }
}

// SAFETY: as for `Records`.
unsafe impl<T: ComponentType> ComponentType for Encoded<'_, T> {
    type Lower = <[T] as ComponentType>::Lower;

    const ABI: CanonicalAbiInfo = <[T]>::ABI;

    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> Result<()> {
        <[T]>::typecheck(ty, types)
    }
}

// SAFETY: the words are lowered as a list of words is, to memory that is
// aligned for the records, whose number is told instead of that of the words.
unsafe impl<T: ComponentType> Lower for Encoded<'_, T> {
    fn linear_lower_to_flat<U>(
        &self,
        cx: &mut LowerContext<'_, U>,
        _: InterfaceType,
        to: &mut MaybeUninit<Self::Lower>,
    ) -> Result<()> {
        const { assert!(T::ALIGN32 == u32::ALIGN32) };
        let address = cx.realloc(0, 0, T::ALIGN32, 4 * self.words.len())?;
        u32::linear_store_list_to_memory(cx, InterfaceType::U32, address, self.words)?;
        let records = self.words.len() / words_of::<T>();
        map_maybe_uninit!(to[0]).write(ValRaw::i64(address as i64));
        map_maybe_uninit!(to[1]).write(ValRaw::i64(records as i64));
        Ok(())
    }

    fn linear_lower_to_memory<U>(
        &self,
        _: &mut LowerContext<'_, U>,
        _: InterfaceType,
        _: usize,
    ) -> Result<()> {
        bail!("lists of records are parameters only")
    }
}

/// The device's function `received`, for packets that are encoded.
pub struct Received(Func);

type ReceivedParams<'a> = (u32, u32, Encoded<'a, RxPacket>);

impl Received {
    /// That of an instance.
    ///
    /// # Errors
    ///
    /// It exports none, or one of another type.
    pub fn of<S>(instance: &Instance, store: &mut Store<S>) -> Result<Self> {
        let interface = instance.get_export_index(&mut *store, None, DEVICE);
        let function = instance.get_export_index(&mut *store, interface.as_ref(), "received");
        let function = function.and_then(|index| instance.get_func(&mut *store, index));
        let function = function.ok_or_else(|| format_err!("no function `received`"))?;
        function.typed::<ReceivedParams<'static>, (bool,)>(&*store)?;
        Ok(Self(function))
    }

    /// Calls it for queue 0 of a port. True if work is left.
    ///
    /// # Errors
    ///
    /// wasmtime's.
    pub fn call<S: 'static>(
        &self,
        store: &mut Store<S>,
        port: u32,
        packets: Encoded<'_, RxPacket>,
    ) -> Result<bool> {
        // SAFETY: `of` checked the function's type, in which lifetimes have no
        // part.
        let function = unsafe { TypedFunc::<ReceivedParams<'_>, (bool,)>::new_unchecked(self.0) };
        let (more,) = function.call(store, (port, 0, packets))?;
        Ok(more)
    }
}

impl Record<4> for TxPacket {
    #[inline]
    fn from_words(words: &[u32; 4]) -> Self {
        let [id, first, second, flags] = *words;
        Self {
            id,
            segments: first as u16,
            l4_offset: (first >> 16) as u16,
            segment_size: second as u16,
            vlan_tci: (second >> 16) as u16,
            offloads: offloads(flags as u8),
        }
    }
}

impl Record<2> for RxBuffer {
    #[inline]
    fn from_words(words: &[u32; 2]) -> Self {
        Self {
            id: words[0],
            segments: words[1] as u16,
        }
    }
}

impl Record<4> for Segment {
    #[inline]
    fn from_words(words: &[u32; 4]) -> Self {
        Self {
            address: u64::from(words[0]) | u64::from(words[1]) << 32,
            length: words[2],
        }
    }
}

/// Flags by their bits, which wasmtime's type does not give access to.
#[inline]
fn offloads(bits: u8) -> Offloads {
    const ALL: [Offloads; 7] = [
        Offloads::IPV4,
        Offloads::IPV6,
        Offloads::IP_CHECKSUM,
        Offloads::TCP_CHECKSUM,
        Offloads::UDP_CHECKSUM,
        Offloads::TCP_SEGMENTATION,
        Offloads::INSERT_VLAN,
    ];
    let mut flags = Offloads::empty();
    if bits == 0 {
        return flags;
    }
    for (bit, flag) in ALL.iter().enumerate() {
        if bits >> bit & 1 != 0 {
            flags |= *flag;
        }
    }
    flags
}

const _: () = {
    assert!(TxPacket::SIZE32 == 16 && Segment::SIZE32 == 16);
    assert!(RxBuffer::SIZE32 == 8 && RxPacket::SIZE32 == 12);
    assert!(RxFlags::SIZE32 == 2 && Offloads::SIZE32 == 1);
};
