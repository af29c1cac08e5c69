//! Holds the offsets that the direct runtime was written with against the contract.

use wit_parser::{Resolve, SizeAlign, Type, TypeDefKind};

/// Size, alignment and, for records, offsets of the fields of a type of the contract.
fn layout(resolve: &Resolve, sizes: &SizeAlign, name: &str) -> (usize, usize, Vec<usize>) {
    let (id, ty) = resolve
        .types
        .iter()
        .find(|(_, ty)| ty.name.as_deref() == Some(name))
        .unwrap_or_else(|| panic!("the contract has no type {name}"));
    let own = Type::Id(id);
    let (size, align) = (
        sizes.size(&own).size_wasm32(),
        sizes.align(&own).align_wasm32(),
    );
    let offsets = match &ty.kind {
        TypeDefKind::Record(record) => {
            let types = record.fields.iter().map(|field| &field.ty);
            let offsets = sizes.field_offsets(types).into_iter();
            offsets.map(|(offset, _)| offset.size_wasm32()).collect()
        }
        _ => Vec::new(),
    };
    (size, align, offsets)
}

#[test]
fn records_lie_where_the_direct_runtime_looks_for_them() {
    let mut resolve = Resolve::default();
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");
    resolve.push_path(wit).expect("the contract parses");
    let mut sizes = SizeAlign::default();
    sizes.fill(&resolve);
    let expected: [(&str, usize, usize, &[usize]); 14] = [
        ("tx-packet", 16, 4, &[0, 4, 6, 8, 10, 12]),
        ("segment", 16, 8, &[0, 8]),
        ("rx-buffer", 8, 4, &[0, 4]),
        ("rx-packet", 16, 4, &[0, 4, 8, 10, 12]),
        ("tx-completion", 8, 4, &[0, 4]),
        ("transmit-result", 40, 8, &[0, 8, 16, 24, 32]),
        ("description", 72, 4, &[0, 16, 32, 40, 44, 48, 56, 64]),
        ("pci-identity", 16, 4, &[0, 2, 4, 6, 8, 12]),
        ("bar", 16, 8, &[0, 8]),
        ("doorbells", 32, 8, &[0, 8, 16, 24]),
        ("port-config", 24, 8, &[0, 8, 20]),
        ("link", 12, 4, &[0, 4, 8]),
        ("register-write", 24, 8, &[0, 8, 16]),
        ("handed-over", 12, 4, &[0, 4, 8]),
    ];
    for (name, size, align, offsets) in expected {
        assert_eq!(
            layout(&resolve, &sizes, name),
            (size, align, offsets.to_vec()),
            "{name}"
        );
    }
    assert_eq!(layout(&resolve, &sizes, "restore-error").0, 12);
    assert_eq!(layout(&resolve, &sizes, "features").0, 1);
}
