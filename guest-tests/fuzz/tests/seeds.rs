//! Runs every seed, and every input that once found something.

use std::path::Path;

/// Runs a target on its seeds, and on parts of them.
fn seeds(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(name);
    let files = std::fs::read_dir(&folder).expect("each target has a folder of seeds");
    let mut count = 0;
    for file in files {
        let data = std::fs::read(file.expect("a file").path()).expect("it can be read");
        target(&data);
        for length in (0..data.len()).step_by(data.len() / 8 + 1) {
            target(&data[..length]);
        }
        count += 1;
    }
    assert!(count > 0, "there are no seeds in {}", folder.display());
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                seeds(stringify!($name), manatee_fuzz::$name::run);
            }
        )*
    };
}

targets!(control device direct_abi frames racing snapshot state vfio_user);

/// The folder has states of the builds that wrote them, including the current one.
#[test]
fn states_of_this_build_are_seeds_too() {
    manatee_fuzz::state::run(&manatee_fuzz::state::seed());
    manatee_fuzz::snapshot::run(&manatee_fuzz::snapshot::seed());
}
