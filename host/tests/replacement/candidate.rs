//! Components with any description and no function.

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

/// A candidate's answer to `restore`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restores {
    /// It traps.
    Never,
    /// It accepts the first state and refuses a second, as builds did that knew no
    /// rehearsal.
    Once,
    /// It accepts the first state and traps at a second.
    OnceOrTraps,
    /// It accepts any, but calls this function of `packet-endpoint` with a port
    /// and a queue.
    Calling(&'static str),
}

/// A candidate's description.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub device_id: u16,
    pub bar_size: u64,
    pub vectors: u16,
    pub max_ports: u32,
    /// The one format that it reads and writes.
    pub format: u32,
    /// Whether it accepts its ports; otherwise it traps.
    pub takes_ports: bool,
    pub restores: Restores,
}

impl Candidate {
    /// The shipped device's description.
    pub const TWIN: Self = Self {
        device_id: 0xba,
        bar_size: 0x2000,
        vectors: 65,
        max_ports: 256,
        format: 1,
        takes_ports: true,
        restores: Restores::Never,
    };

    /// Returns the component. Every function except `describe`, `configure` and
    /// perhaps `restore` traps.
    pub fn bytes(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");
        let (package, _) = resolve.push_path(wit).expect("the WIT world parses");
        let world = resolve
            .select_world(&[package], Some("adapter"))
            .expect("there is a world");
        let module = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
        let text = wasmprinter::print_bytes(&module).expect("a module can be printed");
        let mut module = wat::parse_str(self.rewrite(&text)).expect("the changed module parses");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .expect("the world can be embedded");
        ComponentEncoder::default()
            .module(&module)
            .and_then(|encoder| encoder.validate(true).encode())
            .expect("the module is a component of the world")
    }

    /// Inserts bodies of some functions, and the description as data.
    fn rewrite(&self, text: &str) -> String {
        let mut bodies = vec![
            (
                index_of(text, "\"manatee:device/device@0.2.0#describe"),
                "i32.const 64",
            ),
            (
                index_of(text, "cabi_post_manatee:device/device@0.2.0#describe"),
                "nop",
            ),
            (index_of(text, "cabi_realloc"), "i32.const 1024"),
        ];
        if self.takes_ports {
            bodies.push((
                index_of(text, "\"manatee:device/device@0.2.0#configure"),
                "i32.const 16",
            ));
        }
        // The byte at 48 says whether it has restored; 16 is the address of a successful
        // result, and 32 that of an error.
        let once = |again: &str| {
            format!(
                "i32.const 48 i32.load8_u if (result i32) {again} else \
                 i32.const 48 i32.const 1 i32.store8 i32.const 16 end"
            )
        };
        let restore = match self.restores {
            Restores::Never => None,
            Restores::Once => Some(once("i32.const 32")),
            Restores::OnceOrTraps => Some(once("unreachable")),
            Restores::Calling(function) => {
                let function = index_of_import(text, function);
                Some(format!(
                    "i32.const 0 i32.const 0 call {function} i32.const 16"
                ))
            }
        };
        if let Some(restore) = &restore {
            bodies.push((
                index_of(text, "\"manatee:device/device@0.2.0#restore"),
                restore,
            ));
            bodies.push((
                index_of(text, "cabi_post_manatee:device/device@0.2.0#restore"),
                "nop",
            ));
        }
        let mut body = None;
        let lines = text.lines().map(|line| {
            let trimmed = line.trim();
            if trimmed.starts_with("(func ") {
                let of = |(index, _): &&(String, &str)| trimmed.contains(&format!("(;{index};)"));
                body = bodies.iter().find(of).map(|(_, body)| *body);
            }
            match (trimmed, body) {
                ("unreachable", Some(body)) => body.to_owned(),
                _ if trimmed.starts_with("(memory ") => {
                    let data = self.description();
                    let data: String = data.iter().map(|b| format!("\\{b:02x}")).collect();
                    let memory = trimmed.replace(" 0)", " 1)");
                    format!(
                        "{memory}\n(data (i32.const 32) \"\\01\")(data (i32.const 64) \"{data}\")"
                    )
                }
                _ => line.to_owned(),
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Returns the world's record `description`, laid out for address 64.
    fn description(&self) -> Vec<u8> {
        let texts = 256_u32;
        let mut record = Vec::new();
        let list = |record: &mut Vec<u8>, at: u32, length: u32| {
            record.extend(at.to_le_bytes());
            record.extend(length.to_le_bytes());
        };
        list(&mut record, texts, 7);
        list(&mut record, texts + 8, 5);
        for id in [0x1414, self.device_id, 0x1414, 0] {
            record.extend(id.to_le_bytes());
        }
        record.extend([1, 0, 0, 0]);
        record.extend(0x02_00_00_u32.to_le_bytes());
        list(&mut record, texts + 16, 1);
        record.extend(u32::from(self.vectors).to_le_bytes());
        record.extend(self.max_ports.to_le_bytes());
        record.extend([1, 0, 0, 0]);
        record.extend(self.format.to_le_bytes());
        list(&mut record, texts + 32, 1);
        list(&mut record, texts + 40, 1);
        record.resize(texts as usize - 64, 0);
        record.extend(b"MANA VF\0");
        record.extend(b"9.9.9\0\0\0");
        record.extend([0; 8]);
        record.extend(self.bar_size.to_le_bytes());
        record.extend(self.format.to_le_bytes());
        record.extend([0; 4]);
        // The doorbells of the shipped device.
        record.extend([0; 8]);
        record.extend(0x1000_u64.to_le_bytes());
        record.extend(0x1000_u64.to_le_bytes());
        record.extend(0xff_ffff_u64.to_le_bytes());
        record
    }
}

/// Returns the index of the function that is exported under a name with this suffix.
fn index_of(text: &str, name: &str) -> String {
    let export = text.lines().find(|line| {
        line.trim().starts_with("(export ") && line.contains(&format!("{name}\" (func "))
    });
    let export = export.unwrap_or_else(|| panic!("no export {name}"));
    let index = export.rsplit("(func ").next().expect("a function");
    index.trim_end_matches(')').trim().to_owned()
}

/// Returns the index of a function that is imported from `packet-endpoint`.
fn index_of_import(text: &str, name: &str) -> String {
    let start = format!("(import \"manatee:device/packet-endpoint@0.2.0\" \"{name}\" (func (;");
    let import = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&*start));
    let import = import.unwrap_or_else(|| panic!("no import {name}"));
    let (index, _) = import.split_once(';').expect("the end of a comment");
    index.to_owned()
}
