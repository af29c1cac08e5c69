//! Saved states: those of released versions, and hostile ones.

mod hostile;
mod lies;

use std::path::Path;

use device_kit::Adapter;
use device_kit::envelope::RestoreError;
use manatee_conformance::native::{World, configured};
use manatee_device::Device;
use manatee_device::state::{Pages, State};

/// Queue pairs of each port.
const PAIRS: u16 = 4;
/// Work queues in the states of released versions. Their windows are mapped before they
/// are used.
const WORK_QUEUES: usize = 6;

fn fresh(ports: u32) -> Device<World> {
    let world = World {
        with_windows: true,
        ..World::with_ports(ports, PAIRS)
    };
    configured(world)
}

/// Returns the state of each released version, by its file's name.
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
        let tree: serde_json::Value = serde_json::from_slice(&device.inspect()).expect("JSON");
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
fn a_state_is_restored_first_or_after_an_older_one() {
    let (_, state) = released().remove(0);
    let mut device = fresh(2);
    device.restore(&state).expect("a state");
    device.restore(&state).expect("a newer one");
    device.service();
    assert_eq!(device.restore(&state), Err(RestoreError::NotConfigured));
    let mut portless = Device::new(World::default());
    assert_eq!(portless.restore(&state), Err(RestoreError::NotConfigured));
}

#[test]
fn a_newer_state_reuses_the_windows_of_an_older_one() {
    let (_, state) = released().remove(0);
    let mut device = fresh(2);
    device.restore(&state).expect("a state");
    let World { windows, laid, .. } = *device.platform();
    assert_eq!((windows, laid), (WORK_QUEUES, WORK_QUEUES));
    device.restore(&state).expect("a newer one");
    let World { windows, laid, .. } = *device.platform();
    assert_eq!((windows, laid), (WORK_QUEUES, WORK_QUEUES));
    assert!(device.save() == state);
}

#[test]
fn a_newer_state_without_queues_unmaps_all_windows() {
    let (_, state) = released().remove(0);
    let idle = fresh(2).save();
    let mut device = fresh(2);
    device.restore(&state).expect("a state");
    device.restore(&idle).expect("a newer one");
    assert_eq!(device.platform().windows, 0);
    assert!(device.save() == idle);
    // And in the other order.
    device.restore(&state).expect("one more");
    assert_eq!(device.platform().windows, WORK_QUEUES);
    assert!(device.save() == state);
}

#[test]
fn windows_of_an_older_state_make_room() {
    let (_, state) = released().remove(0);
    let mut newer = State::from_bytes(&state).expect("a state");
    // The driver recreated one send queue, of other pages.
    let pages = newer.queues.sqs[1].pages.addresses().len() as u64;
    let others: Vec<u64> = (0..pages).map(|page| (page + 0x100) << 12).collect();
    newer.queues.sqs[1].pages = Pages::from_addresses(&others);
    let newer = newer.to_bytes();
    let mut device = fresh(2);
    device.platform().window_limit = Some(WORK_QUEUES);
    device.restore(&state).expect("a state");
    device.restore(&newer).expect("a newer one");
    assert_eq!(device.platform().windows, WORK_QUEUES);
    assert!(device.save() == newer);
}

#[test]
fn what_earlier_builds_did_not_save_comes_back() {
    let (_, state) = released().remove(0);
    let mut newer = State::from_bytes(&state).expect("a state");
    newer.queues.cqs[1].room = Some(5);
    newer.queues.sqs[1].announced = Some(true);
    let bytes = newer.to_bytes();
    let mut device = fresh(2);
    device.restore(&bytes).expect("a state");
    assert!(device.save() == bytes);

    newer.queues.cqs[1].room = Some(1 << 20);
    let refused = fresh(2).restore(&newer.to_bytes());
    assert!(
        matches!(refused, Err(RestoreError::Malformed(_))),
        "{refused:?}"
    );
}

#[test]
fn a_newer_state_that_is_refused_leaves_nothing_of_the_older() {
    let (_, state) = released().remove(0);
    let mut device = fresh(2);
    let before = device.save();
    device.restore(&state).expect("a state");
    device.restore(&state[1..]).expect_err("no state");
    assert_eq!(device.platform().windows, 0);
    let mut after = fresh(2);
    after.restore(&device.save()).expect("a state");
    assert!(after.save() == before);
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
