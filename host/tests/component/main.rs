//! Invalid components are refused with a reason, and misbehaving ones contained.

mod faulty;

use std::path::Path;
use std::time::{Duration, Instant};

use faulty::{Behaviour, component};
use manatee::component::{Component, ComponentError};
use manatee::device::{Device, DeviceError, Limits, Port};
use manatee::endpoint::Null;
use manatee::interrupt::{Interrupts, VectorSink};

struct Nowhere;

impl VectorSink for Nowhere {
    fn raise(&self, _vector: u16) {}
}

fn port() -> Port {
    Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 1000,
        endpoint: Box::new(Null::new()),
    }
}

fn device(component: &Component, limits: Limits) -> Result<Device, DeviceError> {
    let interrupts = Interrupts::Vectors(Box::new(Nowhere));
    Device::builder(component)
        .port(port())
        .limits(limits)
        .build(interrupts)
}

fn refusal(bytes: &[u8]) -> ComponentError {
    Component::from_bytes(bytes, "x.wasm").expect_err("this must not be accepted as a device")
}

#[test]
fn the_shipped_component_imports_the_world_and_nothing_else() {
    let component = Component::embedded().unwrap();
    for import in component.imports() {
        assert!(import.starts_with("manatee:device/"), "{import}");
    }
    assert_eq!(component.exports(), ["manatee:device/device@0.2.0"]);
    let description = component.describe().unwrap();
    assert_eq!(description.pci.vendor_id, 0x1414);
    assert_eq!(description.pci.device_id, 0x00ba);
}

#[test]
fn the_shipped_component_is_called_in_its_module_and_inspect_says_so() {
    let calls = |component: &Component, limits| {
        let device = device(component, limits).unwrap();
        device.inspect()["component"]["calls"].clone()
    };
    let shipped = Component::embedded().unwrap();
    let direct = Limits::default();
    assert_eq!(calls(&shipped, direct)["by"], "module");
    let model = Limits {
        direct: false,
        ..direct
    };
    let told = calls(&shipped, model);
    assert_eq!(told["by"], "component model");
    assert_eq!(told["because"], "the limits say so");
    // The first contract is called through the component model only.
    let first = Component::from_bytes(manatee_variants::FIRST, "first.wasm").unwrap();
    let told = calls(&first, direct);
    assert_eq!(told["by"], "component model", "{told}");
    assert!(!told["because"].as_str().unwrap().is_empty(), "{told}");
}

#[test]
fn a_file_that_is_missing_is_named() {
    let error = Component::from_file(Path::new("/nonexistent/x.wasm")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/x.wasm"), "{error}");
}

#[test]
fn other_files_are_refused_with_the_way_out() {
    assert!(matches!(
        refusal(b"#!/bin/sh\n"),
        ComponentError::NotWasm(_)
    ));
    assert!(matches!(refusal(b""), ComponentError::NotWasm(_)));
    let module = wat::parse_str("(module)").unwrap();
    assert!(matches!(refusal(&module), ComponentError::CoreModule(_)));
    let mut damaged = wat::parse_str("(component)").unwrap();
    damaged.extend([99; 20]);
    assert!(matches!(refusal(&damaged), ComponentError::Invalid { .. }));
    let empty = wat::parse_str("(component)").unwrap();
    let error = refusal(&empty);
    assert!(matches!(error, ComponentError::NoDevice(_)));
    assert!(
        error.to_string().contains("manatee:device/device"),
        "{error}"
    );
}

#[test]
fn an_import_outside_the_world_is_named() {
    let greedy = r#"(component
        (import "wasi:filesystem/preopens@0.2.0" (instance))
    )"#;
    let error = refusal(&wat::parse_str(greedy).unwrap());
    assert!(matches!(error, ComponentError::ForeignImport { .. }));
    let text = error.to_string();
    assert!(text.contains("wasi:filesystem/preopens@0.2.0"), "{text}");
    assert!(text.contains("guest-memory"), "{text}");
}

#[test]
fn an_export_of_another_type_is_a_mismatch() {
    let other = r#"(component
        (instance $i)
        (export "manatee:device/device@0.2.0" (instance $i))
    )"#;
    let error = refusal(&wat::parse_str(other).unwrap());
    assert!(matches!(error, ComponentError::Mismatch { .. }), "{error}");
}

#[test]
fn a_component_that_traps_is_an_error_with_a_reason() {
    let component = component(Behaviour::Trap);
    let error = component.describe().unwrap_err();
    assert!(matches!(error, ComponentError::Failed(_)));
    assert!(error.to_string().contains("unreachable"), "{error}");
    assert!(device(&component, Limits::default()).is_err());
}

#[test]
fn a_component_that_never_returns_is_ended() {
    let component = component(Behaviour::Loop);
    let before = Instant::now();
    let error = component.describe().unwrap_err();
    assert!(matches!(error, ComponentError::Failed(_)), "{error}");
    // Not a measurement: without a deadline it would take for ever.
    assert!(before.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_component_whose_memory_is_beyond_the_limit_is_refused() {
    let component = Component::embedded().unwrap();
    let limits = Limits {
        memory: 64 << 10,
        ..Limits::default()
    };
    let error = device(&component, limits).unwrap_err();
    assert!(matches!(error, DeviceError::Failed(_)), "{error}");
}

#[test]
fn nonsense_in_an_answer_ends_the_instance_only() {
    let component = component(Behaviour::Nonsense);
    let error = component.describe().unwrap_err();
    assert!(
        matches!(
            error,
            ComponentError::Failed(_) | ComponentError::Description { .. }
        ),
        "{error}"
    );
    // The process and its other devices continue.
    let healthy = Component::embedded().unwrap();
    let device = device(&healthy, Limits::default()).unwrap();
    let mut id = [0; 4];
    device.config_read(0, &mut id);
    assert_eq!(u32::from_le_bytes(id), 0x00ba_1414);
}

#[test]
fn ports_that_make_no_sense_are_refused() {
    let component = Component::embedded().unwrap();
    let make = |ports| {
        Device::new(&component, ports, Interrupts::Vectors(Box::new(Nowhere)))
            .expect_err("these ports must be refused")
            .to_string()
    };
    assert!(make(vec![]).contains("1 to 256"));
    let multicast = Port {
        mac: [1, 0, 0, 0, 0, 1],
        ..port()
    };
    assert!(make(vec![port(), multicast]).contains("port 1: MAC address 01:00:00:00:00:01"));
    let short = Port { mtu: 67, ..port() };
    assert!(make(vec![short]).contains("MTU 67"));
    let many = (0..257).map(|_| port()).collect();
    assert!(make(many).contains("257 ports"));
}
