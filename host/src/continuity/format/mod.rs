//! How a device on its way is written.

mod pack;
mod records;
mod unpack;

pub use pack::pack;
pub use unpack::unpack;
