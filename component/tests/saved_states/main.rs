//! Saved states: those of released versions, and hostile ones.

mod hostile;

use std::path::Path;

use manatee_conformance::native::{World, configured, port::Port};
use manatee_device::device::Device;
use manatee_device::saved::RestoreError;

fn fresh(ports: u32) -> Device<World> {
    let world = World {
        ports: (0..ports).map(|_| Port::default()).collect(),
        with_windows: true,
        ..World::default()
    };
    configured(world, ports)
}

/// The state of each released version, by its file's name.
fn released() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/states");
    let files = std::fs::read_dir(folder).expect("the folder of states");
    let paths = files.map(|file| file.expect("a file").path());
    paths
        .map(|path| {
            (
                path.display().to_string(),
                std::fs::read(&path).expect("a state"),
            )
        })
        .collect()
}

#[test]
fn states_of_released_versions_load_for_ever() {
    let released = released();
    assert!(!released.is_empty());
    for (name, state) in released {
        let mut device = fresh(2);
        let restored = device.restore(&state);
        assert_eq!(restored, Ok(()), "{name}");
        let tree = device.inspect();
        assert_eq!(tree["hwc"]["established"], true, "{name}");
        assert_eq!(
            tree["queues"]["sq"].as_object().map(|sqs| sqs.len()),
            Some(3)
        );
    }
}

#[test]
fn a_state_belongs_to_its_ports() {
    let (_, state) = released().remove(0);
    let error = fresh(1).restore(&state);
    assert!(matches!(error, Err(RestoreError::Mismatch(_))), "{error:?}");
}

#[test]
fn a_state_is_restored_once_and_first() {
    let (_, state) = released().remove(0);
    let mut device = fresh(2);
    device.restore(&state).expect("a state");
    assert_eq!(device.restore(&state), Err(RestoreError::NotConfigured));
    let mut portless = Device::new(World::default());
    assert_eq!(portless.restore(&state), Err(RestoreError::NotConfigured));
}

#[test]
fn a_refused_state_leaves_the_device_at_power_on() {
    let (_, state) = released().remove(0);
    let mut device = fresh(1);
    let before = device.save();
    device.restore(&state).expect_err("a state of two ports");
    device.restore(&state[1..]).expect_err("no state");
    assert!(device.save() == before);
    assert_eq!(device.platform().windows, 0);
}
