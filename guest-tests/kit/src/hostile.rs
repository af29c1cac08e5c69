//! Hand-written components, in the text format of WebAssembly.
//!
//! By default a component is well-behaved: it describes itself as an adapter, accepts
//! its ports, and does nothing. A test gives functions other bodies. What a module
//! imports and exports is read from the world's WIT, so that a component can be made
//! for each version of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use manatee::component::{Component, ComponentError};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::abi::{AbiVariant, WasmSignature, WasmType};
use wit_parser::{
    Function, LiftLowerAbi, ManglingAndAbi, Resolve, WasmExport, WasmExportKind, WasmImport,
    WorldId, WorldItem, WorldKey,
};

use crate::description::{Described, Layout};

/// Address of results that are all zero: success, an empty list, none.
pub const ZERO: u32 = 1024;
/// Default address of the results of imports; 256 bytes.
pub const ANSWER: u32 = 1280;
/// Address of the description, with its lists after it.
const DESCRIPTION: u32 = 2048;
/// Begin of the memory for tests, up to the heap.
pub const OWN: u32 = 16 << 10;
/// Begin of the memory that `cabi_realloc` allocates, wrapping at [`HEAP_END`].
const HEAP: u32 = 64 << 10;
const HEAP_END: u32 = 512 << 10;
/// Address of the window arena, if there is one.
pub const ARENA: u32 = HEAP_END;
/// Address of what `configure` returns then, after the results of imports.
const ARENA_FEATURES: u32 = 1600;
/// 64 KiB pages that a module has by default.
const PAGES: u32 = 16;

/// `map-window` as version 0.1.0 has it, in terms of a later one.
const MAP_READ_WRITE: &str = "(func $map-window (param i32 i32 i32 i32)
    local.get 0 local.get 1 local.get 2 i32.const 0 local.get 3 call $map-window-with-access)\n";

/// A version of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// As in the package's name.
    pub number: &'static str,
    /// Path of its WIT, relative to the repository's root.
    wit: &'static str,
    /// Whether windows are in an arena, which lists must not overlap.
    pub has_arenas: bool,
}

/// The versions that this host supports.
pub const VERSIONS: [Version; 2] = [
    Version {
        number: "0.1.0",
        wit: "wit/0.1.0",
        has_arenas: false,
    },
    Version {
        number: "0.2.0",
        wit: "wit",
        has_arenas: true,
    },
];

/// A builder of a component.
#[derive(Clone, Debug)]
pub struct Hostile {
    version: Version,
    /// Bodies by the name of the exported function.
    bodies: BTreeMap<&'static str, String>,
    fields: String,
    realloc: String,
    /// Minimal and perhaps maximal size of its memory, in 64 KiB pages.
    memory: String,
    described: Described,
    /// Whether a second module with a state keeps it from being called directly.
    second_module: bool,
}

impl Hostile {
    /// Creates a well-behaved component.
    pub fn new(version: Version) -> Self {
        Self {
            version,
            bodies: BTreeMap::new(),
            fields: String::new(),
            realloc: format!(
                "(local $at i32)
                 global.get $heap local.get 2 i32.add i32.const 1 i32.sub
                 i32.const 0 local.get 2 i32.sub i32.and local.tee $at
                 local.get 3 i32.add i32.const {HEAP_END} i32.gt_u
                 if i32.const {HEAP} local.set $at end
                 local.get $at local.get 3 i32.add global.set $heap
                 local.get $at"
            ),
            memory: PAGES.to_string(),
            described: Described::default(),
            second_module: false,
        }
    }

    /// Gives an exported function a body.
    pub fn export(mut self, name: &'static str, body: impl Into<String>) -> Self {
        self.bodies.insert(name, body.into());
        self
    }

    /// Adds functions, data, globals or a start function.
    pub fn fields(mut self, text: impl AsRef<str>) -> Self {
        self.fields.push_str(text.as_ref());
        self.fields.push('\n');
        self
    }

