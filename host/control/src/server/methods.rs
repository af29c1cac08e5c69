//! Carries out each method.

use std::os::fd::OwnedFd;

use manatee_common::closer::close_elsewhere;
use serde::Serialize;
use serde_json::Value;

use crate::commands::Commands;
use crate::event::EventKind;
use crate::limits::{
    MAX_CLIENTS, MAX_QUEUED_EVENTS, MAX_REQUEST, MAX_SUBSCRIPTIONS, PROTOCOL, REQUESTS_PER_SECOND,
};
use crate::method::{Call, Greeting, Hello, Limits, Stage};
use crate::refusal::{Code, Refusal};

/// The outcome of a request: a result, and possibly a descriptor with it.
pub struct Outcome {
    pub result: Value,
    pub descriptor: Option<OwnedFd>,
}

/// Closes a client's descriptors on another thread: one could be a socket that lingers.
pub fn close(descriptors: Vec<OwnedFd>) {
    for descriptor in descriptors {
        close_elsewhere(descriptor);
    }
}

pub fn invalid<T>(text: &str) -> Result<T, Refusal> {
    Err(Refusal::new(Code::InvalidParams, text))
}

pub fn value(result: impl Serialize) -> Result<Outcome, Refusal> {
    with(result, None)
}

fn with(result: impl Serialize, descriptor: Option<OwnedFd>) -> Result<Outcome, Refusal> {
    let result = serde_json::to_value(result)
        .map_err(|error| Refusal::new(Code::InternalError, format!("the answer: {error}")))?;
    Ok(Outcome { result, descriptor })
}

pub fn greet(hello: &Hello) -> Result<Outcome, Refusal> {
    if let Some(other) = hello.protocol.filter(|protocol| *protocol != PROTOCOL) {
        let text = format!(
            "version {other} of the protocol is not spoken here: this is version {PROTOCOL}, of \
             manatee {}. Use the `manatee` of the same release",
            env!("CARGO_PKG_VERSION")
        );
        return Err(Refusal::new(Code::UnsupportedProtocol, text));
    }
    value(Greeting {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        methods: Call::METHODS.map(str::to_owned).to_vec(),
        events: EventKind::ALL.to_vec(),
        limits: Limits {
            request_bytes: MAX_REQUEST as u64,
            clients: MAX_CLIENTS as u64,
            subscriptions: MAX_SUBSCRIPTIONS as u64,
            queued_events: MAX_QUEUED_EVENTS as u64,
            requests_per_second: REQUESTS_PER_SECOND.into(),
        },
    })
}

pub fn carry_out(
    call: Call,
    mut descriptors: Vec<OwnedFd>,
    commands: &dyn Commands,
    progress: &mut dyn FnMut(Stage),
) -> Result<Outcome, Refusal> {
    match call {
        Call::Inspect(inspect) => value(commands.inspect(inspect.pattern.as_deref())?),
        Call::Counters(_) => value(commands.counters()),
        Call::Swap(swap) => {
            let component = descriptors.pop();
            let more = !descriptors.is_empty();
            close(descriptors);
            let Some(component) = component.filter(|_| !more) else {
                return invalid(
                    "`swap` takes one descriptor, of the component's file, along with the request \
                     (SCM_RIGHTS), as `manatee swap` sends it",
                );
            };
            let mut tell = |stage| {
                if swap.progress {
                    progress(stage);
                }
            };
            value(commands.swap(&swap, component, &mut tell)?)
        }
        Call::Rollback(_) => value(commands.rollback()?),
        Call::Link(link) => value(commands.link(&link)?),
        Call::Rate(rate) => value(commands.rate(&rate)?),
        Call::Log(log) => value(commands.log(&log)?),
        Call::Capture(capture) => {
            let (capturing, pipe) = commands.capture(&capture)?;
            with(capturing, Some(pipe))
        }
        Call::EndCapture(capture) => value(commands.end_capture(&capture)?),
        #[cfg(feature = "escape")]
        Call::Escape(escape) => value(commands.escape(&escape.way)?),
        Call::Hello(_) | Call::Subscribe(_) | Call::Unsubscribe(_) => {
            let text = "it is answered by the session";
            Err(Refusal::new(Code::InternalError, text))
        }
    }
}
