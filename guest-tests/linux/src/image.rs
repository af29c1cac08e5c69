//! The guest's file system: an initramfs with busybox, a few tools and modules.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cpio::newc;

use crate::assets::Assets;
use crate::kernel::Kernel;
use crate::modules::Module;
use crate::process::output_of;

/// The dynamic loader's path, which every dynamic program names.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// The library directory of Debian's packages.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Programs of the tools' tree, besides busybox.
const TOOLS: [&str; 5] = [
    "usr/sbin/ethtool",
    "usr/bin/ip",
    "usr/bin/iperf3",
    "usr/bin/ping",
    "usr/bin/nc.openbsd",
];

/// A library that is loaded only once a program needs it (the C library's
/// `pthread_cancel`).
const LOADED_LATE: &str = "libgcc_s.so.1";

/// Modules that the guest gets when its kernel has them.
const MODULES: [&str; 5] = ["mana", "8021q", "virtio_net", "virtio_pci", "vmxnet3"];

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes an initramfs for `kernel` to `path`, with the guest's end of the traffic,
/// the program `traffic`.
pub fn build(assets: &Assets, kernel: &Kernel, traffic: &Path, path: &Path) -> Result<()> {
    write(assets, kernel, traffic, path)
        .with_context(|| format!("cannot make the guest's image {}", path.display()))
}

fn write(assets: &Assets, kernel: &Kernel, traffic: &Path, path: &Path) -> Result<()> {
    let mut image = Archive::create(path)?;
    image.console()?;
    image.program("init", include_bytes!("../guest/init"))?;
    image.program("agent", include_bytes!("../guest/agent"))?;
    image.program("commands", include_bytes!("../guest/commands"))?;
    let tools = assets.tools();
    image.copy("busybox/busybox", &tools.join("usr/bin/busybox"))?;
    image.copy("busybox/sh", &tools.join("usr/bin/busybox"))?;
    add_tools(&mut image, &tools)?;
    image.program("usr/bin/traffic", &static_program(traffic)?)?;
    if let Some(tree) = &kernel.modules {
        let wanted = MODULES.map(|name| tree.has(name).then_some(name));
        let wanted: Vec<&str> = wanted.into_iter().flatten().collect();
        add_modules(
            &mut image,
            &kernel.release,
            &tree.with_dependencies(&wanted)?,
        )?;
        let list = format!("lib/modules/{}/modules.builtin", kernel.release);
        image.program(&list, tree.builtin().as_bytes())?;
    }
    for empty in ["dev", "proc", "run", "sys", "tmp"] {
        image.directory(empty)?;
    }
    image.finish()
}

/// Returns a program that needs no library of the machine it was built on.
fn static_program(path: &Path) -> Result<Vec<u8>> {
    let elf = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let wants_loader = elf
        .windows(LOADER.len())
        .any(|bytes| bytes == LOADER.as_bytes());
    ensure!(
        !wants_loader,
        "{} is linked dynamically, and the guest has other libraries: run `just guest-programs`",
        path.display()
    );
    Ok(elf)
}

fn add_tools(image: &mut Archive, tree: &Path) -> Result<()> {
    let loader = tree.join("usr").join(&LOADER[1..]);
    image.copy(&LOADER[1..], &loader)?;
    let late = tree.join(LIBRARIES).join(LOADED_LATE);
    let mut libraries = BTreeSet::from([late]);
    for tool in TOOLS {
        image.copy(tool, &tree.join(tool))?;
        libraries.extend(libraries_of(&loader, tree, tool)?);
    }
    for library in libraries {
        let name = library.file_name().context("a library without a name")?;
        image.copy(&format!("{LIBRARIES}/{}", name.display()), &library)?;
    }
    Ok(())
}