    /// Gives `cabi_realloc` a body. Its parameters are the old address and size, the
    /// alignment, and the new size.
    pub fn realloc(mut self, body: impl Into<String>) -> Self {
        self.realloc = body.into();
        self
    }

    /// Sets the size of the memory, in 64 KiB pages.
    pub fn memory(mut self, pages: u32) -> Self {
        self.memory = pages.to_string();
        self
    }

    /// Changes its description.
    pub fn describe(mut self, change: impl FnOnce(&mut Described)) -> Self {
        change(&mut self.described);
        self
    }

    /// Has it reserve a window arena of 128 KiB at [`ARENA`] in `configure`, if its
    /// contract has arenas, and agree on windows.
    pub fn arena(self) -> Self {
        self.arena_at(ARENA, 0x2_0000)
    }

    /// Has it reserve an arena at another address, of another size.
    pub fn arena_at(self, offset: u32, length: u32) -> Self {
        if !self.version.has_arenas {
            return self;
        }
        // Success, and the first of the features.
        self.fields(format!("(data (i32.const {ARENA_FEATURES}) \"\\00\\01\")"))
            .export(
                "configure",
                format!(
                    "i32.const {offset} i32.const {length} i32.const {ANSWER} call $reserve-arena
                     i32.const {ARENA_FEATURES}"
                ),
            )
    }

    /// Has it agree on these features in `configure`.
    pub fn agrees(self, features: u8) -> Self {
        self.fields(format!(
            "(data (i32.const {ARENA_FEATURES}) \"\\00\\{features:02x}\")"
        ))
        .export("configure", format!("i32.const {ARENA_FEATURES}"))
    }

    /// Adds a second module with a state, so that the component model calls it.
    pub fn by_the_model(mut self) -> Self {
        self.second_module = true;
        self
    }

    /// Builds the component.
    pub fn bytes(&self) -> Vec<u8> {
        let (resolve, world) = self.world();
        let text = self.text(&resolve, world);
        let mut module = match wat::parse_str(&text) {
            Ok(module) => module,
            Err(error) => panic!("{error}\nin\n{text}"),
        };
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .expect("the world can be embedded");
        let mut bytes = ComponentEncoder::default()
            .module(&module)
            .and_then(|encoder| encoder.validate(true).encode())
            .expect("the module is a component of the world");
        if self.second_module {
            append_module(&mut bytes);
        }
        bytes
    }

    /// Builds the component, and loads it.
    pub fn load(&self) -> Result<Component, ComponentError> {
        Component::from_bytes(&self.bytes(), "hostile.wasm")
    }

    fn world(&self) -> (Resolve, WorldId) {
        let mut resolve = Resolve::default();
        // The root of the repository, whichever crate includes this file.
        let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let root = above.find(|folder| folder.join("wit/device.wit").exists());
        let wit = root.expect("there is a contract").join(self.version.wit);
        let (package, _) = resolve.push_path(wit).expect("the WIT world parses");
        let world = resolve
            .select_world(&[package], Some("adapter"))
            .expect("there is a world");
        (resolve, world)
    }

    fn text(&self, resolve: &Resolve, world: WorldId) -> String {
        let mut text = "(module\n".to_owned();
        let world = &resolve.worlds[world];
        for (key, function) in functions(resolve, world.imports.iter()) {
            import(&mut text, resolve, key, function);
        }
        if self.version.has_arenas {
            text.push_str(MAP_READ_WRITE);
        }
        let _ = writeln!(text, "(memory (export \"memory\") {})", self.memory);
        let _ = writeln!(text, "(global $heap (mut i32) (i32.const {HEAP}))");
        let _ = writeln!(
            text,
            "(func $realloc (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) {})",
            self.realloc
        );
        for (key, function) in functions(resolve, world.exports.iter()) {
            self.exported(&mut text, resolve, key, function);
        }
        text.push_str(&self.fields);
        text.push(')');
        text
    }

