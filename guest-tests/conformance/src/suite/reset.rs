//! Reset gives everything back.

use crate::driver::Driver;
use crate::failure::Outcome;

/// That the device holds nothing of a driver.
pub fn check_nothing_left(driver: &mut Driver<'_>) -> Outcome {
    super::check_inspect(driver, "/dma_regions/unused", 0)?;
    super::check_inspect(driver, "/dma_regions/pages_in_use", 0)
}
