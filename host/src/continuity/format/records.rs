//! The records of the format, as CBOR, with descriptors by their names. Field numbers never
//! change; new fields are appended.

use minicbor::{Decode, Encode};

#[derive(Encode, Decode)]
#[cbor(map)]
pub struct State {
    #[n(0)]
    pub build: String,
    /// Nanoseconds on a clock that also runs while the machine is suspended.
    #[n(1)]
    pub begun: u64,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub component: Vec<u8>,
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub snapshot: Vec<u8>,
    #[n(4)]
    pub down: Option<String>,
    #[n(5)]
    pub paused: bool,
    /// BAR, offset and value.
    #[n(6)]
    pub held: Vec<(u8, u64, u64)>,
    #[n(7)]
    pub pending: Vec<u16>,
    #[n(8)]
    pub ports: Vec<PortState>,
    #[n(9)]
    pub past: PastState,
    #[n(10)]
    pub memory: Vec<RegionState>,
    #[n(11)]
    pub vectors: Vec<VectorState>,
    #[n(12)]
    pub session: Option<SessionState>,
    #[n(13)]
    #[cbor(with = "minicbor::bytes")]
    pub notes: Vec<u8>,
    #[n(14)]
    pub work_left: bool,
    #[n(15)]
    pub unfinished: bool,
    /// Whether it is a copy for a rehearsal, of a device that continues.
    #[n(16)]
    pub offered: Option<bool>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub struct PortState {
    #[n(0)]
    pub link_up: bool,
    #[n(1)]
    pub queues: Vec<QueueState>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub struct QueueState {
    /// Counters in a fixed order. A later version appends to them.
    #[n(0)]
    pub counters: Vec<u64>,
    /// Id and number of segments of each posted buffer.
    #[n(1)]
    pub buffers: Vec<(u32, u16)>,
    /// Address and length of each segment.
    #[n(2)]
    pub segments: Vec<(u64, u32)>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub struct PastState {
    #[n(0)]
    pub swaps: u64,
    #[n(1)]
    pub rollbacks: u64,
    #[n(2)]
    pub longest_pause: u64,
    #[n(3)]
    pub failures: u64,
    #[n(4)]
    pub recoveries: u64,
    #[n(5)]
    pub restarts: u64,
    #[n(6)]
    pub hand_overs: u64,
    #[n(7)]
    pub hand_over_pause: u64,
    #[n(8)]
    pub longest_hand_over: u64,
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub struct RegionState {
    #[n(0)]
    pub address: u64,
    #[n(1)]
    pub size: u64,
    #[n(2)]
    pub writable: bool,
    /// The descriptor's name, and the offset in its file.
    #[n(3)]
    pub file: Option<(String, u64)>,
}

#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub struct VectorState {
    #[n(0)]
    pub vector: u16,
    #[n(1)]
    pub eventfd: Option<String>,
    #[n(2)]
    pub masked: bool,
    #[n(3)]
    pub pending: bool,
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub struct SessionState {
    #[n(0)]
    pub connection: String,
    #[n(1)]
    pub attached: bool,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub received: Vec<u8>,
    #[n(3)]
    pub descriptors: Vec<(u64, String)>,
}
