//! What a keeper hands over of its own: lines, and machine code that brokers have left there.
//!
//! A process can't store anything under these names with a keeper. Another service manager knows no
//! reserved names: what it hands over under them may come from a process that was broken into,
//! and is closed.

use std::fs::File;
use std::os::fd::OwnedFd;

use manatee::component::Digest;
use manatee_keeper::line::Line;
use manatee_keeper::names::{BROKER_LINE, LINE, code_name, is_reserved};

/// Descriptors with their names.
type Named = Vec<(String, OwnedFd)>;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct FromKeeper {
    /// The line of this process.
    pub line: Option<Line>,
    /// The line of its broker. This process must not keep it.
    pub broker: Option<OwnedFd>,
    /// Machine code.
    pub codes: Codes,
}

/// Machine code of components, which processes of the same build can load.
#[derive(Debug, Default)]
pub struct Codes(Vec<(String, File)>);

impl FromKeeper {
    /// Takes the keeper's descriptors, and returns the others. Closes them if no keeper started this
    /// process.
    pub fn sort(listed: Named, keeper: bool) -> (Self, Named) {
        let (reserved, others): (Named, Named) =
            listed.into_iter().partition(|(name, _)| is_reserved(name));
        let mut own = Self::default();
        for (name, descriptor) in reserved.into_iter().filter(|_| keeper) {
            match &*name {
                LINE => own.line = Some(Line::new(descriptor)),
                BROKER_LINE => own.broker = Some(descriptor),
                _ => own.codes.0.push((name, descriptor.into())),
            }
        }
        (own, others)
    }
}

impl Codes {
    /// Takes the code of the component with this digest, if there is some.
    pub fn take(&mut self, digest: Digest) -> Option<File> {
        let name = code_name(digest);
        let place = self.0.iter().position(|(own, _)| *own == name)?;
        Some(self.0.swap_remove(place).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sort(keeper: bool) -> (FromKeeper, usize) {
        let code = code_name(Digest([7; 32]));
        let names = [LINE, "manatee-state", BROKER_LINE, &code, "vfio"];
        let file = || tempfile::tempfile().unwrap().into();
        let listed = names.iter().map(|name| ((*name).to_owned(), file()));
        let (own, others) = FromKeeper::sort(listed.collect(), keeper);
        (own, others.len())
    }

    #[test]
    fn a_keeper_hands_over_lines_and_code() {
        let (mut own, others) = sort(true);
        assert_eq!(others, 2);
        assert!(own.line.is_some() && own.broker.is_some());
        assert!(own.codes.take(Digest([8; 32])).is_none());
        assert!(own.codes.take(Digest([7; 32])).is_some());
        assert!(own.codes.take(Digest([7; 32])).is_none());
    }

    #[test]
    fn nobody_else_hands_over_lines_and_code() {
        let (mut own, others) = sort(false);
        assert_eq!(others, 2);
        assert!(own.line.is_none() && own.broker.is_none());
        assert!(own.codes.take(Digest([7; 32])).is_none());
    }
}