    fn exported(&self, text: &mut String, resolve: &Resolve, key: &WorldKey, function: &Function) {
        let signature = resolve.wasm_signature(AbiVariant::GuestExport, function);
        let name = resolve.wasm_export_name(
            ManglingAndAbi::Legacy(LiftLowerAbi::Sync),
            WasmExport::Func {
                interface: Some(key),
                func: function,
                kind: WasmExportKind::Normal,
            },
        );
        let _ = write!(text, "(func ${} (export \"{name}\")", function.name);
        parameters(text, &signature);
        let body = match self.bodies.get(&*function.name) {
            Some(body) => body.clone(),
            None if function.name == "describe" => {
                let data = Layout::new(resolve).lower(
                    &function.result.expect("it describes something"),
                    &self.described,
                    DESCRIPTION,
                );
                assert!(data.len() < (OWN - DESCRIPTION) as usize);
                let data: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
                let body = format!("i32.const {DESCRIPTION}");
                let _ = writeln!(
                    text,
                    " {body})\n(data (i32.const {DESCRIPTION}) \"{data}\")"
                );
                return;
            }
            None if signature.retptr => format!("i32.const {ZERO}"),
            None => match signature.results.first() {
                Some(ty) => format!("{}.const 0", name_of(*ty)),
                None => String::new(),
            },
        };
        let _ = writeln!(text, " {body})");
    }
}

/// Returns a loop that ends only if the component is ended.
pub fn for_ever(body: &str) -> String {
    format!("(loop $for-ever {body} br $for-ever)")
}

/// Returns a loop of this many rounds; the function has to have a local `$round`.
pub fn rounds(count: u32, body: &str) -> String {
    format!(
        "i32.const {count} local.set $round
         (loop $rounds {body}
           local.get $round i32.const 1 i32.sub local.tee $round br_if $rounds)"
    )
}

fn functions<'a>(
    resolve: &'a Resolve,
    items: impl Iterator<Item = (&'a WorldKey, &'a WorldItem)>,
) -> impl Iterator<Item = (&'a WorldKey, &'a Function)> {
    items.flat_map(|(key, item)| {
        let interface = match item {
            WorldItem::Interface { id, .. } => Some(*id),
            _ => None,
        };
        let functions = interface.map(|id| resolve.interfaces[id].functions.values());
        functions.into_iter().flatten().map(move |f| (key, f))
    })
}

fn import(text: &mut String, resolve: &Resolve, key: &WorldKey, function: &Function) {
    let signature = resolve.wasm_signature(AbiVariant::GuestImport, function);
    let (module, name) = resolve.wasm_import_name(
        ManglingAndAbi::Legacy(LiftLowerAbi::Sync),
        WasmImport::Func {
            interface: Some(key),
            func: function,
        },
    );
    // `write` is a function of two interfaces.
    let own = match (module.contains("/log"), &*function.name) {
        (true, "write") => "log",
        (_, "map-window") if function.params.len() == 3 => "map-window-with-access",
        (_, name) => name,
    };
    let _ = write!(text, "(import \"{module}\" \"{name}\" (func ${own}");
    parameters(text, &signature);
    text.push_str("))\n");
}

fn parameters(text: &mut String, signature: &WasmSignature) {
    for (keyword, types) in [("param", &signature.params), ("result", &signature.results)] {
        for ty in types {
            let _ = write!(text, " ({keyword} {})", name_of(*ty));
        }
    }
}

fn name_of(ty: WasmType) -> &'static str {
    match ty {
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
    }
}

/// Appends a module that has memory of its own to a component.
fn append_module(component: &mut Vec<u8>) {
    let module = wat::parse_str("(module (memory 1) (data (i32.const 0) \"x\"))");
    let module = module.expect("it parses");
    component.push(1); // The id of a module section.
    let mut length = module.len();
    while length >= 0x80 {
        component.push(length as u8 | 0x80);
        length >>= 7;
    }
    component.push(length as u8);
    component.extend(module);
}
