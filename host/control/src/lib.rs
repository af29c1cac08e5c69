//! The control protocol: how commands reach a running `manatee serve`.
//!
//! It is JSON-RPC 2.0 over a Unix stream socket, one message a line. docs/control.md specifies
//! it for people, docs/control.schema.json for programs; tests compare both with the types
//! here. A component's file is passed with its request as a descriptor (`SCM_RIGHTS`), because
//! the process that serves can open no paths; a capture is read from one that is passed with
//! the answer.
//!
//! - [`method`]: the methods with their parameters and results;
//! - [`event`]: the events that subscribers are notified of;
//! - [`refusal`]: why a request fails, with codes that programs may rely on;
//! - [`envelope`]: the messages around them;
//! - [`Client`], [`Server`]: the two sides.

mod client;
mod clients;
mod commands;
mod connection;
pub mod envelope;
pub mod event;
mod former;
mod limits;
pub mod method;
mod pace;
pub mod refusal;
mod report;
pub mod schema;
mod select;
mod server;
mod subscriptions;
pub mod text;

pub use client::{Client, ClientError, Told};
pub use commands::Commands;
pub use event::{Event, EventKind};
pub use limits::{
    MAX_CLIENTS, MAX_QUEUED_EVENTS, MAX_REQUEST, MAX_SUBSCRIPTIONS, PROTOCOL, REQUEST_BURST,
    REQUESTS_PER_SECOND,
};
pub use method::{
    Call, Capture, EndCapture, Inspect, Link, LinkSetting, Log, Rate, Stage, SwapRequest,
};
pub use refusal::{Code, Refusal};
pub use select::{SelectError, may_match, select};
pub use server::Server;
pub use subscriptions::Events;
