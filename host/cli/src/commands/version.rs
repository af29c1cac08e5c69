//! `manatee --version`.

use manatee::component::{CONTRACTS, Component};
use manatee::continuity::{BUILD, VERSION, WRITES};
use serde_json::{Value, json};

/// Returns this build's versions.
///
/// # Errors
///
/// If the built-in component can't be loaded.
pub fn version() -> anyhow::Result<Value> {
    let component = Component::embedded()?;
    let description = component.describe()?;
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": env!("MANATEE_COMMIT"),
        "wasmtime": env!("MANATEE_WASMTIME"),
        "contracts": CONTRACTS,
        "hand_over": hand_over(),
        "component": {
            "version": String::from_utf8_lossy(&description.version.build),
            "sha256": component.digest().to_string(),
            "precompiled": component.precompiled().map(|processor| processor.to_string()),
            "saved_state": {
                "writes": description.saved_state_writes,
                "reads": description.saved_state_reads,
            },
        },
    }))
}

/// Returns the version of the state that it hands over to other processes, the newest that it
/// reads, and that it can be started while its predecessor serves.
fn hand_over() -> Value {
    json!({ "writes": WRITES, "reads": VERSION, "stands_by": true })
}

/// Prints what a keeper needs to know of this build, without loading its component.
pub fn print_facts() -> anyhow::Result<()> {
    let facts = json!({ "version": BUILD, "hand_over": hand_over() });
    super::output::print(&format!("{facts}\n"))
}

/// Prints this build's versions.
pub fn run(json: bool) -> anyhow::Result<()> {
    let version = version()?;
    if json {
        return super::output::print(&format!("{version:#}\n"));
    }
    super::output::print(&as_text(&version))
}

fn as_text(version: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let list = |value: &Value| {
        let values = value.as_array().into_iter().flatten();
        let values: Vec<_> = values
            .map(|value| value.to_string().replace('"', ""))
            .collect();
        values.join(", ")
    };
    let component = &version["component"];
    let state = &component["saved_state"];
    format!(
        "manatee {}\ncommit        {}\nwasmtime      {}\ncontracts     {}\ncomponent     {}, sha256 {}\n\
         saved state   writes {}, reads {}\n",
        text(&version["version"]),
        text(&version["commit"]),
        text(&version["wasmtime"]),
        list(&version["contracts"]),
        text(&component["version"]),
        text(&component["sha256"]),
        state["writes"],
        list(&state["reads"]),
    )
}
