//! Components that were compiled earlier: the built-in one, so that it need not be compiled at
//! startup, and candidates, which another process compiles.
//!
//! Compiled code is a header and the machine code. The header says which build
//! made it, with which settings and for which processors, and the digest of the
//! WebAssembly that it was made from. A program may contain code for several kinds of
//! processors, one after the other: the first that this processor can run is loaded.

#![allow(unsafe_code)]

use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Result};

#[cfg(feature = "compiler")]
use crate::runtime::settings;

#[cfg(feature = "compiler")]
use crate::runtime::PreparedComponent;

/// What a build before this one made of the built-in component, for one kind of processors or
/// for several; empty if there was nothing yet when this program was built.
const FILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/device.cwasm"));

const MAGIC: &[u8; 8] = b"manatee\0";
/// Version of the header's layout.
const FORMAT: u32 = 2;

/// A component's machine code, and its module's if it can be called directly.
type Code = (Component, Option<Module>);

/// The processors that machine code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Processor {
    /// This machine's own, with all its features.
    Own,
    /// Any of the x86-64 psABI's level 2: made since about 2009.
    X86_64V2,
    /// Any of its level 3, with AVX2: made since about 2013.
    X86_64V3,
}

impl Processor {
    /// Returns its number in the header of compiled code.
    const fn number(self) -> u32 {
        match self {
            Self::Own => 0,
            Self::X86_64V2 => 2,
            Self::X86_64V3 => 3,
        }
    }

    /// Returns the one with this number.
    fn of(number: u32) -> Option<Self> {
        let mut all = [Self::Own, Self::X86_64V2, Self::X86_64V3].into_iter();
        all.find(|processor| processor.number() == number)
    }

    /// Returns an engine that compiles for it, and runs no code.
    ///
    /// # Errors
    ///
    /// If the compiler does not know it, as on a machine of another architecture.
    #[cfg(feature = "compiler")]
    pub(crate) fn engine(self) -> Result<Engine> {
        let mut config = settings();
        if self == Self::Own {
            return Engine::new(&config);
        }
        // Naming a target excludes this machine's own features.
        config.target("x86_64-unknown-linux-gnu")?;
        // SAFETY: a preset turns on instructions, and changes nothing that code relies on. Whoever
        // loads the code checks that the processor has them.
        unsafe { config.cranelift_flag_enable(&self.to_string()) };
        Engine::new(&config)
    }
}

impl std::fmt::Display for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::X86_64V2 => "x86-64-v2",
            Self::X86_64V3 => "x86-64-v3",
        })
    }
}

/// A component's SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Returns the digest of a component's bytes.
    pub fn of(wasm: &[u8]) -> Self {
        Self(Sha256::digest(wasm).into())
    }

    /// Returns the digest of bytes that come one after the other.
    pub fn start() -> Digesting {
        Digesting(Sha256::new())
    }
}

/// A [`Digest`] that is being computed.
#[derive(Clone, Debug)]
pub struct Digesting(Sha256);

impl Digesting {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all of them.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Why compiled code can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The header or the lengths in it are wrong.
    #[error("it is not compiled code, or part of it is missing")]
    Malformed,
    /// Another version, other settings, or another kind of processor.
    #[error("another build of manatee compiled it")]
    OtherBuild,
    /// It was compiled from other WebAssembly.
    #[error("it was compiled from another component")]
    OtherComponent,
    /// wasmtime refuses it.
    #[error("{0:#}")]
    Code(wasmtime::Error),
}

/// A component's machine code, with what it was made by and from.
///
/// Loading it runs it: see [`Compiled::from_bytes`].
#[derive(Clone)]
pub struct Compiled {
    bytes: Vec<u8>,
}

/// The parts of compiled code.
struct Parts<'a> {
    build: [u8; 32],
    processor: Processor,
    digest: Digest,
    component: &'a [u8],
    /// Empty if the component can't be called directly.
    module: &'a [u8],
}