/// Asks the tree's own loader which libraries a program of the tree loads.
fn libraries_of(loader: &Path, tree: &Path, program: &str) -> Result<Vec<PathBuf>> {
    let mut list = Command::new(loader);
    list.arg("--library-path")
        .arg(tree.join(LIBRARIES))
        .arg("--list")
        .arg(tree.join(program));
    let listed = output_of(list)?;
    Ok(listed
        .lines()
        .filter_map(|line| {
            line.split_once("=> ")?
                .1
                .split_once(" (")
                .map(|(path, _)| PathBuf::from(path))
        })
        .filter(|path| path.parent().is_some_and(|dir| dir.ends_with(LIBRARIES)))
        .collect())
}

/// Adds modules, which follow those they need, and the index that modprobe reads.
fn add_modules(image: &mut Archive, release: &str, modules: &[Module]) -> Result<()> {
    let dir = format!("lib/modules/{release}");
    let mut index = String::new();
    for (position, module) in modules.iter().enumerate() {
        let needs: String = all_needed(&modules[..=position])
            .iter()
            .map(|name| format!(" {name}.ko"))
            .collect();
        index += &format!("{}.ko:{needs}\n", module.name);
        image.program(&format!("{dir}/{}.ko", module.name), &module.elf)?;
    }
    image.program(&format!("{dir}/modules.dep"), index.as_bytes())
}

/// Returns all that the last of `modules` needs, directly or not. modprobe loads them from
/// the end of the list.
fn all_needed(modules: &[Module]) -> Vec<&str> {
    let Some((last, before)) = modules.split_last() else {
        return Vec::new();
    };
    let mut wanted: BTreeSet<&str> = last.depends.iter().map(String::as_str).collect();
    let mut needed = Vec::new();
    for module in before.iter().rev() {
        if wanted.contains(module.name.as_str()) {
            wanted.extend(module.depends.iter().map(String::as_str));
            needed.push(module.name.as_str());
        }
    }
    needed
}

/// A cpio archive in the form that the kernel unpacks.
struct Archive {
    file: BufWriter<File>,
    directories: BTreeSet<String>,
    next_inode: u32,
}

impl Archive {
    fn create(path: &Path) -> Result<Self> {
        Ok(Self {
            file: BufWriter::new(File::create(path)?),
            directories: BTreeSet::new(),
            next_inode: 1,
        })
    }

    fn copy(&mut self, name: &str, from: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.program(name, &bytes)
    }

    fn program(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let builder = newc::Builder::new(name).mode(PROGRAM);
        self.entry(name, builder, bytes)
    }

    /// Adds /dev/console, which the kernel opens for the first process before anything is mounted.
    fn console(&mut self) -> Result<()> {
        let name = "dev/console";
        let builder = newc::Builder::new(name)
            .mode(CHARACTER_DEVICE)
            .rdev_major(5)
            .rdev_minor(1);
        self.entry(name, builder, &[])
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        if !self.directories.insert(name.to_owned()) {
            return Ok(());
        }
        let builder = newc::Builder::new(name).mode(DIRECTORY).nlink(2);
        self.entry(name, builder, &[])
    }

    /// Writes one entry, after the directories it lies in.
    fn entry(&mut self, name: &str, builder: newc::Builder, bytes: &[u8]) -> Result<()> {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent)?;
        }
        let size = u32::try_from(bytes.len()).with_context(|| format!("{name} is too large"))?;
        let mut writer = builder.ino(self.next_inode).write(&mut self.file, size);
        self.next_inode += 1;
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        newc::trailer(&mut self.file)?;
        self.file.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_indirectly_is_listed_too_and_loaded_first() {
        let module = |name: &str, depends: &[&str]| Module {
            name: name.to_owned(),
            depends: depends.iter().map(ToString::to_string).collect(),
            elf: Vec::new(),
        };
        let modules = [
            module("failover", &[]),
            module("other", &[]),
            module("net_failover", &["failover"]),
            module("virtio_net", &["net_failover"]),
        ];
        assert_eq!(all_needed(&modules), ["net_failover", "failover"]);
        assert!(all_needed(&modules[..2]).is_empty());
    }
}
