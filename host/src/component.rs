//! A device's component: loaded, checked against the world, and compiled.

#[cfg(feature = "compiler")]
mod compile;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use wasmtime::Module;
use wasmtime::component::Component as WasmComponent;

use crate::contract::Description;
use crate::pci::{Function, FunctionError, Identity};
use crate::precompiled;
pub use crate::precompiled::{Compiled, Digest, Digesting, LoadError, Processor};
use crate::runtime::{
    self, Calls, Failure, HostState, Instance, Limits, PreparedComponent, Runtime, RuntimeError,
};
use manatee_common::ration::{MAX_LINE, clean};

/// The interface that a device exports, by version of the contract.
const EXPORTS: [&str; 2] = ["manatee:device/device@0.2.0", "manatee:device/device@0.1.0"];
/// The versions of the contract that a component may be made for, the newest first.
pub const CONTRACTS: [&str; 2] = ["0.2.0", "0.1.0"];
/// The packages of the interfaces that a device may import.
const PACKAGE: &str = "manatee:device/";
const IMPORTS: [&str; 6] = [
    "types",
    "guest-memory",
    "interrupts",
    "packet-endpoint",
    "recovery",
    "log",
];

/// Returns whether an import is one of the world's.
fn is_known(import: &str) -> bool {
    let named = import
        .strip_prefix(PACKAGE)
        .and_then(|import| import.split_once('@'));
    named.is_some_and(|(name, version)| IMPORTS.contains(&name) && CONTRACTS.contains(&version))
}

/// Why a component can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The file can't be read.
    #[error("reading {path}: {error}")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// It is not wasm.
    #[error("{0} is not WebAssembly; a device is a component, as `just build` makes it")]
    NotWasm(String),
    /// It is a core module.
    #[error(
        "{0} is a core WebAssembly module, not a component; make one of it with \
         `wasm-tools component new`"
    )]
    CoreModule(String),
    /// It does not compile.
    #[error("{name} is not a valid component: {error}")]
    Invalid {
        /// Its path or name.
        name: String,
        /// What the compiler says.
        error: String,
    },
    /// Compiled code that can't be loaded.
    #[error("the compiled code of {name} can't be loaded: {error}")]
    Load {
        /// Its path or name.
        name: String,
        /// Why.
        error: LoadError,
    },
    /// It would have to be compiled, and this build has no compiler.
    #[error(
        "{0} would have to be compiled, and manatee was built without the feature `compiler`; \
         build it with MANATEE_DEVICE_CODE naming what `manatee precompile` of the same \
         version wrote on such a machine"
    )]
    NoCompiler(String),
    /// It imports something that no device gets.
    #[error(
        "{name} imports {import}; a device may import only the interfaces of the world \
         manatee:device/adapter@0.2.0 ({}), and no WASI: build it for wasm32-unknown-unknown",
        IMPORTS.join(", ")
    )]
    ForeignImport {
        /// Its path or name.
        name: String,
        /// The import.
        import: String,
    },
    /// It lacks the export of a device.
    #[error("{0} does not export {export}, so it is not a device for this host", export = EXPORTS[0])]
    NoDevice(String),
    /// An import or export has other types than the world's.
    #[error("{name} does not fit the world manatee:device/adapter: {error}")]
    Mismatch {
        /// Its path or name.
        name: String,
        /// What differs.
        error: String,
    },
    /// Its description is invalid.
    #[error("{name} describes a device that can't be: {error}")]
    Description {
        /// Its path or name.
        name: String,
        /// What is wrong.
        error: FunctionError,
    },
    /// It failed while it was asked for its description.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// This machine can't run components.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// The largest component that is accepted, in bytes.
pub const MAX_FILE: u64 = 64 << 20;

/// Opens a component's file.
///
/// # Errors
///
/// [`ComponentError::Read`] if it can't be read, is no regular file, or has more
/// than 64 MiB.
pub fn open(path: &Path) -> Result<File, ComponentError> {
    let failed = |error| ComponentError::Read {
        path: path.display().to_string(),
        error,
    };
    // Opening a pipe that nobody writes to must not block.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?;
    if !kind.is_file() {
        return Err(failed(std::io::Error::other("it is no regular file")));
    }
    if kind.len() > MAX_FILE {
        return Err(failed(std::io::Error::other("it has more than 64 MiB")));
    }
    Ok(file)
}

/// Reads a component's file.
///
/// # Errors
///
/// As [`open`].
pub fn read(path: &Path) -> Result<Vec<u8>, ComponentError> {
    let failed = |error| ComponentError::Read {
        path: path.display().to_string(),
        error,
    };
    let mut bytes = Vec::new();
    let mut limited = open(path)?.take(MAX_FILE + 1);
    limited.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(failed(std::io::Error::other("it has more than 64 MiB")));
    }
    Ok(bytes)
}

/// A device's component, ready to be instantiated. Cheap to clone.
#[derive(Clone)]
pub struct Component {
    code: PreparedComponent,
    name: Arc<str>,
    digest: Digest,
    imports: Arc<[String]>,
    exports: Arc<[String]>,
    /// Its description, once it was asked for.
    description: Arc<OnceLock<Description>>,
    precompiled: Option<Processor>,
}

