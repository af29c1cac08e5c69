//! Carries out an operator's requests from the control socket on the served device.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use manatee::component::{Component, Digest, MAX_FILE};
use manatee::device::{Device, SwapError, SwapOptions};
use manatee_common::ration::Ration;
use manatee_control::method::{
    Captured, Capturing, Counts, LinkStatus, LogLevel, RateStatus, Swapped, Tree,
};
use manatee_control::{
    Capture, Code, Commands, EndCapture, Link, Log, Rate, Refusal, Stage, SwapRequest, may_match,
    select,
};
use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use serde_json::{Map, Value, json};

use super::candidates::Candidates;
use super::capture::Captures;
use super::links::Links;
use super::logging;
use super::notify::Notifier;
use super::rates::Rates;
use super::serve::keeping::Keeping;
use super::told;
use crate::jail::broker::Broker;
use crate::jail::child::{self, Job, Suite, Task};
use crate::jail::{Confinement, sealed};

/// The most missed requirements that a refusal names.
const SOME: usize = 5;
/// The number of bytes of a component that are copied at a time.
const CHUNK: usize = 64 << 10;

/// A device and its environment.
pub struct Operator {
    device: Device,
    surroundings: Surroundings,
    captures: Captures,
    /// Held while the component is replaced: each candidate takes memory.
    swapping: Mutex<()>,
    /// The rationing of log lines that clients can cause.
    refusals: Mutex<Ration>,
}

/// The environment of a device.
pub struct Surroundings {
    pub broker: Arc<Broker>,
    pub links: Arc<Links>,
    pub rates: Arc<Rates>,
    pub log_level: logging::LogLevel,
    pub notifier: Arc<Notifier>,
    /// The bytes of swapped-in components.
    pub candidates: Arc<Candidates>,
    /// What is kept for the next process, if anything is.
    pub keeping: Option<Arc<Keeping>>,
    /// None if the process is not confined.
    pub confinement: Option<Confinement>,
}

impl Operator {
    /// Returns the operator of a device.
    pub fn new(surroundings: Surroundings, device: Device) -> Self {
        Self {
            captures: Captures::new(device.clone()),
            device,
            surroundings,
            swapping: Mutex::new(()),
            refusals: Mutex::default(),
        }
    }

    fn process(&self) -> Value {
        let Surroundings {
            broker,
            confinement,
            ..
        } = &self.surroundings;
        json!({
            "id": std::process::id(),
            "jail": confinement.as_ref().map(Confinement::to_json),
            "broker": { "id": broker.pid(), "running": !broker.is_gone() },
        })
    }

    /// Assembles the live tree. Parts that are not wanted are null.
    fn tree(&self, wanted: impl Fn(&str) -> bool) -> Value {
        let mut tree = Map::new();
        for part in Device::PARTS {
            let shown = wanted(part).then(|| self.device.inspect_part(part));
            tree.insert(part.to_owned(), shown.flatten().unwrap_or_default());
        }
        let process = wanted("process").then(|| self.process());
        tree.insert("process".to_owned(), process.unwrap_or_default());
        let mut tree = Value::Object(tree);
        self.surroundings.links.inspect(&mut tree);
        self.captures.inspect(&mut tree);
        tree
    }

    fn try_swap(
        &self,
        swap: &SwapRequest,
        name: &str,
        given: OwnedFd,
        progress: &mut dyn FnMut(Stage),
    ) -> anyhow::Result<Swapped> {
        let _swapping = self.swapping.try_lock().ok_or(SwapError::Busy)?;
        let (wasm, digest) = take(given).with_context(|| format!("reading {name}"))?;
        if digest == self.device.component().digest() {
            let text = format!("{name} runs already (sha256 {digest})");
            return Err(Refusal::new(Code::AlreadySo, text).into());
        }
        let component = self.prepare(swap, name, &wasm, digest, progress)?;
        self.surroundings.candidates.remember(digest, name, &wasm)?;
        self.keep();
        let options = SwapOptions {
            probation: Duration::from_millis(swap.probation_ms),
        };
        progress(Stage::Swapping);
        let swapped = self.device.swap(&component, options)?;
        self.report(&swapped);
        Ok(told::swapped(&swapped))
    }

    /// Has what an operator has set kept for the next process.
    fn keep(&self) {
        if let Some(keeping) = &self.surroundings.keeping {
            keeping.note();
        }
    }

    /// Reports the new version to the service manager.
    fn report(&self, swapped: &manatee::device::SwapReport) {
        let version = child::clean(&swapped.to, child::MAX_NAME);
        let status = format!("Serving by version {version} of the device");
        self.surroundings.notifier.status(&status);
    }

    /// Compiles a candidate in a child and, if requested, checks it: the bytes that were
    /// copied, whatever happens to the file.
    fn prepare(
        &self,
        swap: &SwapRequest,
        name: &str,
        wasm: &File,
        digest: Digest,
        progress: &mut dyn FnMut(Stage),
    ) -> anyhow::Result<Component> {
        let broker = &self.surroundings.broker;
        progress(Stage::Compiling);
        let code = broker.run(Job::new(name, Task::Compile), wasm, digest)?;
        let component = child::load(&code, digest, name)?;
        if swap.check {
            progress(Stage::Checking);
            let suite = Suite::in_background();
            let job = Job::new(name, Task::Check(suite.clone())).in_background();
            let verdicts = child::verdicts(broker.run(job, wasm, digest)?, &suite)?;
            let missed: Vec<_> = verdicts
                .iter()
                .filter(|verdict| verdict.missed.is_some())
                .map(|verdict| verdict.name)
                .collect();
            if !missed.is_empty() {
                let text = refusal(name, &missed);
                return Err(Refusal::new(Code::RefusedByCheck, text).into());
            }
        }
        Ok(component)
    }
}

