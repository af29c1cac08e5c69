//! Guest memory that a predecessor had mapped.

use std::fs::File;
use std::sync::Arc;

use crate::memory::{GuestFile, GuestMemory, MapError, SharedRegion};

/// A region of guest memory, to be mapped.
pub struct Opened {
    address: u64,
    size: u64,
    writable: bool,
    /// None if it is out of reach.
    file: Option<(GuestFile, u64)>,
}

/// Checks the files that guest memory is in.
pub fn opened(memory: &[SharedRegion]) -> Result<Vec<Opened>, MapError> {
    let opened = memory.iter().map(|region| {
        let &SharedRegion {
            address,
            size,
            writable,
            ..
        } = region;
        let open = |(file, offset): &(Arc<File>, u64)| {
            let own = file.try_clone();
            let own = own.map_err(|e| MapError::Mmap(address, size, e.to_string()))?;
            Ok((GuestFile::new(own, address, size)?, *offset))
        };
        Ok(Opened {
            address,
            size,
            writable,
            file: region.file.as_ref().map(open).transpose()?,
        })
    });
    opened.collect()
}

/// Maps the regions. If that fails, some are mapped.
pub fn map(regions: Vec<Opened>, memory: &mut GuestMemory) -> Result<(), MapError> {
    for region in regions {
        let Opened {
            address,
            size,
            writable,
            file,
        } = region;
        match file {
            Some((file, offset)) => memory.map_file(address, size, file, offset, writable),
            None => memory.map_unreachable(address, size),
        }?;
    }
    Ok(())
}
