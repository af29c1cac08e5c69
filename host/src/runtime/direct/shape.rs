//! Which components can be called directly.

use std::ops::Range;

use wasmparser::{Parser, Payload, Result};

#[derive(PartialEq)]
enum Kind {
    Module,
    Component,
}

/// A module inside a component.
#[derive(Default)]
struct Inner {
    bytes: Range<usize>,
    /// It has memory, globals or code that runs by itself: it may be a program.
    has_state: bool,
}

/// Returns the one module that a component is made of. There may be others without state, such as
/// those that `wasm-tools component new` adds to forward imports. Such a component's functions
/// are those of the module with the same names.
pub fn module_of(component: &[u8]) -> Option<&[u8]> {
    let inner = modules(component).ok()??;
    let mut programs = inner.into_iter().filter(|module| module.has_state);
    let (only, more) = (programs.next()?, programs.next());
    component.get(only.bytes).filter(|_| more.is_none())
}

/// Returns the modules of a component; None if a nested component has modules too.
fn modules(component: &[u8]) -> Result<Option<Vec<Inner>>> {
    let mut modules: Vec<Inner> = Vec::new();
    // The enclosing components and modules, outermost first.
    let mut inside = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::ModuleSection {
                unchecked_range, ..
            } => {
                if !inside.is_empty() {
                    return Ok(None);
                }
                inside.push(Kind::Module);
                modules.push(Inner {
                    bytes: unchecked_range,
                    has_state: false,
                });
            }
            Payload::ComponentSection { .. } => inside.push(Kind::Component),
            Payload::End(_) => _ = inside.pop(),
            Payload::MemorySection(_)
            | Payload::GlobalSection(_)
            | Payload::DataSection(_)
            | Payload::StartSection { .. }
                if inside == [Kind::Module] =>
            {
                if let Some(module) = modules.last_mut() {
                    module.has_state = true;
                }
            }
            _ => {}
        }
    }
    Ok(Some(modules))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "(core module (memory 1))";
    const PLUMBING: &str = r#"(core module (import "" "0" (func)) (table 1 funcref))"#;

    fn has_one(parts: &[&str]) -> bool {
        let text = format!("(component {})", parts.concat());
        module_of(&wat::parse_str(text).unwrap()).is_some()
    }

    #[test]
    fn components_of_one_program_are_recognised() {
        assert!(has_one(&[PROGRAM]));
        assert!(has_one(&[PLUMBING, PROGRAM, PLUMBING]));
        assert!(!has_one(&[PLUMBING]));
        assert!(!has_one(&[PROGRAM, PROGRAM]));
        let inside = format!("(component {PROGRAM})");
        assert!(!has_one(&[&inside]));
        assert!(!has_one(&[PROGRAM, &inside]));
        assert!(has_one(&[PROGRAM, "(component)"]));
        assert_eq!(module_of(b"\0asm"), None);
    }

    #[test]
    fn what_is_found_is_the_module() {
        let program = wat::parse_str("(module (memory 1))").unwrap();
        let component = wat::parse_str(format!("(component {PROGRAM})")).unwrap();
        assert_eq!(module_of(&component), Some(&*program));
    }
}
