//! `manatee describe`.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use manatee::component::{self, Component, Processor};
use manatee::contract::Description;
use serde_json::{Map, Value, json};

use super::metadata;
use crate::jail::child;

/// Describe a device component
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Describe a device component: its PCI identity, BARs and interrupts, \
    its version, imports and exports, and the formats of saved state that it supports."
)]
pub struct Arguments {
    /// The component; by default the one that is built in
    #[arg(value_name = "FILE.wasm")]
    file: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Do not confine the process that compiles the component
    #[arg(long)]
    no_sandbox: bool,
}

/// A component's file.
struct File {
    sha256: String,
    /// The processors that it was compiled for when this program was built.
    precompiled: Option<Processor>,
    metadata: Vec<(&'static str, String)>,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (component, wasm) = match &arguments.file {
        Some(file) => {
            let wasm = component::read(file)?;
            let code = child::compile(&wasm, &file.display().to_string(), !arguments.no_sandbox)?;
            (code.load()?, Cow::Owned(wasm))
        }
        None => (Component::embedded()?, manatee_component::BYTES.into()),
    };
    let file = File {
        sha256: component.digest().to_string(),
        precompiled: component.precompiled(),
        metadata: metadata::read(&wasm),
    };
    let description = component
        .describe()
        .context("the component can't describe itself")?;
    let (imports, exports) = (component.imports(), component.exports());
    if arguments.json {
        let value = as_json(&description, &file, imports, exports);
        super::output::print(&format!("{value:#}\n"))
    } else {
        super::output::print(&as_text(&description, &file, imports, exports))
    }
}

/// Returns a component's text, with terminal escape sequences escaped.
fn words(text: &[u8]) -> String {
    String::from_utf8_lossy(text).escape_debug().to_string()
}

fn as_text(
    description: &Description,
    file: &File,
    imports: &[String],
    exports: &[String],
) -> String {
    let Description { version, pci, .. } = description;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<14}{value}");
    };
    line("sha256", &file.sha256);
    line(
        "machine code",
        &match file.precompiled {
            Some(Processor::Own) => "precompiled for the build machine's processor".to_owned(),
            Some(level) => format!("precompiled for {level}"),
            None => "compiled now".to_owned(),
        },
    );
    for (index, (name, value)) in file.metadata.iter().enumerate() {
        let title = if index == 0 { "file" } else { "" };
        line(title, &format!("{name} {value}"));
    }
    line("device", &words(&version.name));
    line("version", &words(&version.build));
    line(
        "PCI device",
        &format!("{:04x}:{:04x}", pci.vendor_id, pci.device_id),
    );
    line(
        "subsystem",
        &format!("{:04x}:{:04x}", pci.subsystem_vendor_id, pci.subsystem_id),
    );
    line("revision", &pci.revision_id.to_string());
    line("class", &format!("{:06x}", pci.class_code));
    for bar in &description.bars {
        line(
            &format!("BAR {}", bar.index),
            &format!("{} KiB, 64 bits wide", bar.size / 1024),
        );
    }
    line("MSI-X vectors", &description.msix_vectors.to_string());
    line("ports", &format!("up to {}", description.max_ports));
    let writes = description
        .saved_state_writes
        .map(|version| version.to_string());
    line(
        "saved state",
        &format!("writes {}", writes.as_deref().unwrap_or("none")),
    );
    let reads: Vec<_> = description
        .saved_state_reads
        .iter()
        .map(u32::to_string)
        .collect();
    let reads = if reads.is_empty() {
        "none".to_owned()
    } else {
        reads.join(", ")
    };
    line("", &format!("reads {reads}"));
    for (title, names) in [("imports", imports), ("exports", exports)] {
        let title = std::iter::once(title).chain(std::iter::repeat(""));
        for (title, name) in title.zip(names) {
            line(title, name);
        }
    }
    text
}

fn as_json(
    description: &Description,
    file: &File,
    imports: &[String],
    exports: &[String],
) -> Value {
    let Description { version, pci, .. } = description;
    let metadata: Map<_, _> = file
        .metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
        .collect();
    let bars = description.bars.iter();
    let bars: Vec<_> = bars
        .map(|bar| json!({ "index": bar.index, "size": bar.size }))
        .collect();
    json!({
        "name": String::from_utf8_lossy(&version.name),
        "version": String::from_utf8_lossy(&version.build),
        "sha256": file.sha256,
        "precompiled": file.precompiled.map(|processor| processor.to_string()),
        "metadata": metadata,
        "pci": {
            "vendor": format!("{:04x}", pci.vendor_id),
            "device": format!("{:04x}", pci.device_id),
            "subsystem_vendor": format!("{:04x}", pci.subsystem_vendor_id),
            "subsystem": format!("{:04x}", pci.subsystem_id),
            "revision": pci.revision_id,
            "class": format!("{:06x}", pci.class_code),
        },
        "bars": bars,
        "msix_vectors": description.msix_vectors,
        "max_ports": description.max_ports,
        "saved_state": {
            "writes": description.saved_state_writes,
            "reads": description.saved_state_reads,
        },
        "imports": imports,
        "exports": exports,
    })
}

#[cfg(test)]
mod tests {
    use manatee::contract::{Bar, PciIdentity, Version};

    use super::*;

    fn description() -> Description {
        Description {
            version: Version {
                name: b"MANA \x1b[2JVF".to_vec(),
                build: b"0.1.0".to_vec(),
            },
            pci: PciIdentity {
                vendor_id: 0x1414,
                device_id: 0xba,
                subsystem_vendor_id: 0x1414,
                subsystem_id: 0,
                revision_id: 0,
                class_code: 0x2_0000,
            },
            bars: vec![Bar {
                index: 0,
                size: 8192,
            }],
            msix_vectors: 65,
            max_ports: 16,
            saved_state_writes: None,
            doorbells: vec![],
            saved_state_reads: vec![],
        }
    }

    fn file() -> File {
        File {
            sha256: "00ff".into(),
            precompiled: Some(Processor::X86_64V3),
            metadata: vec![("name", "a".into()), ("licences", "MIT".into())],
        }
    }

    #[test]
    fn text_names_everything_and_escapes_the_rest() {
        let imports = ["a:b/c@0.1.0".to_owned(), "a:b/d@0.1.0".to_owned()];
        let text = as_text(&description(), &file(), &imports, &[]);
        for part in [
            "1414:00ba",
            "020000",
            "8 KiB",
            "65",
            "writes none",
            "reads none",
            "sha256        00ff\nmachine code  precompiled for x86-64-v3\n",
            "\nfile          name a\n              licences MIT\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.contains("imports       a:b/c@0.1.0\n              a:b/d@0.1.0\n"));
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn json_has_the_same() {
        let value = as_json(&description(), &file(), &["a".to_owned()], &[]);
        assert_eq!(value["pci"]["device"], "00ba");
        assert_eq!(value["saved_state"], json!({ "writes": null, "reads": [] }));
        assert_eq!(value["imports"], json!(["a"]));
        assert_eq!(value["precompiled"], "x86-64-v3");
        assert_eq!(value["metadata"], json!({ "name": "a", "licences": "MIT" }));
    }
}
