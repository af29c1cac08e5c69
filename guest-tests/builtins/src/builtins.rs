//! The builtins: a component of the host's own, which reaches the pages by
//! wasmtime's unsafe intrinsics, and is compiled into the guest's component.

use crate::guest::{Access, Check};

/// The intrinsics that the builtins use, and their types in a component and in
/// its module.
const INTRINSICS: [(&str, &str, &str); 5] = [
    ("store-data-address", "(result u64)", "(result i64)"),
    (
        "u64-native-load",
        r#"(param "pointer" u64) (result u64)"#,
        "(param i64) (result i64)",
    ),
    (
        "u64-native-store",
        r#"(param "pointer" u64) (param "value" u64)"#,
        "(param i64 i64)",
    ),
    (
        "u64-checked-native-load",
        r#"(param "base" u64) (param "offset" u64) (param "length" u64) (result u64)"#,
        "(param i64 i64 i64) (result i64)",
    ),
    (
        "u64-checked-native-store",
        r#"(param "base" u64) (param "offset" u64) (param "length" u64) (param "value" u64)"#,
        "(param i64 i64 i64 i64)",
    ),
];

/// The address of the pages, which is the first word of a store's data.
const BASE: &str = "(call $u64-native-load (call $store-data-address))";
/// Their length in bytes, which is the second word.
const LENGTH: &str = "(call $u64-native-load (i64.add (call $store-data-address) (i64.const 8)))";
/// The aligned offset, because the intrinsics require aligned addresses.
const OFFSET: &str = "(i64.extend_i32_u (i32.and (local.get $offset) (i32.const -8)))";

/// Returns code that traps unless `bytes` bytes at the offset are inside.
fn bound(bytes: usize) -> String {
    format!("(if (i64.gt_u (i64.add {OFFSET} (i64.const {bytes})) {LENGTH}) (then (unreachable)))")
}

/// Returns the functions for this way of accessing the rings.
fn functions(access: Access) -> String {
    let own = |check: String| {
        format!(
            r#"(func (export "load") (param $offset i32) (result i64)
                {check}
                (call $u64-native-load (i64.add {BASE} {OFFSET})))
            (func (export "store") (param $offset i32) (param $value i64)
                {check}
                (call $u64-native-store (i64.add {BASE} {OFFSET}) (local.get $value)))"#
        )
    };
    match access {
        Access::Window => String::new(),
        Access::Words(Check::OwnCode) => own(bound(8)),
        Access::Words(Check::Nothing) => own(String::new()),
        Access::Words(Check::Intrinsic) => format!(
            r#"(func (export "load") (param $offset i32) (result i64)
                (call $u64-checked-native-load {BASE} {OFFSET} {LENGTH}))
            (func (export "store") (param $offset i32) (param $value i64)
                (call $u64-checked-native-store {BASE} {OFFSET} {LENGTH} (local.get $value)))"#
        ),
        Access::Completions => {
            let mut parameters = String::new();
            let mut stores = String::new();
            for word in 0..8 {
                parameters += &format!("(param $w{word} i64)");
                stores += &format!(
                    "(call $u64-native-store (i64.add (local.get $address) (i64.const {})) \
                     (local.get $w{word}))",
                    8 * word
                );
            }
            format!(
                r#"{load}
                (func (export "publish") (param $offset i32) {parameters} (local $address i64)
                    {check}
                    (local.set $address (i64.add {BASE} {OFFSET}))
                    {stores})"#,
                load = own(bound(8)),
                check = bound(64),
            )
        }
    }
}

/// Returns the intrinsics as an instance's exports.
pub fn intrinsics() -> String {
    let exports = INTRINSICS
        .iter()
        .map(|(name, lifted, _)| format!(r#"(export "{name}" (func {lifted}))"#));
    exports.collect()
}

/// Returns the module with its instance, which exports the builtins, for a component
/// that has the intrinsics.
pub fn instance(access: Access) -> String {
    let (mut imports, mut lowered, mut given) = (String::new(), String::new(), String::new());
    for (name, _, core) in INTRINSICS {
        imports += &format!(r#"(import "" "{name}" (func ${name} {core}))"#);
        lowered += &format!(r#"(core func ${name} (canon lower (func $intrinsics "{name}")))"#);
        given += &format!(r#"(export "{name}" (func ${name}))"#);
    }
    format!(
        r#"(core module $reach {imports} {functions})
        {lowered}
        (core instance $builtins (instantiate $reach (with "" (instance {given}))))"#,
        functions = functions(access),
    )
}

/// Returns the component, whose exports are what the guest imports as `ring`.
pub fn component(access: Access) -> String {
    let lifts = access.builtins().into_iter().map(|(name, lifted, _)| {
        format!(r#"(func (export "{name}") {lifted} (canon lift (core func $builtins "{name}")))"#)
    });
    format!(
        r#"(component
        (import "unsafe-intrinsics" (instance $intrinsics {intrinsics}))
        {instance}
        {lifts})"#,
        intrinsics = intrinsics(),
        instance = instance(access),
        lifts = lifts.collect::<String>(),
    )
}
