//! Access to guest memory by guest address.

use vm_memory::{Le64, VolatileMemory, VolatileSlice};

use super::error::{Access, Fault};
use super::guest::{GuestMemory, NEAR};
use super::region::Reach;

impl GuestMemory {
    /// Copies from guest memory.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if part of the range can't be read; `data` is undefined then.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Fault> {
        if let Some(slice) = self.slice(address, data.len() as u64, Access::Read) {
            slice.copy_to(data);
            return Ok(());
        }
        let mut rest = data;
        self.walk(address, rest.len() as u64, Access::Read, |slice| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(slice.len());
            slice.copy_to(now);
            rest = later;
        })
    }

    /// Returns the 8 bytes at an address as a little-endian number, in one load. None
    /// if they do not all lie in one region that can be read.
    #[inline]
    pub fn load(&self, address: u64) -> Option<u64> {
        let slice = self.slice(address, 8, Access::Read)?;
        let bytes = slice.get_ref::<Le64>(0);
        bytes.ok().map(|bytes| bytes.load().into())
    }

    /// Copies to guest memory; all or nothing.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if part of the range can't be written.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), Fault> {
        if let Some(slice) = self.slice(address, data.len() as u64, Access::Write) {
            slice.copy_from(data);
            return Ok(());
        }
        self.check(address, data.len() as u64, Access::Write)?;
        let mut rest = data;
        self.walk(address, data.len() as u64, Access::Write, |slice| {
            let (now, later) = rest.split_at(slice.len());
            slice.copy_from(now);
            rest = later;
        })
    }

    /// Copies from guest memory to guest memory; all or nothing. The ranges
    /// may overlap; what arrives is undefined then.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if part of a range can't be accessed.
    pub fn copy(&self, from: u64, to: u64, length: u64) -> Result<(), Fault> {
        let source = self.slice(from, length, Access::Read);
        if let (Some(source), Some(target)) = (source, self.slice(to, length, Access::Write)) {
            source.copy_to_volatile_slice(target);
            return Ok(());
        }
        self.check(from, length, Access::Read)?;
        self.check(to, length, Access::Write)?;
        let mut at = to;
        let mut fault = Ok(());
        self.walk(from, length, Access::Read, |source| {
            let mut done = 0;
            let piece = self.walk(at, source.len() as u64, Access::Write, |target| {
                // In bounds: the inner walk covers exactly `source`.
                if let Ok(part) = source.subslice(done, target.len()) {
                    part.copy_to_volatile_slice(target);
                }
                done += target.len();
            });
            fault = fault.and(piece);
            at += source.len() as u64;
        })?;
        fault
    }

    /// Checks that the whole range can be accessed.
    ///
    /// # Errors
    ///
    /// A [`Fault`] that names the range if not.
    #[inline]
    pub fn check(&self, address: u64, length: u64, access: Access) -> Result<(), Fault> {
        if self.slice(address, length, access).is_some() {
            return Ok(());
        }
        self.walk(address, length, access, |_| {})
    }

    /// Locates an address. The large regions, where nearly every access is, are checked first: all
    /// of them if there are several, since a branch that is mispredicted whenever a guest uses
    /// another one costs more.
    #[inline]
    fn reach(&self, address: u64) -> Option<&Reach> {
        let [only, second, ..] = &self.near;
        if second.length() == 0 && only.contains(address) {
            return Some(only);
        }
        let mut index = NEAR;
        for (at, reach) in self.near.iter().enumerate() {
            if reach.contains(address) {
                index = at;
            }
        }
        match self.near.get(index) {
            None => self.far(address),
            near => near,
        }
    }

    #[inline(never)]
    fn far(&self, address: u64) -> Option<&Reach> {
        self.regions.find(address).map(|region| &region.reach)
    }

    /// Returns the range, if it is in one region as a whole, as nearly every range is.
    #[inline]
    fn slice(&self, address: u64, length: u64, access: Access) -> Option<VolatileSlice<'_, ()>> {
        self.reach(address)?.slice(address, length, access)
    }

    /// Calls `visit` with the pieces of a range, in order.
    pub(super) fn walk<'a>(
        &'a self,
        address: u64,
        length: u64,
        access: Access,
        mut visit: impl FnMut(VolatileSlice<'a, ()>),
    ) -> Result<(), Fault> {
        let fault = Fault {
            address,
            length,
            access,
        };
        let end = address.checked_add(length).ok_or(fault)?;
        let mut at = address;
        while at < end {
            let reach = self.reach(at).ok_or(fault)?;
            let piece = reach.end().min(end) - at;
            visit(reach.slice(at, piece, access).ok_or(fault)?);
            at += piece;
        }
        Ok(())
    }
}
