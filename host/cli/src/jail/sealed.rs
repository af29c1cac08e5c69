//! Sealed files in memory, which can't be changed any more.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK)
    .union(SealFlags::SEAL);

/// Creates a file in memory; `name` is shown in /proc.
///
/// # Errors
///
/// If a system call fails.
pub fn create(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(memfd_create(name, flags)?.into())
}

/// Creates a sealed file with these bytes.
///
/// # Errors
///
/// If a system call fails.
pub fn with_bytes(name: &str, bytes: &[u8]) -> io::Result<File> {
    let mut file = create(name)?;
    file.write_all(bytes)?;
    seal(&mut file)?;
    Ok(file)
}

/// Seals a file, and seeks to its beginning. Fails while a writable mapping of it
/// exists.
///
/// # Errors
///
/// If a system call fails.
pub fn seal(file: &mut File) -> io::Result<()> {
    fcntl_add_seals(&*file, SEALS)?;
    file.seek(SeekFrom::Start(0)).map(drop)
}

/// Returns whether a file is sealed like this. Only a file in memory can be.
pub fn is_sealed(file: &File) -> bool {
    fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

/// Reads a file, if it has no more than `most` bytes. Others who have it open can't change
/// where it is read: they may share its offset.
///
/// # Errors
///
/// If reading fails, or it is longer.
pub fn read(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > most {
        return Err(io::Error::other(format!("it has more than {most} bytes")));
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length as usize)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(length as usize, 0);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_does_not_change() {
        let mut file = with_bytes("test", b"abc").unwrap();
        assert!(is_sealed(&file));
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(1).is_err());
        assert_eq!(read(&file, 3).unwrap(), b"abc");
        file.seek(SeekFrom::Start(1)).unwrap();
        assert_eq!(read(&file, 3).unwrap(), b"abc");
        assert!(read(&file, 2).is_err());
        assert!(!is_sealed(&create("other").unwrap()));
        assert!(!is_sealed(&tempfile::tempfile().unwrap()));
    }
}
