//! Generates the layout of the contract's types in the canonical ABI.
//!
//! Each record becomes a module with its size, its alignment and the offsets of its fields
//! in bytes; each enum and variant one with the numbers of its cases; and each result of a
//! function one named after it. A field or result that is an option, a result or
//! a variant also has the offset of its payload.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use wit_parser::{Int, Resolve, SizeAlign, Type, TypeDef, TypeDefKind, WorldItem};

/// Returns the modules as Rust.
///
/// # Errors
///
/// The contract does not parse.
pub fn generate(wit: &Path) -> Result<String, Box<dyn Error>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit)?;
    let mut sizes = SizeAlign::default();
    sizes.fill(&resolve);
    let mut generator = Generator {
        resolve: &resolve,
        sizes: &sizes,
        text: String::new(),
    };
    for (id, ty) in resolve.types.iter() {
        // Types that an interface imports from another have their module there.
        if let (Some(name), false) = (&ty.name, matches!(ty.kind, TypeDefKind::Type(_))) {
            generator.named(name, Type::Id(id), ty)?;
        }
    }
    let world = resolve.select_world(&[package], Some("adapter"))?;
    let world = &resolve.worlds[world];
    for item in world.imports.values().chain(world.exports.values()) {
        let WorldItem::Interface { id, .. } = item else {
            continue;
        };
        for function in resolve.interfaces[*id].functions.values() {
            if let Some(result) = function.result {
                let name = format!("{}-returns", function.name);
                generator.module(&name, result, &[])?;
            }
        }
    }
    Ok(generator.text)
}

struct Generator<'a> {
    resolve: &'a Resolve,
    sizes: &'a SizeAlign,
    text: String,
}

impl Generator<'_> {
    fn named(&mut self, name: &str, own: Type, ty: &TypeDef) -> Result<(), std::fmt::Error> {
        let mut constants = Vec::new();
        match &ty.kind {
            TypeDefKind::Record(record) => {
                let types = record.fields.iter().map(|field| &field.ty);
                let offsets = self.sizes.field_offsets(types);
                for (field, (offset, _)) in record.fields.iter().zip(offsets) {
                    let offset = offset.size_wasm32();
                    constants.push((upper(&field.name), offset));
                    if let Some(payload) = self.payload(field.ty) {
                        let name = format!("{}_PAYLOAD", upper(&field.name));
                        constants.push((name, offset + payload));
                    }
                }
            }
            TypeDefKind::Enum(cases) => {
                let names = cases.cases.iter().map(|case| upper(&case.name));
                constants.extend(names.zip(0..));
            }
            TypeDefKind::Variant(cases) => {
                let names = cases.cases.iter().map(|case| upper(&case.name));
                constants.extend(names.zip(0..));
            }
            _ => return Ok(()),
        }
        self.module(name, own, &constants)
    }

    fn module(
        &mut self,
        name: &str,
        own: Type,
        constants: &[(String, usize)],
    ) -> Result<(), std::fmt::Error> {
        let size = self.sizes.size(&own).size_wasm32();
        let align = self.sizes.align(&own).align_wasm32();
        writeln!(self.text, "pub mod {} {{", name.replace('-', "_"))?;
        writeln!(self.text, "    pub const SIZE: usize = {size};")?;
        writeln!(self.text, "    pub const ALIGN: u32 = {align};")?;
        if let Some(payload) = self.payload(own) {
            writeln!(self.text, "    pub const PAYLOAD: usize = {payload};")?;
        }
        for (name, value) in constants {
            writeln!(self.text, "    pub const {name}: usize = {value};")?;
        }
        self.text.push_str("}\n");
        Ok(())
    }

    /// Returns the offset of the payload of an option, a result or a variant.
    fn payload(&self, ty: Type) -> Option<usize> {
        let Type::Id(id) = ty else {
            return None;
        };
        let offset = match &self.resolve.types[id].kind {
            TypeDefKind::Option(some) => self.sizes.payload_offset(Int::U8, [Some(some)]),
            TypeDefKind::Result(result) => {
                let cases = [result.ok.as_ref(), result.err.as_ref()];
                self.sizes.payload_offset(Int::U8, cases)
            }
            TypeDefKind::Variant(variant) => {
                let cases = variant.cases.iter().map(|case| case.ty.as_ref());
                self.sizes.payload_offset(variant.tag(), cases)
            }
            _ => return None,
        };
        Some(offset.size_wasm32())
    }
}

/// Returns the name of a field's or case's constant. A few names are taken by constants of the
/// whole type.
fn upper(name: &str) -> String {
    let name = name.replace('-', "_").to_uppercase();
    match &*name {
        "SIZE" | "ALIGN" | "PAYLOAD" => name + "_FIELD",
        _ => name,
    }
}
