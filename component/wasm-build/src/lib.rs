//! Builds a crate of this workspace as a wasm component. For build scripts.
//!
//! The crate is compiled for wasm32-unknown-unknown by a toolchain that has
//! that target: the one that compiles the build script, or Debian's
//! (`rustc-web`, `cargo-web`, `rust-web-src`), which builds the core library
//! from source. A module for this target has no WASI imports but those that it
//! declares.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use wit_component::ComponentEncoder;

const TARGET: &str = "wasm32-unknown-unknown";
const PROFILE: &str = "component";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/core";

/// What the device's component is made of, for [`Crate::inputs`].
pub const DEVICE: &[&str] = &[
    "component/Cargo.toml",
    "component/src",
    "component/kit",
    "component/wire",
    "wit",
];

/// A crate to build.
#[derive(Clone, Copy, Debug)]
pub struct Crate<'a> {
    /// Name of its package.
    pub package: &'a str,
    /// The features that it needs.
    pub features: &'a [&'a str],
    /// The version that the component reports (`MANATEE_BUILD`), if not the
    /// package's.
    pub build: Option<&'a str>,
    /// Files and folders that it is made of, relative to the workspace. The
    /// workspace's own manifest and lock file need not be named.
    pub inputs: &'a [&'a str],
}

impl Crate<'_> {
    /// Builds it, writes the component to a file in `OUT_DIR`, and has cargo
    /// run the build script again when an input changes.
    ///
    /// # Errors
    ///
    /// If no installed toolchain can build it, or it does not compile.
    pub fn build(&self, file: &str) -> Result<()> {
        let output = PathBuf::from(var("OUT_DIR")?).join(file);
        let workspace = workspace()?;
        for input in self.inputs.iter().chain(&["Cargo.toml", "Cargo.lock"]) {
            let input = workspace.join(input);
            println!("cargo::rerun-if-changed={}", input.display());
        }
        let module = self.compile(&workspace, &target_dir()?)?;
        let component = ComponentEncoder::default()
            .validate(true)
            .module(&module)?
            .encode()
            .with_context(|| format!("making a component of {}", self.package))?;
        let component = self.described(component);
        fs::write(&output, component).with_context(|| format!("writing {}", output.display()))
    }

    /// Adds name, version, licence and source, in the custom sections that
    /// wasm-metadata reads.
    fn described(&self, mut component: Vec<u8>) -> Vec<u8> {
        // Subsection 0 of `component-name` is the component's own name.
        let name = [&[0][..], &counted(&counted(self.package.as_bytes()))].concat();
        let version = self.build.unwrap_or(env!("CARGO_PKG_VERSION"));
        for (section, content) in [
            ("component-name", &*name),
            ("version", version.as_bytes()),
            ("licenses", env!("CARGO_PKG_LICENSE").as_bytes()),
            ("source", env!("CARGO_PKG_REPOSITORY").as_bytes()),
        ] {
            let section = [&counted(section.as_bytes()), content].concat();
            component.push(0);
            component.extend(counted(&section));
        }
        component
    }

    /// Returns the module's bytes.
    fn compile(&self, workspace: &Path, target_dir: &Path) -> Result<Vec<u8>> {
        let mut cargo = toolchain()?;
        cargo
            .current_dir(workspace)
            .env("CARGO_TARGET_DIR", target_dir)
            // Only warnings and errors.
            .args([
                "rustc",
                "--quiet",
                "--locked",
                "--lib",
                "--crate-type",
                "cdylib",
            ])
            .args(["--profile", PROFILE, "--target", TARGET])
            .args(["--package", self.package]);
        for feature in self.features {
            cargo.args(["--features", feature]);
        }
        cargo.args(["--", "-C", "target-feature=+simd128"]);
        cargo.env_remove("MANATEE_BUILD");
        cargo.envs(self.build.map(|build| ("MANATEE_BUILD", build)));
        // Another build script may build the same crate with other features, to
        // a file of the same name, so the file is read under the lock.
        let _lock = lock(target_dir)?;
        let module = Module::of(self, target_dir);
        module.forget_others()?;
        let output = cargo
            .output()
            .with_context(|| format!("running {cargo:?}"))?;
        ensure!(
            output.status.success(),
            "compiling {} to wasm failed ({}):\n{}",
            self.package,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        warn(&output.stderr);
        module.read()
    }
}

/// The file that a module is built to. cargo considers it fresh as long as none of its
/// inputs has changed, even if it was built with other features.
struct Module {
    /// Where cargo writes it, and the hard link to that.
    written: PathBuf,
    linked: PathBuf,
    /// The file that records what it was last built with.
    note: PathBuf,
    built_with: String,
}

