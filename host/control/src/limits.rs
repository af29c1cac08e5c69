//! The version of the protocol, and the limits for clients.

/// The version of the protocol. It changes when a client of the previous version would
/// misunderstand a message: new methods, events, optional parameters and fields of results do
/// not change it.
pub const PROTOCOL: u32 = 1;

/// The longest request in bytes, without its line feed.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The most clients at a time. A new one replaces the one that was silent for the longest, and is
/// refused if all others wait for an answer or are subscribers.
pub const MAX_CLIENTS: usize = 16;
/// The most subscriptions of all clients together.
pub const MAX_SUBSCRIPTIONS: usize = 8;
/// The most events that wait for a subscriber. More push out the oldest.
pub const MAX_QUEUED_EVENTS: usize = 256;
/// Requests of all clients that are answered without delay after a pause.
pub const REQUEST_BURST: u32 = 100;
/// Requests of all clients a second that are answered afterwards; more wait.
pub const REQUESTS_PER_SECOND: u32 = 200;
