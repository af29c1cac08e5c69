use super::*;

/// A component that exports nothing and imports nothing.
const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

fn verdicts(limits: &SuiteLimits) -> (bool, Vec<Verdict>) {
    let mut verdicts = Vec::new();
    let every = select(&[]).unwrap();
    let met = check(
        manatee_component::BYTES,
        "the embedded component",
        &every,
        limits,
        |verdict| verdicts.push(verdict.clone()),
    );
    (met.unwrap(), verdicts)
}

#[test]
fn the_embedded_component_passes() {
    let limits = SuiteLimits {
        requirement: Duration::from_secs(60),
        total: Duration::from_secs(600),
        ..SuiteLimits::default()
    };
    let (met, verdicts) = verdicts(&limits);
    let missed: Vec<_> = verdicts
        .iter()
        .filter(|verdict| verdict.missed.is_some())
        .collect();
    assert!(met && missed.is_empty(), "{missed:#?}");
    assert_eq!(verdicts.len(), requirements().count());
}

#[test]
fn requirements_after_the_time_limit_are_missed() {
    let limits = SuiteLimits {
        total: Duration::ZERO,
        ..SuiteLimits::default()
    };
    let (met, verdicts) = verdicts(&limits);
    assert!(!met);
    let text = verdicts[0].missed.as_deref().unwrap();
    assert!(text.starts_with("not run"), "{text}");
}

#[test]
fn components_that_are_no_device_are_refused_by_name() {
    let requirements = select(&[]).unwrap();
    for (bytes, expected) in [(&b"MZ"[..], "not WebAssembly"), (EMPTY, "does not export")] {
        let refused = check(
            bytes,
            "new.wasm",
            &requirements,
            &SuiteLimits::default(),
            |_| {},
        );
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("new.wasm"), "{text}");
    }
}

#[test]
fn names_select() {
    let first = requirements().next().unwrap().name;
    let selected = select(&[first.to_owned()]).unwrap();
    assert!(
        selected
            .iter()
            .all(|requirement| requirement.name.contains(first))
    );
    assert!(select(&["no such requirement".to_owned()]).is_err());
}