impl Module {
    fn of(built: &Crate<'_>, target_dir: &Path) -> Self {
        let folder = target_dir.join(TARGET).join(PROFILE);
        let name = built.package.replace('-', "_");
        Self {
            written: folder.join("deps").join(format!("{name}.wasm")),
            linked: folder.join(format!("{name}.wasm")),
            note: folder.join(format!("{name}.built-with")),
            built_with: format!("{:?} {:?}", built.features, built.build),
        }
    }

    /// Removes a module that was built with other features, so that cargo
    /// builds it again.
    fn forget_others(&self) -> Result<()> {
        if fs::read_to_string(&self.note).is_ok_and(|note| note == self.built_with) {
            return Ok(());
        }
        for file in [&self.note, &self.written] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns its bytes, and records what they were built with.
    fn read(&self) -> Result<Vec<u8>> {
        let linked = &self.linked;
        let bytes = fs::read(linked).with_context(|| format!("reading {}", linked.display()))?;
        fs::write(&self.note, &self.built_with)
            .with_context(|| format!("writing {}", self.note.display()))?;
        Ok(bytes)
    }
}

/// Has cargo show the inner compiler's warnings, as warnings of the build script.
fn warn(complaints: &[u8]) {
    for line in String::from_utf8_lossy(complaints).lines() {
        println!("cargo::warning={line}");
    }
}

/// Returns the bytes, preceded by their length as LEB128.
fn counted(bytes: &[u8]) -> Vec<u8> {
    let mut counted = Vec::new();
    let mut length = bytes.len();
    while length >= 0x80 {
        counted.push(length as u8 | 0x80);
        length >>= 7;
    }
    counted.push(length as u8);
    counted.extend(bytes);
    counted
}

/// Waits until no other build script builds here. The lock is held until it is
/// dropped.
fn lock(target_dir: &Path) -> Result<File> {
    let path = target_dir.join(".build-script-lock");
    let lock = || {
        fs::create_dir_all(target_dir)?;
        let file = File::create(&path)?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    };
    lock().with_context(|| format!("locking {}", path.display()))
}

fn var(name: &str) -> Result<OsString> {
    env::var_os(name).with_context(|| format!("cargo did not set {name}"))
}

/// Returns the workspace that the crate whose build script this is belongs to.
fn workspace() -> Result<PathBuf> {
    let manifest = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let mut folders = manifest.ancestors().skip(1);
    let root = folders.find(|folder| folder.join("Cargo.lock").is_file());
    let root = root.with_context(|| format!("{} is in no workspace", manifest.display()))?;
    Ok(root.to_path_buf())
}

/// Returns a folder for the wasm build, shared by every profile of the host: below
/// the target folder, which is where `OUT_DIR` lies four levels down.
fn target_dir() -> Result<PathBuf> {
    let out = PathBuf::from(var("OUT_DIR")?);
    let target = out
        .ancestors()
        .nth(4)
        .context("OUT_DIR is not below a target folder")?;
    Ok(target.join("component"))
}

/// Returns a cargo that can compile for the target.
fn toolchain() -> Result<Command> {
    let sysroot = sysroot()?;
    if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        return own_toolchain();
    }
    let debian = [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_SOURCE];
    if debian.iter().all(|path| Path::new(path).exists()) {
        return Ok(debian_toolchain(&sysroot));
    }
    bail!(
        "no Rust toolchain here can compile to wasm: run `just setup`, \
         or `rustup target add {TARGET}`"
    );
}

fn sysroot() -> Result<PathBuf> {
    let output = Command::new(var("RUSTC")?)
        .args(["--print", "sysroot"])
        .output()
        .context("asking rustc for its sysroot")?;
    ensure!(output.status.success(), "rustc does not report its sysroot");
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// Returns a cargo without the environment that the outer cargo set for this
/// script.
fn clean(cargo: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(cargo);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let keep = matches!(&*text, "CARGO_HOME" | "CARGO_NET_OFFLINE");
        let told = [
            "CARGO",
            "RUSTC",
            "RUSTFLAGS",
            "RUSTDOC",
            "CLIPPY",
            "TARGET",
            "PROFILE",
        ];
        if !keep && told.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

fn own_toolchain() -> Result<Command> {
    let mut command = clean(var("CARGO")?);
    command.env("RUSTC", var("RUSTC")?);
    Ok(command)
}

fn debian_toolchain(sysroot: &Path) -> Command {
    let mut command = clean(DEBIAN_CARGO);
    command
        .env("RUSTC", DEBIAN_RUSTC)
        // Building the core library is an unstable option of cargo.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_UNSTABLE_BUILD_STD", "core,alloc");
    let linker = sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
    if linker.exists() {
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    }
    command
}
