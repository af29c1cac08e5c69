//! Machine code of components, as brokers have compiled it, for later processes of the same build.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Result, bail, ensure};
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};

use crate::line::Named;
use crate::names::CODE;

/// The most components whose code is kept; the one that was left longest ago goes first.
const MOST: usize = 4;
/// The most bytes of code that are kept, of all components together.
const MOST_BYTES: u64 = 256 << 20;
/// The length of a SHA-256 in hexadecimal digits.
const DIGITS: usize = 64;
/// Code that nobody can change any more.
const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK)
    .union(SealFlags::SEAL);

/// Machine code by the name of its component, the most recent first.
#[derive(Debug, Default)]
pub struct Codes(VecDeque<Code>);

#[derive(Debug)]
struct Code {
    name: String,
    file: OwnedFd,
    length: u64,
}

impl Codes {
    /// Keeps what a broker has left, in place of earlier code of the same component.
    ///
    /// # Errors
    ///
    /// If it is not one sealed file that is named after a component.
    pub fn add(&mut self, mut named: Vec<Named>) -> Result<()> {
        let (Some((name, file)), true) = (named.pop(), named.is_empty()) else {
            bail!("machine code that is not one file");
        };
        let digest = name.strip_prefix(CODE).unwrap_or_default();
        let digits = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        ensure!(
            digest.len() == DIGITS && digest.chars().all(digits),
            "machine code that is not named after a component"
        );
        let sealed = fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS));
        ensure!(sealed, "machine code that is not sealed");
        let length = u64::try_from(fstat(&file)?.st_size)?;
        ensure!(length <= MOST_BYTES, "machine code of {length} bytes");
        self.0.retain(|other| other.name != name);
        self.0.push_front(Code { name, file, length });
        while self.0.len() > MOST || self.length() > MOST_BYTES {
            self.0.pop_back();
        }
        Ok(())
    }

    fn length(&self) -> u64 {
        self.0.iter().map(|code| code.length).sum()
    }

    /// Returns the files with their names.
    pub fn named(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.0.iter().map(|code| (&*code.name, code.file.as_fd()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};

    use super::*;

    fn name(number: u8) -> String {
        format!("{CODE}{}", format!("{number:02x}").repeat(32))
    }

    fn file(length: u64) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("code", flags).unwrap());
        file.set_len(length).unwrap();
        fcntl_add_seals(&file, SEALS).unwrap();
        file.into()
    }

    fn names(codes: &Codes) -> Vec<&str> {
        codes.named().map(|(name, _)| name).collect()
    }

    #[test]
    fn last_ones_are_kept_in_both_bounds() {
        let mut codes = Codes::default();
        for number in [0, 1, 2, 3, 4, 1] {
            codes.add(vec![(name(number), file(10))]).unwrap();
        }
        assert_eq!(names(&codes), [name(1), name(4), name(3), name(2)]);
        codes.add(vec![(name(5), file(MOST_BYTES - 10))]).unwrap();
        assert_eq!(names(&codes), [name(5), name(1)]);
        assert!(codes.add(vec![(name(6), file(MOST_BYTES + 1))]).is_err());
    }

    #[test]
    fn what_is_no_machine_code_is_refused() {
        let mut codes = Codes::default();
        let mut refused = |named: Vec<Named>| codes.add(named).unwrap_err().to_string();
        assert!(refused(Vec::new()).contains("not one file"));
        let two = vec![(name(0), file(1)), (name(1), file(1))];
        assert!(refused(two).contains("not one file"));
        for wrong in [
            "manatee-state",
            CODE,
            &name(0)[1..],
            &name(0xab).to_uppercase(),
        ] {
            let named = vec![(wrong.to_owned(), file(1))];
            assert!(refused(named).contains("not named after"), "{wrong}");
        }
        let open = tempfile::tempfile().unwrap().into();
        assert!(refused(vec![(name(0), open)]).contains("not sealed"));
        assert!(names(&codes).is_empty());
    }
}
