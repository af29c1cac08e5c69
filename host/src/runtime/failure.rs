//! Why an instance ended.

use std::sync::Arc;

use wasmtime::{FrameInfo, WasmBacktrace};

use super::engine::RuntimeError;
use manatee_common::ration::{MAX_LINE, clean};

/// Longest name of a function or module that is shown, in bytes.
const MAX_NAME: usize = 128;
/// The number of callers of the failed function that are shown.
const MAX_CALLERS: usize = 15;

/// Why an instance ended, in one line of at most 1 KiB.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the device's component failed: {reason}")]
pub struct Failure {
    /// The trap or the broken rule, and where it was: the innermost function of the
    /// component, and those that called it.
    pub reason: Arc<str>,
    summary: Arc<str>,
}

impl Failure {
    /// Returns a failure for a reason of the host's own.
    pub fn because(reason: &str) -> Self {
        let reason: Arc<str> = clean(reason.as_bytes(), MAX_LINE).into();
        Self {
            summary: reason.clone(),
            reason,
        }
    }

    /// Returns the trap and its location, without the callers.
    pub fn summary(&self) -> String {
        self.summary.to_string()
    }

    /// Describes how a call into a component ended.
    pub(super) fn new(error: &wasmtime::Error) -> Self {
        // The callers must not crowd out the cause or its location, however long they are.
        let cause = clean(error.root_cause().to_string().as_bytes(), MAX_LINE / 2);
        let backtrace = error.downcast_ref::<WasmBacktrace>();
        let mut frames = backtrace.map_or(&[][..], WasmBacktrace::frames).iter();
        let Some(innermost) = frames.next() else {
            return Self::because(&cause);
        };
        let summary = format!("{cause}, in {}", place(innermost));
        let mut reason = summary.clone();
        for caller in frames.take(MAX_CALLERS) {
            reason += " < ";
            reason += &place(caller);
        }
        Self {
            reason: clean(reason.as_bytes(), MAX_LINE).into(),
            summary: summary.into(),
        }
    }
}

/// Returns a function of the component, and the location in its module.
fn place(frame: &FrameInfo) -> String {
    let clean = |name: &str| clean(name.as_bytes(), MAX_NAME);
    let function = match frame.func_name() {
        Some(name) => clean(name),
        None => format!("<wasm function {}>", frame.func_index()),
    };
    let module = clean(frame.module().name().unwrap_or("<unknown>"));
    match frame.module_offset() {
        Some(offset) => format!("{module}!{function} at {offset:#x}"),
        None => format!("{module}!{function}"),
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::because(&error.to_string())
    }
}

#[cfg(test)]
mod tests;