impl Compiled {
    /// Compiles a component, and the module that it is made of, with the engine of these processors.
    #[cfg(feature = "compiler")]
    pub(crate) fn new(engine: &Engine, processor: Processor, wasm: &[u8]) -> Result<Self> {
        let component = engine.precompile_component(wasm)?;
        let module = match PreparedComponent::module_of(wasm) {
            Some(module) => engine.precompile_module(module)?,
            None => Vec::new(),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(build());
        bytes.extend(processor.number().to_le_bytes());
        bytes.extend(Digest::of(wasm).0);
        bytes.extend((component.len() as u64).to_le_bytes());
        bytes.extend((module.len() as u64).to_le_bytes());
        bytes.extend(component);
        bytes.extend(module);
        Ok(Self { bytes })
    }

    /// Wraps bytes of compiled code.
    ///
    /// # Safety
    ///
    /// Whoever wrote the bytes chooses what code this process runs when they are
    /// loaded. They must be what [`as_bytes`](Self::as_bytes) returned, in this
    /// process or in one that is trusted as much.
    pub unsafe fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Returns the bytes, to be handed to another process of the same build.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Loads it, if it was made by this build from the component with this digest.
    pub(crate) fn load(&self, engine: &Engine, digest: Digest) -> Result<Code, LoadError> {
        match parse(&self.bytes) {
            // SAFETY: the promise of `from_bytes`, or made by `new`.
            Some((parts, [])) => unsafe { load(engine, &parts, digest) },
            _ => Err(LoadError::Malformed),
        }
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("length", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Loads what this wasm was compiled to when this program was built, and returns the processors
/// that it is for. None if this build has none, has that of another component, or none that
/// this processor can run.
pub fn embedded(engine: &Engine, wasm: &[u8]) -> Option<(Code, Processor)> {
    // SAFETY: these bytes are part of this program: whoever can choose them can
    // choose its code as well.
    let found = (!FILE.is_empty()).then(|| unsafe { first(engine, FILE, Digest::of(wasm)) })?;
    found
        .inspect_err(|error| tracing::info!("the component is compiled again: {error}"))
        .ok()
}

/// Loads the first of several compiled codes that can be loaded here. If there is none, returns
/// why the last one can't.
///
/// # Safety
///
/// As for [`load`].
unsafe fn first(
    engine: &Engine,
    mut bytes: &[u8],
    digest: Digest,
) -> Result<(Code, Processor), LoadError> {
    loop {
        let (parts, rest) = parse(bytes).ok_or(LoadError::Malformed)?;
        // SAFETY: the caller's promise.
        match unsafe { load(engine, &parts, digest) } {
            Ok(code) => return Ok((code, parts.processor)),
            Err(error) if rest.is_empty() => return Err(error),
            Err(_) => bytes = rest,
        }
    }
}

/// Loads compiled code.
///
/// # Safety
///
/// The code must be as trusted as this program's own. wasmtime checks that
/// they were made by the same version with the same settings, and for this
/// processor; it can't check that the code is what it would have made.
unsafe fn load(engine: &Engine, parts: &Parts<'_>, digest: Digest) -> Result<Code, LoadError> {
    if parts.build != build() {
        return Err(LoadError::OtherBuild);
    }
    if parts.digest != digest {
        return Err(LoadError::OtherComponent);
    }
    // SAFETY: the caller's promise.
    let loaded = unsafe {
        Component::deserialize(engine, parts.component).and_then(|component| {
            let module =
                (!parts.module.is_empty()).then(|| Module::deserialize(engine, parts.module));
            Ok((component, module.transpose()?))
        })
    };
    loaded.map_err(LoadError::Code)
}

/// Returns the parts of compiled code, and what follows it.
fn parse(bytes: &[u8]) -> Option<(Parts<'_>, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (format, rest) = rest.split_first_chunk()?;
    if u32::from_le_bytes(*format) != FORMAT {
        return None;
    }
    let (build, rest) = rest.split_first_chunk()?;
    let (processor, rest) = rest.split_first_chunk()?;
    let (digest, rest) = rest.split_first_chunk()?;
    let (component, rest) = rest.split_first_chunk()?;
    let (module, rest) = rest.split_first_chunk()?;
    let length = |bytes: &[u8; 8]| usize::try_from(u64::from_le_bytes(*bytes)).ok();
    let (component, rest) = rest.split_at_checked(length(component)?)?;
    let (module, rest) = rest.split_at_checked(length(module)?)?;
    let parts = Parts {
        build: *build,
        processor: Processor::of(u32::from_le_bytes(*processor))?,
        digest: Digest(*digest),
        component,
        module,
    };
    Some((parts, rest))
}

/// Returns what identifies a build: equal for two processes that load each other's code.
/// That wasmtime's version, its settings and the processor fit is wasmtime's to check,
/// which one without a compiler does too.
fn build() -> [u8; 32] {
    Sha256::digest(env!("CARGO_PKG_VERSION")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;

    fn compiled() -> (&'static Engine, Vec<u8>, Compiled) {
        let engine = &Runtime::get().unwrap().engine;
        let wasm = wat::parse_str("(component)").unwrap();
        let compiled = Compiled::new(engine, Processor::Own, &wasm).unwrap();
        (engine, wasm, compiled)
    }

    #[test]
    fn what_this_build_compiled_is_loaded() {
        let (engine, wasm, compiled) = compiled();
        // SAFETY: compiled just now, by this process.
        let again = unsafe { Compiled::from_bytes(compiled.as_bytes().to_vec()) };
        let (_, module) = again.load(engine, Digest::of(&wasm)).unwrap();
        assert!(module.is_none());
    }

    #[cfg(target_arch = "x86_64")]
    fn compiled_for(processor: Processor, wasm: &[u8]) -> Compiled {
        Compiled::new(&processor.engine().unwrap(), processor, wasm).unwrap()
    }

    /// Returns an engine that takes this processor for one with these features only.
    #[cfg(target_arch = "x86_64")]
    fn engine_of_a_processor(has: fn(&str) -> Option<bool>) -> Engine {
        let mut config = settings();
        config.target("x86_64-unknown-linux-gnu").unwrap();
        // SAFETY: none of the code is run.
        unsafe { config.detect_host_feature(has) };
        Engine::new(&config).unwrap()
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_first_code_that_the_processor_can_run_is_loaded() {
        let wasm = wat::parse_str("(component)").unwrap();
        let levels = [Processor::X86_64V3, Processor::X86_64V2];
        let codes = levels.map(|level| compiled_for(level, &wasm));
        let codes = codes.each_ref().map(Compiled::as_bytes).concat();
        let found = |has: fn(&str) -> Option<bool>| {
            let engine = engine_of_a_processor(has);
            // SAFETY: compiled just now, by this process, and not run.
            let found = unsafe { first(&engine, &codes, Digest::of(&wasm)) };
            found.map(|(_, processor)| processor)
        };
        assert_eq!(found(|_| Some(true)).unwrap(), Processor::X86_64V3);
        let second = found(|name| Some(!name.starts_with("avx") && name != "fma"));
        assert_eq!(second.unwrap(), Processor::X86_64V2);
        assert!(matches!(found(|_| Some(false)), Err(LoadError::Code(_))));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn code_for_the_oldest_processors_is_loaded_on_this_one() {
        let (engine, wasm, own) = compiled();
        let old = compiled_for(Processor::X86_64V2, &wasm);
        assert_ne!(
            old.as_bytes(),
            own.as_bytes(),
            "it is for another processor"
        );
        old.load(engine, Digest::of(&wasm)).unwrap();
    }

    #[test]
    fn code_of_another_build_or_component_is_refused() {
        let (engine, wasm, compiled) = compiled();
        let digest = Digest::of(&wasm);
        let other = compiled.load(engine, Digest::of(b"other"));
        assert!(matches!(other, Err(LoadError::OtherComponent)));
        let mut bytes = compiled.as_bytes().to_vec();
        bytes[12] ^= 1;
        // SAFETY: it is refused before any of its code is loaded.
        let other = unsafe { Compiled::from_bytes(bytes) };
        assert!(matches!(
            other.load(engine, digest),
            Err(LoadError::OtherBuild)
        ));
    }

    #[test]
    fn every_cut_is_refused() {
        let (engine, wasm, compiled) = compiled();
        let bytes = compiled.as_bytes();
        for length in (0..112).chain([bytes.len() - 1]) {
            // SAFETY: it is refused before any of its code is loaded.
            let cut = unsafe { Compiled::from_bytes(bytes[..length].to_vec()) };
            let loaded = cut.load(engine, Digest::of(&wasm));
            assert!(matches!(loaded, Err(LoadError::Malformed)), "{length}");
        }
        // SAFETY: it is refused before any of its code is loaded.
        let two = unsafe { Compiled::from_bytes([bytes, bytes].concat()) };
        let two = two.load(engine, Digest::of(&wasm));
        assert!(matches!(two, Err(LoadError::Malformed)), "two at once");
    }
}
