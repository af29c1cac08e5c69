//! Modules that violate the canonical ABI, which ends the instance and has no other effect.

use wasmtime::{Module, Store};

use super::{instantiate, linker};
use crate::contract::{ConfigureError, Features, Link, LinkState, PortConfig};
use crate::runtime::bounds;
use crate::runtime::exports::Exports;
use crate::runtime::{HostState, Limits, Runtime};

/// The functions of a module, with their types and bodies.
const FUNCTIONS: [(&str, &str, &str); 15] = [
    ("describe", "(result i32)", "unreachable"),
    (
        "configure",
        "(param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)",
        "i32.const 16",
    ),
    (
        "read-register",
        "(param i32 i64 i32) (result i64)",
        "local.get 1",
    ),
    (
        "write-register",
        "(param i32 i64 i32 i64) (result i32)",
        "i32.const 1",
    ),
    ("service", "(result i32)", "i32.const 0"),
    (
        "received",
        "(param i32 i32 i32 i32) (result i32)",
        "i32.const 0",
    ),
    (
        "transmitted",
        "(param i32 i32 i32 i32) (result i32)",
        "i32.const 0",
    ),
    ("link-changed", "(param i32 i32 i32 i32)", ""),
    ("windows-changed", "(param i32 i32 i32)", ""),
    ("reset", "", ""),
    ("save", "(result i32)", "i32.const 32"),
    ("restore", "(param i32 i32) (result i32)", "i32.const 48"),
    (
        "recover",
        "(param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)",
        "i32.const 16",
    ),
    ("announce", "(param i32)", ""),
    ("inspect", "(result i32)", "i32.const 32"),
];

/// Returns memory after the data in use.
const REALLOC: &str = "i32.const 1024";

/// Zeros at 16: a successful result. At 32 a list: `state`. At 48 the refusal
/// `version(7)`.
const DATA: &str = r#"(data (i32.const 32) "\40\00\00\00\05\00\00\00")
    (data (i32.const 48) "\01\00\00\00\01\00\00\00\07\00\00\00")
    (data (i32.const 64) "state")"#;

/// Returns a valid module with some functions' bodies replaced.
fn module(changes: &[(&str, &str)]) -> String {
    let changed = |name: &str, body: &'static str| {
        let change = changes.iter().find(|(of, _)| *of == name);
        change.map_or(body.to_owned(), |(_, body)| (*body).to_owned())
    };
    let functions = FUNCTIONS.map(|(name, signature, body)| {
        let body = changed(name, body);
        format!("(func (export \"manatee:device/device@0.2.0#{name}\") {signature} {body})")
    });
    let realloc = changed("cabi_realloc", REALLOC);
    format!(
        r#"(module
            (import "manatee:device/guest-memory@0.2.0" "read"
                (func $read (param i64 i32 i32)))
            (import "manatee:device/guest-memory@0.2.0" "map-window"
                (func $map (param i32 i32 i32 i32 i32)))
            (import "manatee:device/guest-memory@0.2.0" "reserve-arena"
                (func $arena (param i32 i32 i32)))
            (import "manatee:device/interrupts@0.2.0" "raise" (func $raise (param i32 i32)))
            (import "manatee:device/packet-endpoint@0.2.0" "transmit"
                (func $transmit (param i32 i32 i32 i32 i32 i32 i32)))
            (import "manatee:device/packet-endpoint@0.2.0" "post-receive"
                (func $post (param i32 i32 i32 i32 i32 i32) (result i32)))
            (import "manatee:device/log@0.2.0" "write" (func $log (param i32 i32 i32)))
            (memory (export "memory") 1)
            {DATA}
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc})
            (func (export "cabi_post_manatee:device/device@0.2.0#save") (param i32) {})
            {}
        )"#,
        changed("after save", ""),
        functions.concat()
    )
}

/// Configures a device without offering features.
fn configure(
    device: &mut dyn Exports,
    store: &mut Store<HostState>,
    ports: &[PortConfig],
) -> wasmtime::Result<Result<Features, ConfigureError>> {
    let bounds = bounds::told(&Limits::default());
    device.configure(store, Features::empty(), &bounds, ports)
}

type Made = (Store<HostState>, Box<dyn Exports>);

fn make(text: &str) -> wasmtime::Result<Made> {
    let engine = &Runtime::get().unwrap().engine;
    let module = Module::new(engine, text)?;
    let module = linker(engine)?.instantiate_pre(&module)?;
    let mut store = Store::new(engine, HostState::vacant(Limits::default()).unwrap());
    store.set_epoch_deadline(1000);
    let exports = instantiate(&module, &mut store)?;
    Ok((store, exports))
}

fn with(changes: &[(&str, &str)]) -> Made {
    make(&module(changes)).expect("a module with every function")
}

/// Returns the error of a module whose `write-register` has this body.
fn doorbell_error(body: &str) -> String {
    let (mut store, mut device) = with(&[("write-register", body)]);
    let error = device.write_register(&mut store, 0, 0, 8, 0);
    format!("{:#}", error.expect_err("this breaks a rule"))
}

