//! The confinement of `manatee serve`.
