//! The component to run, unless it is the one that is built in.

use std::fs::File;
use std::path::Path;

use anyhow::Context;
use manatee::component::{self, Component, Digest};

use super::from_keeper::Codes;
use crate::jail::broker::Broker;
use crate::jail::child::{self, Job, Task};
use crate::jail::sealed;

/// A component's bytes.
#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub digest: Digest,
    /// A sealed file.
    pub wasm: File,
}

impl Source {
    /// Reads a component's file.
    ///
    /// # Errors
    ///
    /// If it can't be read, or is too long.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        Self::new(&component::read(path)?, path.display().to_string())
    }

    /// Seals the bytes of a component.
    ///
    /// # Errors
    ///
    /// If a system call fails.
    pub fn new(wasm: &[u8], name: String) -> anyhow::Result<Self> {
        let file = sealed::with_bytes("manatee-component", wasm);
        Ok(Self {
            wasm: file.with_context(|| format!("copying {name}"))?,
            digest: Digest::of(wasm),
            name,
        })
    }

    /// Loads the code that a broker of the same build has compiled before, or has the broker compile
    /// the component.
    ///
    /// # Errors
    ///
    /// Why it can't be used, for people.
    pub fn load(&self, codes: &mut Codes, broker: &Broker) -> anyhow::Result<Component> {
        let Self { name, digest, wasm } = self;
        if let Some(code) = codes.take(*digest) {
            match child::load(&code, *digest, name) {
                Ok(component) => {
                    tracing::info!(component = name, "machine code that was kept is loaded");
                    return Ok(component);
                }
                Err(error) => tracing::info!(component = name, "compiled again: {error:#}"),
            }
        }
        let code = broker.run(Job::new(name, Task::Compile), wasm, *digest)?;
        child::load(&code, *digest, name)
    }
}
