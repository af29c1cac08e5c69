//! Delivers interrupts from a device to its VMM.

use crate::pci::msix::Message;

/// How interrupts are delivered to a VMM.
pub enum Interrupts {
    /// The VMM emulates the MSI-X table itself and takes vector numbers, as
    /// vfio clients do.
    Vectors(Box<dyn VectorSink>),
    /// The device's own MSI-X table is in use; the VMM receives its messages.
    Messages(Box<dyn MessageSink>),
}

/// Receives interrupts by MSI-X vector number.
pub trait VectorSink: Send {
    /// Raises a vector. Must not block. `vector` is below the table size.
    fn raise(&self, vector: u16);

    /// Returns whether a vector was raised and not delivered: its pending bit as the guest sees it.
    fn is_pending(&self, _vector: u16) -> bool {
        false
    }

    /// Raises a vector because of a doorbell of the guest. An implementation may defer it a little,
    /// so that one interrupt reports more; this one does not.
    fn raise_late(&self, vector: u16) {
        self.raise(vector);
    }

    /// Delivers all deferred interrupts now. Called when packets arrive, because the device does
    /// not raise a vector again that it has already raised.
    fn hurry(&self) {}

    /// Forgets the vectors that are pending, because the function is reset.
    fn forget(&self) {}
}

/// Receives interrupts as the messages that the MSI-X table holds.
pub trait MessageSink: Send {
    /// Delivers a message. Must not block.
    fn send(&self, message: Message);
}

impl std::fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Interrupts::Vectors(_) => "Vectors",
            Interrupts::Messages(_) => "Messages",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::pci::{Function, Identity};
    use crate::runtime::{HostState, Limits};

    struct Vectors(Sender<u16>);

    impl VectorSink for Vectors {
        fn raise(&self, vector: u16) {
            let _ = self.0.send(vector);
        }
    }

    struct Messages(Sender<Message>);

    impl MessageSink for Messages {
        fn send(&self, message: Message) {
            let _ = self.0.send(message);
        }
    }

    fn state(interrupts: Interrupts) -> HostState {
        let identity = Identity {
            vendor_id: 0x1414,
            device_id: 0xba,
            subsystem_vendor_id: 0,
            subsystem_id: 0,
            revision_id: 0,
            class_code: 0x02_0000,
        };
        let function = Function::new(identity, &[], 4).unwrap();
        HostState::new(function, interrupts, vec![], Limits::default())
    }

    fn set_bus_master(state: &mut HostState, on: bool) -> Vec<u16> {
        let due = state.function.config_write(4, &[u8::from(on) << 2 | 2]);
        due.iter().map(|due| due.vector).collect()
    }

    #[test]
    fn vectors_wait_for_a_bus_master() {
        let (sender, raised) = channel();
        let mut state = state(Interrupts::Vectors(Box::new(Vectors(sender))));
        state.raise(1);
        state.raise(1);
        state.raise(4);
        assert_eq!(raised.try_iter().count(), 0);
        assert_eq!(set_bus_master(&mut state, true), [1]);
        state.raise(3);
        assert_eq!(raised.try_iter().collect::<Vec<_>>(), [3]);
        assert!(set_bus_master(&mut state, false).is_empty());
        state.raise(2);
        state.raise_for_vmm(3..5);
        assert_eq!(raised.try_iter().collect::<Vec<_>>(), [3], "the VMM's own");
        assert_eq!(set_bus_master(&mut state, true), [2]);
    }

    #[test]
    fn messages_wait_for_a_bus_master_and_for_the_table() {
        let (sender, sent) = channel();
        let mut state = state(Interrupts::Messages(Box::new(Messages(sender))));
        assert!(set_bus_master(&mut state, true).is_empty());
        // MSI-X enabled, and entry 1 unmasked.
        assert!(state.function.config_write(0x82, &[0, 0x80]).is_empty());
        assert!(state.function.msix_write(16 + 12, &[0; 4]).is_empty());
        state.raise(0);
        state.raise(1);
        assert_eq!(sent.try_iter().count(), 1, "of the one that is not masked");
        assert!(set_bus_master(&mut state, false).is_empty());
        state.raise(1);
        assert_eq!(sent.try_iter().count(), 0);
        assert_eq!(set_bus_master(&mut state, true), [1]);
    }
}
