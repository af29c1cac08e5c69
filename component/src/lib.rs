//! MANA.
#![no_std]
#![allow(missing_docs)]
