//! Descriptions of failures.

use wasmtime::{Engine, Linker, Module, Store};

use super::*;

/// Returns the failure of a module whose only function has this name.
fn failure(name: &str) -> Failure {
    let engine = Engine::default();
    let mut binary = wat::parse_str("(module (func $x (export \"f\") unreachable))").unwrap();
    let begin = binary
        .windows(4)
        .position(|bytes| bytes == b"name")
        .unwrap()
        - 3;
    binary.truncate(begin);
    let map = [&[1, 0][..], &leb(name.len()), name.as_bytes()].concat();
    let section = [b"\x04name\x01", &leb(map.len())[..], &map].concat();
    binary.push(0);
    binary.extend(leb(section.len()));
    binary.extend(section);
    let module = Module::new(&engine, binary).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &module);
    let function = instance.unwrap().get_typed_func::<(), ()>(&mut store, "f");
    let error = function.unwrap().call(&mut store, ()).unwrap_err();
    Failure::new(&error)
}

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = number > 0x7f;
        bytes.push(number as u8 & 0x7f | u8::from(more) << 7);
        number >>= 7;
        if !more {
            return bytes;
        }
    }
}

#[test]
fn failure_names_the_trap_and_the_function() {
    let failure = failure("ring::doorbell");
    let summary = failure.summary();
    assert!(summary.starts_with("wasm trap: "), "{summary}");
    assert!(summary.contains("unreachable"), "{summary}");
    assert!(
        summary.contains(", in <unknown>!ring::doorbell at 0x"),
        "{summary}"
    );
    assert_eq!(*failure.reason, *summary, "it has no caller");
}

#[test]
fn failure_is_one_clean_line_whatever_functions_are_called() {
    for name in [
        "f\n2026-11-26T14:00:00Z  INFO all is well".to_owned(),
        "f\u{202e}\u{9b}31m\u{2028}".to_owned(),
        "f\n\nCaused by:\n    0: nothing\n".repeat(1000),
        "x".repeat(90_000),
    ] {
        let failure = failure(&name);
        for text in [
            failure.reason.to_string(),
            failure.summary(),
            failure.to_string(),
        ] {
            assert!(text.len() <= MAX_LINE + 64, "{} bytes", text.len());
            assert!(text.contains("wasm trap"), "{text}");
            assert_eq!(
                manatee_common::ration::clean(text.as_bytes(), 2 * MAX_LINE),
                text
            );
        }
    }
    let failure = Failure::because(&"a\nb".repeat(1000));
    assert!(failure.reason.len() <= MAX_LINE && !failure.reason.contains('\n'));
}
