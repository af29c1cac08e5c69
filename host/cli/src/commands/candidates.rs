//! The bytes of components that were swapped in, for a process that continues with one.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use manatee::component::Digest;
use parking_lot::Mutex;

use super::serve::kept::Swapped;

/// The running component, the previous one, and a candidate.
const MOST: usize = 3;

/// The most recently swapped-in components, as sealed files.
#[derive(Debug, Default)]
pub struct Candidates(Mutex<VecDeque<Candidate>>);

#[derive(Debug)]
struct Candidate {
    digest: Digest,
    name: String,
    wasm: File,
}

impl Candidates {
    /// Remembers a component.
    ///
    /// # Errors
    ///
    /// If the process is out of descriptors.
    pub fn remember(&self, digest: Digest, name: &str, wasm: &File) -> io::Result<()> {
        let candidate = Candidate {
            digest,
            name: name.to_owned(),
            wasm: wasm.try_clone()?,
        };
        let mut all = self.0.lock();
        all.retain(|other| other.digest != digest);
        all.truncate(MOST - 1);
        all.push_front(candidate);
        Ok(())
    }

    /// Returns all of them.
    ///
    /// # Errors
    ///
    /// If the process is out of descriptors.
    pub fn all(&self) -> io::Result<Vec<(Swapped, OwnedFd)>> {
        let all = self.0.lock();
        all.iter().map(Candidate::copy).collect()
    }

    /// Returns the component with this digest; None if it was not swapped in.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn running(&self, digest: Digest) -> io::Result<Option<(Swapped, OwnedFd)>> {
        let all = self.0.lock();
        let found = all.iter().find(|candidate| candidate.digest == digest);
        found.map(Candidate::copy).transpose()
    }
}

impl Candidate {
    fn copy(&self) -> io::Result<(Swapped, OwnedFd)> {
        let swapped = Swapped {
            name: self.name.clone(),
            sha256: self.digest.0,
        };
        Ok((swapped, self.wasm.try_clone()?.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_ones_are_remembered() {
        let candidates = Candidates::default();
        let file = tempfile::tempfile().unwrap();
        let digest = |number| Digest([number; 32]);
        for number in 0..5 {
            let name = number.to_string();
            candidates.remember(digest(number), &name, &file).unwrap();
        }
        let known = (0..5).map(|number| candidates.running(digest(number)).unwrap());
        let known: Vec<_> = known.map(|found| found.map(|(it, _)| it.name)).collect();
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(known, [None, None, some("2"), some("3"), some("4")]);
    }
}
