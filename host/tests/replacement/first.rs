//! The device of contract 0.1.0, which still runs and is replaced by the current one.

use manatee::component::Component;
use manatee_conformance::driver::Driver;
use manatee_conformance::guest::Unwired;
use sha2::{Digest, Sha256};

use super::{NO_PROBATION, component, echo, machine};

fn first() -> Component {
    component(manatee_variants::FIRST, "device-0.1.0.wasm")
}

#[test]
fn the_bytes_of_the_first_contract_are_kept() {
    let digest = Sha256::digest(manatee_variants::FIRST);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, manatee_variants::FIRST_DIGEST);
    assert_eq!(first().exports(), ["manatee:device/device@0.1.0"]);
}

#[test]
fn a_device_of_the_first_contract_is_replaced_under_traffic_and_comes_back() {
    let mut machine = Unwired(machine(&first()));
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    let windows = || device.inspect()["runtime"]["linear_memory"]["windows"].clone();
    let now = Component::embedded().unwrap();
    for _ in 0..3 {
        echo(&mut driver, &mut vport).unwrap();
        assert_eq!(windows(), 0, "it works by copies");
        device.swap(&now, NO_PROBATION).unwrap();
        echo(&mut driver, &mut vport).unwrap();
        assert_ne!(windows(), 0);
        device.rollback().unwrap();
    }
    echo(&mut driver, &mut vport).unwrap();
    assert_eq!(device.inspect()["runtime"]["failures"], 0);
}