impl Component {
    /// Returns how instances with these limits are called.
    pub(crate) fn calls(&self, limits: &Limits) -> Calls {
        self.code.calls(limits)
    }

    /// Returns the component that this build ships.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Runtime`] if this machine can't run components,
    /// [`ComponentError::NoCompiler`] if this build has neither a compiler nor code for
    /// this machine.
    pub fn embedded() -> Result<Self, ComponentError> {
        let (bytes, name) = (manatee_component::BYTES, "the embedded component");
        let runtime = Runtime::get()?;
        match precompiled::embedded(&runtime.engine, bytes) {
            Some(((component, module), processor)) => {
                let digest = Digest::of(bytes);
                let module = module.as_ref();
                let loaded = Self::from_compiled(runtime, &component, module, digest, name)?;
                Ok(Self {
                    precompiled: Some(processor),
                    ..loaded
                })
            }
            #[cfg(feature = "compiler")]
            None => Self::from_bytes(bytes, name),
            #[cfg(not(feature = "compiler"))]
            None => Err(ComponentError::NoCompiler(name.to_owned())),
        }
    }

    /// Loads the compiled code of the component with this digest.
    ///
    /// # Errors
    ///
    /// [`ComponentError`].
    pub fn load(compiled: &Compiled, digest: Digest, name: &str) -> Result<Self, ComponentError> {
        let runtime = Runtime::get()?;
        let loaded = compiled.load(&runtime.engine, digest);
        let (component, module) = loaded.map_err(|error| ComponentError::Load {
            name: name.to_owned(),
            error,
        })?;
        Self::from_compiled(runtime, &component, module.as_ref(), digest, name)
    }

    /// Checks what a component imports and exports.
    fn from_compiled(
        runtime: &Runtime,
        component: &WasmComponent,
        module: Option<&Module>,
        digest: Digest,
        name: &str,
    ) -> Result<Self, ComponentError> {
        let name = name.to_owned();
        let engine = &runtime.engine;
        let ty = component.component_type();
        let imports: Arc<[_]> = ty
            .imports(engine)
            .map(|(name, _)| name.to_owned())
            .collect();
        let exports: Arc<[_]> = ty
            .exports(engine)
            .map(|(name, _)| name.to_owned())
            .collect();
        if let Some(import) = imports.iter().find(|import| !is_known(import)) {
            return Err(ComponentError::ForeignImport {
                name,
                import: clean(import.as_bytes(), MAX_LINE),
            });
        }
        if !exports
            .iter()
            .any(|export| EXPORTS.contains(&export.as_str()))
        {
            return Err(ComponentError::NoDevice(name));
        }
        let code = runtime::prepare(runtime, component, module);
        let code = code.map_err(|error| ComponentError::Mismatch {
            name: name.clone(),
            error: clean(format!("{error:#}").as_bytes(), MAX_LINE),
        })?;
        Ok(Self {
            code,
            name: name.into(),
            digest,
            imports,
            exports,
            description: Arc::default(),
            precompiled: None,
        })
    }

    /// Returns the interfaces that it imports.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// Returns the interfaces that it exports.
    pub fn exports(&self) -> &[String] {
        &self.exports
    }

    /// Returns its path, or another name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the processors that its machine code is for, if that was compiled when this program
    /// was built. None if it was compiled since then.
    pub fn precompiled(&self) -> Option<Processor> {
        self.precompiled
    }

    /// Returns the SHA-256 of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns its description, which a fresh instance without any access is asked for once.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Failed`] if it fails, [`ComponentError::Description`]
    /// if no PCI function can be what it says.
    pub fn describe(&self) -> Result<Description, ComponentError> {
        if let Some(description) = self.description.get() {
            return Ok(description.clone());
        }
        let description = self.ask()?;
        Ok(self.description.get_or_init(|| description).clone())
    }

    fn ask(&self) -> Result<Description, ComponentError> {
        let state = HostState::vacant(Limits::default());
        let state = state.map_err(|error| self.undescribed(error))?;
        let mut instance = Instance::new(&self.code, state).map_err(|(failure, _)| failure)?;
        let description = instance.describe()?;
        self.function(&description)?;
        Ok(description)
    }

    /// Returns the PCI function that a description asks for.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Description`] if there can be none.
    pub fn function(&self, description: &Description) -> Result<Function, ComponentError> {
        let identity = Identity::from(description.pci);
        let bars: Vec<_> = description
            .bars
            .iter()
            .map(|bar| (bar.index, bar.size))
            .collect();
        Function::new(identity, &bars, description.msix_vectors)
            .map_err(|error| self.undescribed(error))
    }

    /// Returns the code that instances are created from.
    pub(crate) fn code(&self) -> &PreparedComponent {
        &self.code
    }

    fn undescribed(&self, error: FunctionError) -> ComponentError {
        ComponentError::Description {
            name: self.name.to_string(),
            error,
        }
    }
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
