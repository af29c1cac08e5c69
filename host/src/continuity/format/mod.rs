//! The format in which a device is handed over.

mod pack;
mod records;
mod unpack;

pub use pack::pack;
pub use unpack::unpack;
