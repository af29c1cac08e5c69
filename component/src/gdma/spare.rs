//! Windows that were mapped for an earlier state, for the queues of a newer one.

use alloc::collections::VecDeque;

use super::queues::Queues;
use device_kit::platform::Platform;
use device_kit::ring::{Layout, Ring};
use device_kit::window::Window;

/// Rings with windows that no queue uses at the moment.
#[derive(Debug, Default)]
pub struct Spare {
    /// In the order in which queues are restored, so that the next one needed is mostly
    /// the first.
    rings: VecDeque<Ring>,
}

impl Spare {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rings.is_empty()
    }

    /// Takes the ring of exactly these pages.
    pub fn take(&mut self, pages: &[u64], layout: Layout) -> Option<Ring> {
        let fits = |ring: &Ring| ring.layout() == layout && ring.pages() == pages;
        let index = self.rings.iter().position(fits)?;
        self.rings.remove(index)
    }

    /// Unmaps all of them.
    pub fn release(&mut self, platform: &mut impl Platform) {
        for ring in self.rings.drain(..) {
            ring.release(platform);
        }
    }
}

impl Queues {
    /// Destroys every queue, but keeps the windows.
    pub fn set_aside(&mut self) -> Spare {
        let rings = self.eqs.drain().map(|q| q.ring);
        let rings = rings.chain(self.cqs.drain().map(|q| q.ring));
        let rings = rings.chain(self.sqs.drain().map(|q| q.ring));
        let rings = rings.chain(self.rqs.drain().map(|q| q.ring));
        let rings = rings.filter(|ring| ring.window().is_some()).collect();
        *self = Self::default();
        Spare { rings }
    }

    /// Notes that windows show guest memory again, or do not any more.
    pub fn windows_changed(&mut self, is_named: impl Fn(&Window) -> bool, present: bool) {
        let rings = self.eqs.iter_mut().map(|(_, queue)| &mut queue.ring);
        let rings = rings.chain(self.cqs.iter_mut().map(|(_, queue)| &mut queue.ring));
        let rings = rings.chain(self.sqs.iter_mut().map(|(_, queue)| &mut queue.ring));
        let rings = rings.chain(self.rqs.iter_mut().map(|(_, queue)| &mut queue.ring));
        for ring in rings.filter(|ring| ring.window().is_some_and(&is_named)) {
            ring.set_present(present);
        }
    }
}
