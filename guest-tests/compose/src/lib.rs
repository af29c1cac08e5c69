//! Composes a device's component with the testbed and the runner: one program
//! that tests it, for any WASI host.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use manatee_conformance::suite::requirements;
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, NodeId, PackageId};

const TESTBED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/testbed.wasm"));
const RUNNER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runner.wasm"));
/// The interface by which a requirement is passed to the next runner.
const ELSEWHERE: &str = "manatee:testbed/elsewhere@0.1.0";
/// The export that makes a component a program.
const RUN: &str = "wasi:cli/run@0.2.0";

/// Composes a program. A device is configured once, so there is a device, with testbed
/// and runner, for every number of ports that the requirements need: a chain of
/// runners.
///
/// # Errors
///
/// If the device is no component, or does not fit the world
/// `manatee:device/adapter`.
pub fn compose(device: &[u8]) -> Result<Vec<u8>> {
    let counts: BTreeSet<u32> = requirements()
        .map(|requirement| requirement.ports)
        .collect();
    compose_chain(device, counts.len().max(1))
}

fn compose_chain(device: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut graph = CompositionGraph::new();
    let device = register(&mut graph, "manatee:the-device", device)?;
    let testbed = register(&mut graph, "manatee:the-testbed", TESTBED)?;
    let runner = register(&mut graph, "manatee:the-runner", RUNNER)?;
    let mut last = None;
    for _ in 0..length {
        let host = graph.instantiate(testbed);
        let adapter = graph.instantiate(device);
        connect(&mut graph, host, adapter)?;
        let guest = graph.instantiate(runner);
        pass(&mut graph, last.unwrap_or(host), guest, ELSEWHERE)?;
        connect(&mut graph, adapter, guest)?;
        connect(&mut graph, host, guest)?;
        last = Some(guest);
    }
    let last = last.context("a chain of no runners")?;
    let run = graph.alias_instance_export(last, RUN)?;
    graph.export(run, RUN)?;
    Ok(graph.encode(EncodeOptions::default())?)
}

fn register(graph: &mut CompositionGraph, name: &str, bytes: &[u8]) -> Result<PackageId> {
    let package = Package::from_bytes(name, None, bytes, graph.types_mut())?;
    Ok(graph.register_package(package)?)
}

/// Connects all imports of an instance that another exports, unless they are connected
/// already.
fn connect(graph: &mut CompositionGraph, from: NodeId, to: NodeId) -> Result<()> {
    let world = |node: NodeId| {
        let package = graph[node].package().context("not an instance")?;
        anyhow::Ok(&graph.types()[graph[package].ty()])
    };
    let exports = world(from)?.exports.clone();
    let imports = world(to)?.imports.clone();
    for name in imports.into_keys() {
        let given = graph
            .get_instantiation_arguments(to)
            .any(|(given, _)| given == name);
        if exports.contains_key(&name) && !given {
            pass(graph, from, to, &name)?;
        }
    }
    Ok(())
}

/// Connects an import of an instance to another's export.
fn pass(graph: &mut CompositionGraph, from: NodeId, to: NodeId, name: &str) -> Result<()> {
    let export = graph.alias_instance_export(from, name)?;
    graph.set_instantiation_argument(to, name, export)?;
    Ok(())
}
