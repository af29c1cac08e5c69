//! Components of the right type whose every function misbehaves.

use manatee::component::Component;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

/// The behaviour of every exported function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Traps.
    Trap,
    /// Never returns.
    Loop,
    /// Returns an invalid pointer.
    Nonsense,
}

/// Returns a component of the world with this behaviour.
pub fn component(behaviour: Behaviour) -> Component {
    let mut resolve = Resolve::default();
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");
    let (package, _) = resolve.push_path(wit).expect("the WIT world parses");
    let world = resolve
        .select_world(&[package], Some("adapter"))
        .expect("there is a world");
    let abi = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);
    let module = dummy_module(&resolve, world, abi);
    let text = wasmprinter::print_bytes(&module).expect("a module can be printed");
    let body = match behaviour {
        Behaviour::Trap => "unreachable",
        Behaviour::Loop => "loop br 0 end unreachable",
        Behaviour::Nonsense => "i32.const -4 return unreachable",
    };
    let text = if behaviour == Behaviour::Nonsense {
        nonsense(&text, body)
    } else {
        text.replace("unreachable", body)
    };
    let mut module = wat::parse_str(&text).expect("the changed module parses");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("the world can be embedded");
    let bytes = ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .expect("the module is a component of the world");
    Component::from_bytes(&bytes, "a faulty component").expect("it has the right type")
}

/// Replaces the bodies of functions that return an i32, such as `describe`, whose result
/// is the address of a record.
fn nonsense(text: &str, body: &str) -> String {
    let mut changed = String::new();
    let mut returns_i32 = false;
    for line in text.lines() {
        if line.trim_start().starts_with("(func ") {
            returns_i32 = line.contains("(result i32)");
        }
        if returns_i32 && line.trim() == "unreachable" {
            changed.push_str(body);
        } else {
            changed.push_str(line);
        }
        changed.push('\n');
    }
    changed
}
