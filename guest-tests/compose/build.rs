//! Builds the testbed and the runner.

use anyhow::Result;
use manatee_wasm_build::Crate;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let testbed = Crate {
        package: "manatee-testbed",
        features: &[],
        build: None,
        inputs: &[
            "component/kit",
            "guest-tests/testbed",
            "guest-tests/wit",
            "guest-tests/world",
            "wit",
        ],
    };
    testbed.build("testbed.wasm")?;
    let runner = Crate {
        package: "manatee-runner",
        features: &[],
        build: None,
        inputs: &[
            "component/kit",
            "component/wire",
            "guest-tests/conformance",
            "guest-tests/runner",
            "guest-tests/wit",
            "guest-tests/world",
            "wit",
        ],
    };
    runner.build("runner.wasm")
}
