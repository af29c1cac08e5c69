//! Checks `VFIO_USER_DEVICE_SET_IRQS`, and parses it into one of the few requests that it can
//! be (`linux/vfio.h`, `struct vfio_irq_set`).

use std::ops::Range;

use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_TYPE_MASK,
    VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
    VFIO_IRQ_SET_DATA_TYPE_MASK,
};

/// A request about the vectors of one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IrqRequest {
    /// Take all eventfds away.
    Disable,
    /// Raise vectors as if the device had.
    Fire(Range<u32>),
    /// Assign the eventfds that came with the request.
    Assign(Range<u32>),
    /// Take the eventfds of some vectors away.
    Deassign(Range<u32>),
    Mask(Range<u32>),
    Unmask(Range<u32>),
}

impl IrqRequest {
    /// Checks a request: `vectors` is how many the index has, `fds` how many descriptors came.
    pub fn new(
        flags: u32,
        start: u32,
        count: u32,
        fds: usize,
        vectors: u32,
    ) -> Result<Self, Errno> {
        let data = flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
        let action = flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
        if flags != data | action {
            return Err(Errno::INVAL);
        }
        let end = start.checked_add(count).filter(|&end| end <= vectors);
        let range = start..end.ok_or(Errno::INVAL)?;
        match (data, action) {
            (VFIO_IRQ_SET_DATA_NONE, _) if fds > 0 => Err(Errno::INVAL),
            (VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_ACTION_TRIGGER) if count == 0 => {
                Ok(Self::Disable)
            }
            (VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_ACTION_TRIGGER) => Ok(Self::Fire(range)),
            (VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_ACTION_MASK) => Ok(Self::Mask(range)),
            (VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_ACTION_UNMASK) => Ok(Self::Unmask(range)),
            (VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER) => match fds {
                0 => Ok(Self::Deassign(range)),
                _ if fds == range.len() => Ok(Self::Assign(range)),
                _ => Err(Errno::INVAL),
            },
            // Masking by eventfd is for INTx.
            _ => Err(Errno::INVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: u32 = 1;
    const BOOL: u32 = 2;
    const EVENTFD: u32 = 4;
    const MASK: u32 = 8;
    const UNMASK: u32 = 16;
    const TRIGGER: u32 = 32;

    fn new(flags: u32, start: u32, count: u32, fds: usize) -> Result<IrqRequest, Errno> {
        IrqRequest::new(flags, start, count, fds, 8)
    }

    #[test]
    fn meanings() {
        assert_eq!(new(NONE | TRIGGER, 0, 0, 0), Ok(IrqRequest::Disable));
        assert_eq!(new(NONE | TRIGGER, 2, 1, 0), Ok(IrqRequest::Fire(2..3)));
        assert_eq!(
            new(EVENTFD | TRIGGER, 6, 2, 2),
            Ok(IrqRequest::Assign(6..8))
        );
        assert_eq!(
            new(EVENTFD | TRIGGER, 0, 8, 0),
            Ok(IrqRequest::Deassign(0..8))
        );
        assert_eq!(new(NONE | MASK, 1, 2, 0), Ok(IrqRequest::Mask(1..3)));
        assert_eq!(new(NONE | UNMASK, 1, 2, 0), Ok(IrqRequest::Unmask(1..3)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (flags, start, count, fds) in [
            (0, 0, 1, 0),
            (NONE, 0, 1, 0),
            (TRIGGER, 0, 1, 0),
            (NONE | EVENTFD | TRIGGER, 0, 1, 1),
            (NONE | MASK | UNMASK, 0, 1, 0),
            (NONE | TRIGGER | 64, 0, 1, 0),
            (BOOL | TRIGGER, 0, 1, 0),
            (EVENTFD | MASK, 0, 1, 1),
            (NONE | TRIGGER, 0, 1, 1),
            (EVENTFD | TRIGGER, 0, 2, 1),
            (EVENTFD | TRIGGER, 0, 1, 2),
            (NONE | TRIGGER, 8, 1, 0),
            (NONE | TRIGGER, 9, 0, 0),
            (NONE | MASK, u32::MAX, 2, 0),
            (EVENTFD | TRIGGER, 0, 9, 0),
        ] {
            assert_eq!(
                new(flags, start, count, fds),
                Err(Errno::INVAL),
                "{flags} {start} {count}"
            );
        }
    }
}