#[test]
fn parameters_and_results_are_where_they_belong() {
    let (mut store, mut device) = with(&[]);
    let store = &mut store;
    assert_eq!(device.read_register(store, 0, 1 << 40, 8).unwrap(), 1 << 40);
    assert!(device.write_register(store, 0, 0, 8, 0).unwrap());
    assert!(!device.service(store).unwrap());
    assert_eq!(
        configure(&mut *device, store, &[]).unwrap(),
        Ok(Features::empty())
    );
    assert_eq!(device.save(store).unwrap(), b"state");
    let refused = device.restore(store, b"older").unwrap();
    assert_eq!(format!("{refused:?}"), "Err(Version(7))");
}

#[test]
fn a_module_that_lacks_something_is_none_of_these() {
    let whole = module(&[]);
    for part in ["\"memory\"", "\"cabi_realloc\"", "#save\") (result"] {
        let other = whole.replace(part, &part.replace('"', "\"other-").replace("#s", "#z"));
        assert_ne!(other, whole);
        assert!(make(&other).is_err(), "without {part}");
    }
    let typed = whole.replace(
        "(param i32 i64 i32) (result i64)",
        "(result i64) i64.const 0 (;",
    );
    assert!(make(&typed).is_err());
}

#[test]
fn lists_beyond_memory_or_askew_are_refused() {
    let calls = [
        "i32.const 65535 i32.const 1 call $raise",
        "i32.const 1 i32.const 0 call $raise",
        "i32.const 0x10000 i32.const 1 call $raise",
        "i32.const 0 i32.const 8 i32.const 0x10000000 i32.const 0 i32.const 0 call $map",
        "i32.const 0 i32.const 4 i32.const 1 i32.const 0 i32.const 0 call $map",
        "i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 65535 call $map",
        "i32.const 2 i32.const -1 i32.const 2 call $log",
        "i64.const 0 i32.const 8 i32.const 65530 call $read",
        "i64.const 0 i32.const 8 i32.const 3 call $read",
        "i32.const 0 i32.const 0 i32.const 2 i32.const 1 i32.const 0 i32.const 0 i32.const 0
            call $transmit",
        "i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 4 i32.const 1 i32.const 0
            call $transmit",
        "i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 65528 i32.const 1
            call $post drop",
    ];
    for call in calls {
        let error = doorbell_error(&format!("{call} i32.const 0"));
        assert!(
            error.contains("beyond linear memory")
                || error.contains("not aligned")
                || error.contains("which is more than the"),
            "{call}: {error}"
        );
    }
}

#[test]
fn invalid_arguments_are_refused() {
    let error = doorbell_error("i32.const 5 i32.const 0 i32.const 0 call $log i32.const 0");
    assert!(error.contains("level 5"), "{error}");
    let error = doorbell_error("i32.const 0 i32.const 2 call $raise i32.const 0");
    assert!(error.contains("raised 2 vectors"), "{error}");
    let error = doorbell_error(
        "i32.const 9 i32.const 0 i32.const 0 i32.const 0 i32.const 0 i32.const 0 call $post",
    );
    assert!(error.contains("port 9"), "{error}");
}

#[test]
fn results_beyond_memory_are_refused() {
    for address in ["-8", "65532", "2"] {
        let body = format!("i32.const {address}");
        let (mut store, mut device) = with(&[("save", &body), ("restore", &body)]);
        assert!(device.save(&mut store).is_err(), "{address}");
        assert!(device.restore(&mut store, b"").is_err(), "{address}");
    }
    // A list whose first byte is inside memory.
    let body = "i32.const 16 i32.const 65535 i32.store i32.const 20 i32.const 2 i32.store
        i32.const 16";
    let (mut store, mut device) = with(&[("inspect", body)]);
    assert!(device.inspect(&mut store).is_err());
    let (mut store, mut device) = with(&[("configure", "i32.const 64")]);
    let error = configure(&mut *device, &mut store, &[]).unwrap_err();
    assert!(error.to_string().contains("case 115 of result"), "{error}");
}

#[test]
fn memory_that_can_not_be_given_is_refused() {
    for realloc in [
        "i32.const -16",
        "i32.const 65530",
        "i32.const 3",
        "unreachable",
    ] {
        let (mut store, mut device) = with(&[("cabi_realloc", realloc)]);
        let ports = [PortConfig {
            mac: 2,
            link: Link {
                state: LinkState::Up,
                speed_mbps: 1,
                mtu: 1500,
            },
            queues: 1,
        }];
        assert!(
            configure(&mut *device, &mut store, &ports).is_err(),
            "{realloc}"
        );
    }
}

#[test]
fn the_host_is_not_called_while_memory_is_given_or_taken_back() {
    let call = "i32.const 0 i32.const 0 call $raise";
    let realloc = format!("{call} {REALLOC}");
    let (mut store, mut device) = with(&[("cabi_realloc", &realloc)]);
    let error = device.restore(&mut store, b"state").unwrap_err();
    assert!(
        format!("{error:#}").contains("asked for memory"),
        "{error:#}"
    );
    let (mut store, mut device) = with(&[("after save", call)]);
    let error = device.save(&mut store).unwrap_err();
    assert!(
        format!("{error:#}").contains("asked for memory"),
        "{error:#}"
    );
}
