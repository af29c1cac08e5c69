//! Actions of guests: registers, doorbells, and rings in their memory.

use arbitrary::{Result, Unstructured};

/// Addresses of the hardware channel's pages.
const PAGES: u64 = 0x1_0000;

/// Returns a register's offset: mostly one that exists.
///
/// # Errors
///
/// If the input has ended, here and below.
pub fn offset(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=7)? {
        0 => input.arbitrary()?,
        1 => 0x1000 + input.int_in_range(0..=0xfff)?,
        _ => input.int_in_range(0..=0x60)?,
    })
}

/// Returns the width of an access: mostly one that exists.
pub fn width(input: &mut Unstructured<'_>) -> Result<u8> {
    Ok(match input.int_in_range(0..=8)? {
        0 => input.arbitrary()?,
        n => 1 << (n % 4),
    })
}

/// Returns a guest address: mostly one of a page that a queue may have.
pub fn address(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=7)? {
        0 => input.arbitrary()?,
        1 => input.int_in_range(0..=0x100_0000)?,
        _ => PAGES + input.int_in_range(0..=0xffff)?,
    })
}

/// Returns a doorbell's offset and value: mostly of a queue that may exist.
pub fn doorbell(input: &mut Unstructured<'_>) -> Result<(u64, u64)> {
    let offset = *input.choose(&[0x1000, 0x1400, 0x1800, 0x1ff8])?;
    let id = match input.int_in_range(0..=7)? {
        0 => input.arbitrary::<u64>()? & 0xff_ffff,
        _ => input.int_in_range(0..=12)?,
    };
    let position = match input.int_in_range(0..=3)? {
        0 => input.arbitrary::<u32>()?,
        _ => 32 * input.int_in_range(0..=64)?,
    };
    Ok((offset, id | u64::from(position) << 32))
}

/// Establishes the hardware channel, as a driver does when it starts: rings at
/// `PAGES`, by the shared-memory channel's registers.
pub fn prepare(mut write: impl FnMut(u64, &[u8])) {
    // A page of work queue elements, some of which are valid.
    for at in (0..0x1_0000).step_by(32) {
        let word = (at as u64 / 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        write(PAGES + at as u64, &word.to_le_bytes());
    }
}
