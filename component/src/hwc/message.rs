//! Messages of the hardware channel in guest memory.

use device_kit::Platform;
use mana_wire::hwc::{ID_MASK, MAX_MESSAGE, TxOob};
use mana_wire::queue::Sge;
use zerocopy::{FromBytes, IntoBytes};

use super::channel::Channel;
use crate::gdma::queue::wq::Wqe;

/// Copies a request out of guest memory, once. Returns its length.
///
/// # Errors
///
/// The reason why it can't be answered, for the log.
pub(super) fn read(
    platform: &mut impl Platform,
    channel: &Channel,
    sqe: &Wqe,
    request: &mut [u8],
) -> Result<usize, &'static str> {
    let (oob, _) =
        TxOob::read_from_prefix(sqe.oob().as_bytes()).map_err(|_| "its OOB is too short")?;
    if oob.vscq & ID_MASK != channel.cq.0 || oob.vsq & ID_MASK != channel.sq.0 {
        return Err("its OOB names other queues");
    }
    let length = total_length(sqe.sgl());
    if length > MAX_MESSAGE.into() {
        return Err("it is longer than a message may be");
    }
    let mut rest = &mut request[..length as usize];
    for sge in sqe.sgl() {
        let (now, later) = rest.split_at_mut(sge.size as usize);
        platform
            .read(sge.address, now)
            .map_err(|_| "it is not in guest memory")?;
        rest = later;
    }
    Ok(length as usize)
}

/// Returns the length of a scatter/gather list in bytes.
pub(super) fn total_length(sgl: &[Sge]) -> u64 {
    sgl.iter().map(|sge| u64::from(sge.size)).sum()
}

/// Copies a response to guest memory.
///
/// # Errors
///
/// The reason why it can't be written, for the log.
pub(super) fn scatter(
    platform: &mut impl Platform,
    sgl: &[Sge],
    mut data: &[u8],
) -> Result<(), &'static str> {
    for sge in sgl {
        let (now, later) = data.split_at(data.len().min(sge.size as usize));
        platform
            .write(sge.address, now)
            .map_err(|_| "its response buffer is not guest memory")?;
        data = later;
    }
    Ok(())
}
