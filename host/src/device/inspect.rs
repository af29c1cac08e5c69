//! The live tree of a device.

use serde_json::{Map, Value, json};

use super::body::Body;
use super::swap::version;
use crate::runtime::{Calls, Failure, Instance};
use manatee_common::ration::{MAX_LINE, Ration, clean};

/// The most regions of guest memory that are listed.
const MAX_REGIONS: usize = 256;

/// A device's tree, of which the component's own part is not parsed yet: that is done
/// once the device was given up, since it takes as long as the component likes.
pub struct Inspection {
    tree: Value,
    own: Option<Result<Vec<u8>, Failure>>,
}

impl Inspection {
    /// Completes the tree.
    pub fn finish(self) -> Value {
        let Self { mut tree, own } = self;
        tree["device"] = match own {
            None => Value::Null,
            Some(Ok(text)) => serde_json::from_slice(&text)
                .unwrap_or_else(|error| json!({ "error": format!("no JSON: {error}") })),
            Some(Err(failure)) => json!({ "error": failure.to_string() }),
        };
        tree
    }
}

impl Body {
    /// The tree: component, PCI function, memory, ports, device, runtime.
    pub fn inspect(&mut self) -> Inspection {
        let own = self.instance().map(Instance::inspect);
        self.note_failure();
        let failure = self.failure().map(|failure| failure.reason.to_string());
        let name = self.component().name().to_owned();
        let digest = self.component().digest().to_string();
        let calls = self.component().calls(&self.state_ref().limits);
        let description = self.description.clone();
        let (failures, restarts) = (self.failures(), self.restarts);
        let condition = match failure {
            _ if self.recovering => "recovering",
            Some(_) => "down",
            None => "running",
        };
        let (recovery_count, recoveries) = self.recoverer.inspect();
        let checkpoint_bytes = self.recoverer.checkpoint.as_ref().map(Vec::len);
        let (swap_count, swaps) = self.swaps.inspect();
        let previous = self
            .swaps
            .previous
            .as_ref()
            .map(|p| (version(&p.description), p.component.digest().to_string()));
        let (previous, previous_digest) = previous.unzip();
        let state = self.state();
        let ports: Map<String, Value> = state
            .ports
            .iter()
            .enumerate()
            .map(|(index, port)| (index.to_string(), port.inspect()))
            .collect();
        let regions: Vec<Value> = state
            .memory
            .regions()
            .take(MAX_REGIONS)
            .map(|region| {
                json!({
                    "address": format!("{:#x}", region.range.start),
                    "size": region.range.end - region.range.start,
                    "reachable": region.reachable,
                    "writable": region.writable,
                    "page_size": region.page_size,
                    "windows": region.windows,
                })
            })
            .collect();
        let region_count = state.memory.regions().len();
        let linear_memory = state.linear_memory.as_ref().map(|memory| {
            let (windows, mappings) = memory.usage();
            json!({ "bytes": memory.size(), "windows": windows, "mappings": mappings })
        });
        let tree = json!({
            "component": {
                "source": name,
                "sha256": digest,
                "name": clean(&description.version.name, MAX_LINE),
                "version": clean(&description.version.build, MAX_LINE),
                "calls": inspect_calls(&calls),
            },
            "pci": state.function.inspect(),
            "memory": { "region_count": region_count, "regions": regions },
            "ports": ports,
            "runtime": {
                "linear_memory": linear_memory,
                "limits": {
                    "memory_bytes": state.limits.memory,
                    "deadline_ms": state.limits.deadline.as_millis() as u64,
                    "windows": state.limits.windows,
                },
                "state": condition,
                "failure": failure,
                "failures": failures,
                "restarts": restarts,
                "recovery_count": recovery_count,
                "recoveries": recoveries,
                "checkpoint_bytes": checkpoint_bytes,
                "swap_count": swap_count,
                "swaps": swaps,
                "previous_version": previous,
                "previous_sha256": previous_digest,
                "interrupts_raised": state.interrupts_raised,
                "log_lines_dropped": state.logged.iter().map(Ration::dropped).sum::<u64>(),
            },
        });
        Inspection { tree, own }
    }
}

/// Shows which runtime calls the component, and why it is not the quicker one.
fn inspect_calls(calls: &Calls) -> Value {
    match calls {
        Calls::Direct => json!({ "by": "module" }),
        Calls::Model(because) => json!({
            "by": "component model",
            "because": clean(because.as_bytes(), MAX_LINE),
        }),
    }
}