/// Returns the reason of a refusal for the client.
fn refused(error: &anyhow::Error) -> Refusal {
    let code = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(Refusal { code, .. }), _) => *code,
        (_, Some(SwapError::Busy)) => Code::Busy,
        (_, Some(SwapError::NoPrevious)) => Code::AlreadySo,
        _ => Code::Failed,
    };
    Refusal::new(code, super::errors::one_line(&**error))
}

impl Commands for Operator {
    fn inspect(&self, pattern: Option<&str>) -> Result<Tree, Refusal> {
        let mut tree = self.tree(|part| pattern.is_none_or(|pattern| may_match(pattern, part)));
        if let Some(pattern) = pattern {
            let selected = select(&tree, pattern);
            tree = selected.map_err(|error| Refusal::not_found(error.to_string()))?;
        }
        match tree {
            Value::Object(tree) => Ok(Tree(tree)),
            _ => Err(Refusal::failed("the tree is not an object")),
        }
    }

    fn counters(&self) -> Counts {
        told::counts(self.device.totals())
    }

    fn swap(
        &self,
        swap: &SwapRequest,
        component: OwnedFd,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Swapped, Refusal> {
        let name = child::clean(&swap.name, child::MAX_NAME);
        let swapped = self.try_swap(swap, &name, component, progress);
        swapped.map_err(|error| {
            let refusal = refused(&error);
            let reason = &refusal.message;
            if let Some(dropped) = self.refusals.lock().pass() {
                tracing::warn!(component = name, reason, dropped, "a swap was refused");
            }
            refusal
        })
    }

    fn rollback(&self) -> Result<Swapped, Refusal> {
        let swapped = self.device.rollback();
        let swapped = swapped.map_err(|error| refused(&error.into()))?;
        self.report(&swapped);
        Ok(told::swapped(&swapped))
    }

    fn link(&self, link: &Link) -> Result<LinkStatus, Refusal> {
        let set = self.surroundings.links.set(link);
        self.keep();
        set
    }

    fn rate(&self, rate: &Rate) -> Result<RateStatus, Refusal> {
        let set = self.surroundings.rates.set(rate);
        self.keep();
        set
    }

    fn log(&self, log: &Log) -> Result<LogLevel, Refusal> {
        let level = &self.surroundings.log_level;
        if let Some(text) = &log.level {
            level
                .set(text)
                .map_err(|error| Refusal::failed(error.to_string()))?;
        }
        Ok(LogLevel {
            level: level.text(),
        })
    }

    fn capture(&self, capture: &Capture) -> Result<(Capturing, OwnedFd), Refusal> {
        self.captures.begin(capture)
    }

    fn end_capture(&self, end: &EndCapture) -> Result<Captured, Refusal> {
        self.captures.end(end)
    }

    #[cfg(feature = "escape")]
    fn escape(&self, way: &str) -> Result<Value, Refusal> {
        crate::jail::escape::attempt(way)
            .map(Value::from)
            .map_err(Refusal::failed)
    }
}

/// Copies a client's file to a sealed file in memory. Returns that with the
/// digest of its content.
fn take(given: OwnedFd) -> anyhow::Result<(File, Digest)> {
    let kind = fstat(&given)?;
    ensure!(
        FileType::from_raw_mode(kind.st_mode) == FileType::RegularFile,
        "it is not a regular file"
    );
    ensure!(
        !fcntl_getfl(&given)?.contains(OFlags::PATH),
        "it is not open for reading"
    );
    let given = File::from(given);
    let mut copy = sealed::create("manatee-candidate")?;
    let mut hash = Digest::start();
    let mut chunk = vec![0; CHUNK];
    let mut length = 0;
    loop {
        // The file offset, which the client shares, is not used.
        let count = given.read_at(&mut chunk, length)?;
        if count == 0 {
            break;
        }
        length += count as u64;
        ensure!(
            length <= MAX_FILE,
            "it has more than {} MiB",
            MAX_FILE >> 20
        );
        hash.update(&chunk[..count]);
        copy.write_all(&chunk[..count])?;
    }
    sealed::seal(&mut copy)?;
    Ok((copy, hash.finish()))
}

fn refusal(name: &str, missed: &[&str]) -> String {
    let some = missed.iter().take(SOME).copied();
    let more = match missed.len().saturating_sub(SOME) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let some = some.collect::<Vec<_>>().join(", ");
    format!(
        "{name} fails the conformance suite: {some}{more}; \
         `manatee check {name}` says how, and --no-check swaps anyway"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_length_are_taken() {
        let file = tempfile::tempfile().unwrap();
        file.write_at(b"abc", 0).unwrap();
        let (copy, digest) = take(file.try_clone().unwrap().into()).unwrap();
        assert_eq!(sealed::read(&copy, 3).unwrap(), b"abc");
        assert!(sealed::is_sealed(&copy));
        assert_eq!(digest, Digest::of(b"abc"));
        file.set_len(MAX_FILE + 1).unwrap();
        let error = take(file.into()).unwrap_err().to_string();
        assert_eq!(error, "it has more than 64 MiB");
        let (pipe, _writer) = std::io::pipe().unwrap();
        let error = take(pipe.into()).unwrap_err().to_string();
        assert_eq!(error, "it is not a regular file");
    }

    #[test]
    fn a_refusal_names_some() {
        let text = refusal("a.wasm", &["a", "b", "c", "d", "e", "f", "g"]);
        assert!(text.contains("a, b, c, d, e and 2 more"), "{text}");
    }
}
