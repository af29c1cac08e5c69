//! Traffic between a guest and its host that accounts for every packet and every byte.
//!
//! Both ends do the same at the same time: they send numbered datagrams to each other
//! at a steady rate, and bytes through a TCP connection each way as fast as it takes
//! them. At the end, after a handshake, each knows which datagrams were lost,
//! duplicated or reordered, and whether the bytes arrived as they were sent.
//!
//! The host's end is [`session::Session::host`]; the guest's is the program
//! `traffic`, which is [`session::guest`].

pub mod connections;
pub mod datagram;
pub mod datagrams;
pub mod session;
pub mod shared;
pub mod tally;
pub mod transfer;
