//! Interrupts on their way from a device to its VMM.

use crate::pci::msix::Message;

/// How a VMM takes interrupts.
pub enum Interrupts {
    /// The VMM emulates the MSI-X table itself and takes vector numbers, as
    /// vfio clients do.
    Vectors(Box<dyn VectorSink>),
    /// The device's own MSI-X table is in use; the VMM takes what it sends.
    Messages(Box<dyn MessageSink>),
}

/// Takes interrupts by MSI-X vector number.
pub trait VectorSink: Send {
    /// Raises a vector. Must not block. `vector` is below the table size.
    fn raise(&self, vector: u16);

    /// Returns whether a vector was raised and is held back, as its pending bit shows
    /// the guest.
    fn is_pending(&self, _vector: u16) -> bool {
        false
    }

    /// Raises a vector for what a doorbell of the guest's own came to. That may
    /// be delivered a little later, for an interrupt to tell of more; here it is
    /// not.
    fn raise_late(&self, vector: u16) {
        self.raise(vector);
    }

    /// Delivers now what [`raise_late`](Self::raise_late) has not delivered yet:
    /// there is more to tell the guest, which the device does not raise a vector
    /// for that it has raised already.
    fn hurry(&self) {}
}

/// Takes interrupts as the message that the MSI-X table holds for a vector.
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
