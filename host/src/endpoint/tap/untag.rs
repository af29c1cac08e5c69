//! Taking the 802.1Q tag out of a received frame.
//!
//! The kernel puts the tag into the frame that it hands out. A driver's
//! buffers have room for a frame without one, and its hardware reports the tag
//! beside the frame; so does the device.

use crate::endpoint::headers::{ADDRESS_BYTES, TAG_BYTES, tag_control};
use crate::memory::{Fault, GuestMemory, Segment, Span};

/// If the frame of `length` bytes that lies in `segments`, and in `tail` as far
/// as it had no room there, begins with a tag, takes that out and returns its
/// control information. `scratch` keeps its allocation.
///
/// # Errors
///
/// A [`Fault`] if the buffer is not memory any more.
pub fn untag<I: Iterator<Item = Segment> + Clone>(
    memory: &GuestMemory,
    segments: I,
    length: u64,
    tail: &[u8],
    scratch: &mut Vec<u8>,
) -> Result<Option<u16>, Fault> {
    let frame = || Span::new(segments.clone()).limit(length);
    let mut head = [0; ADDRESS_BYTES + TAG_BYTES];
    let seen = frame().read(memory, &mut head)?;
    let Some(tag) = tag_control(&head[..seen]) else {
        return Ok(None);
    };
    let behind = head.len() as u64;
    // Fits: a frame is what one `readv` returned.
    scratch.resize(length.saturating_sub(behind) as usize, 0);
    let inside = frame().advance(behind).read(memory, scratch)?;
    let outside = &mut scratch[inside..];
    let spilled = outside.len().min(tail.len());
    outside[..spilled].copy_from_slice(&tail[..spilled]);
    Span::new(segments)
        .advance(ADDRESS_BYTES as u64)
        .write(memory, scratch)?;
    Ok(Some(tag))
}
