//! Shows a device's state: to those who look without the lock, and the component's own part.

use std::sync::Arc;

use serde_json::{Value, json};

use super::inner::{DeviceInner, InstanceState};
use super::swap::version;
use super::telemetry::{ComponentView, Condition, MAX_REGIONS, View};
use crate::component::Component;
use crate::contract::Description;
use crate::runtime::{Calls, Failure, HostState, Instance, Limits};
use manatee_common::ration::{MAX_LINE, clean};

/// The component's own state, not parsed yet: that is done after the device was given up,
/// because the component decides how long it takes.
pub struct Inspection(Option<Result<Vec<u8>, Failure>>);

impl Inspection {
    /// Parses it.
    pub fn finish(self) -> Value {
        match self.0 {
            None => Value::Null,
            Some(Ok(text)) => serde_json::from_slice(&text)
                .unwrap_or_else(|error| json!({ "error": format!("no JSON: {error}") })),
            Some(Err(failure)) => json!({ "error": failure.to_string() }),
        }
    }
}

impl DeviceInner {
    /// Asks the component for its state.
    pub fn inspect(&mut self) -> Inspection {
        let own = self.instance().map(Instance::inspect);
        self.note_failure();
        Inspection(own)
    }

    /// Publishes the device's state, if it has changed.
    #[inline]
    pub fn publish(&mut self) {
        if matches!(self.life, InstanceState::Between) {
            return;
        }
        let state = self.state_ref();
        let bytes = state.linear_memory.as_ref().map(|memory| memory.size());
        let stale = state.stale;
        if stale || self.memory_changed || bytes != self.shown_bytes {
            if stale {
                self.preserve();
            }
            self.memory_changed = false;
            self.shown_bytes = bytes;
            self.show();
        }
    }

    fn show(&mut self) {
        let running = self.telemetry.component();
        let digest = self.component().digest().to_string();
        let same = running.sha256 == digest && running.source == self.component().name();
        let component = if same {
            running
        } else {
            let limits = &self.state_ref().limits;
            Arc::new(ComponentView::of(
                &self.component,
                &self.description,
                limits,
            ))
        };
        let view = self.view(component);
        self.telemetry.show(view);
        self.state().stale = false;
    }

    /// Publishes the device's current state.
    fn view(&self, component: Arc<ComponentView>) -> View {
        let state = self.state_ref();
        let failure = self.failure().map(|failure| failure.reason.to_string());
        let condition = match failure {
            _ if self.recovering || self.recovers_with_memory => Condition::Recovering,
            Some(_) => Condition::Down,
            None => Condition::Running,
        };
        let previous = self.swaps.previous.as_ref();
        View {
            component,
            function: state.function.clone(),
            region_count: state.memory.regions().len(),
            regions: state.memory.regions().take(MAX_REGIONS).collect(),
            linear_memory: state.linear_memory.as_ref().map(|memory| {
                let (windows, mappings) = memory.usage();
                (memory.size(), windows, mappings)
            }),
            limits: state.limits,
            condition,
            failure,
            failures: self.failures(),
            restarts: self.restarts,
            checkpoint_bytes: self.recoverer.checkpoint.as_ref().map(Vec::len),
            previous: previous.map(|previous| {
                let digest = previous.component.digest();
                (version(&previous.description), digest.to_string())
            }),
        }
    }
}

impl ComponentView {
    /// Shows the component of a device with these limits.
    pub fn of(component: &Component, description: &Description, limits: &Limits) -> Self {
        Self {
            source: component.name().to_owned(),
            sha256: component.digest().to_string(),
            name: clean(&description.version.name, MAX_LINE),
            version: version(description),
            calls: inspect_calls(&component.calls(limits)),
            precompiled: component.precompiled(),
        }
    }
}

impl View {
    /// Shows a device that was just made.
    pub fn of(component: ComponentView, state: &HostState) -> Self {
        Self {
            component: Arc::new(component),
            function: state.function.clone(),
            region_count: 0,
            regions: Vec::new(),
            linear_memory: None,
            limits: state.limits,
            condition: Condition::Running,
            failure: None,
            failures: 0,
            restarts: 0,
            checkpoint_bytes: None,
            previous: None,
        }
    }
}

/// Shows which runtime calls the component, and why it is not the direct one.
fn inspect_calls(calls: &Calls) -> Value {
    match calls {
        Calls::Direct => json!({ "by": "module" }),
        Calls::Model(because) => json!({
            "by": "component model",
            "because": clean(because.as_bytes(), MAX_LINE),
        }),
    }
}
