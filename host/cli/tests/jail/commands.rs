//! The commands for operators and packagers, run as processes.

use std::process::Output;

use manatee_control::Client;
use serde_json::Value;

use crate::harness::command;
use crate::process::Served;

fn run(words: &[&str]) -> Output {
    command().args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn what_is_logged_changes_while_it_runs() {
    let mut served = Served::start(&[]);
    let control = served.control();
    let log = |words: &[&str]| {
        let mut command = command();
        command.arg("log").arg("--control").arg(&control);
        command.args(words).output().unwrap()
    };
    assert_eq!(text(&log(&[]).stdout), "info\n");
    let refuse = |name: &str| {
        // The line is written before the answer.
        let nothing = tempfile::tempfile().unwrap();
        served.swap(name, &nothing).unwrap_err();
    };
    assert_eq!(text(&log(&["off"]).stdout), "off\n");
    refuse("first.wasm");
    let shown = log(&["warn,manatee_vfio_user=debug", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["level"], "warn,manatee_vfio_user=debug");
    refuse("second.wasm");
    let wrong = log(&["info,manatee=loud"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("`manatee=loud` is not a valid filter"));
    assert_eq!(text(&log(&[]).stdout), "warn,manatee_vfio_user=debug\n");
    let line = served.wait_for_line("a swap was refused");
    assert!(line.contains("second.wasm"), "{line}");
}

#[test]
fn what_is_so_already_has_a_status_of_its_own() {
    let served = Served::start(&[]);
    let control = served.control();
    let control = control.to_str().unwrap();
    let same = served.dir().join("same.wasm");
    std::fs::write(&same, manatee_component::BYTES).unwrap();
    let same = same.to_str().unwrap();
    let already = run(&["swap", "--control", control, same]);
    assert_eq!(already.status.code(), Some(5), "{already:?}");
    let digest = manatee::component::Digest::of(manatee_component::BYTES);
    let words = text(&already.stderr);
    assert!(
        words.contains(&format!("runs already (sha256 {digest})")),
        "{words}"
    );
    let nothing = run(&["rollback", "--control", control]);
    assert_eq!(nothing.status.code(), Some(5), "{nothing:?}");
    let nobody = run(&["rollback", "--control", "/nonexistent/socket"]);
    assert_eq!(nobody.status.code(), Some(6), "{nobody:?}");
}

#[test]
fn swap_says_what_it_does_and_which_bytes_run() {
    let served = Served::start(&[]);
    let control = served.control();
    let control = control.to_str().unwrap();
    let next = served.dir().join("next.wasm");
    std::fs::write(&next, manatee_variants::NEXT).unwrap();
    let next = next.to_str().unwrap();
    let swapped = run(&["swap", "--control", control, "--no-check", "--json", next]);
    assert!(swapped.status.success(), "{swapped:?}");
    let words = text(&swapped.stderr);
    assert_eq!(words, "compiling the new component\nswapping\n");
    let answer: Value = serde_json::from_slice(&swapped.stdout).unwrap();
    let digest = |bytes| manatee::component::Digest::of(bytes).to_string();
    let (old, new) = (
        digest(manatee_component::BYTES),
        digest(manatee_variants::NEXT),
    );
    assert_eq!(answer["from_sha256"], old);
    assert_eq!(answer["to_sha256"], new);
    let tree = Client::connect(&served.control())
        .unwrap()
        .inspect(None)
        .unwrap();
    assert_eq!(tree["component"]["sha256"], new);
    assert_eq!(tree["runtime"]["previous_sha256"], old);
    assert_eq!(tree["runtime"]["swaps"][0]["to_sha256"], new);
    let back = run(&["rollback", "--control", control, "--format", "json"]);
    let back: Value = serde_json::from_slice(&back.stdout).unwrap();
    assert_eq!(back["to_sha256"], old);
}

#[test]
fn check_of_what_is_no_file_names_the_way_out() {
    let output = run(&["check", "registers"]);
    assert_eq!(output.status.code(), Some(1));
    let words = text(&output.stderr);
    assert!(words.contains("there is no file registers"), "{words}");
    assert!(words.contains("--requirement"), "{words}");
    let output = run(&["check", "--list", "--requirement", "registers"]);
    let listed = text(&output.stdout);
    assert!(!listed.is_empty() && listed.lines().all(|line| line.contains("registers")));
}

#[test]
fn version_says_what_the_build_is() {
    let output = run(&["--version", "--json"]);
    let version: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["contracts"], serde_json::json!(["0.2.0", "0.1.0"]));
    let commit = version["commit"].as_str().unwrap();
    let hexadecimal = commit.chars().all(|c| c.is_ascii_hexdigit());
    assert!(commit == "unknown" || hexadecimal, "{commit}");
    let wasmtime = version["wasmtime"].as_str().unwrap();
    assert!(
        wasmtime.starts_with(|c: char| c.is_ascii_digit()),
        "{wasmtime}"
    );
    let component = &version["component"];
    assert!(component["saved_state"]["writes"].is_u64(), "{component}");
    let short = text(&run(&["-V"]).stdout);
    assert!(short.starts_with("manatee "), "{short}");
    assert!(
        short.contains(component["sha256"].as_str().unwrap()),
        "{short}"
    );
}

#[test]
fn pages_and_completions_know_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["man", dir.path().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let help = text(&run(&["--help"]).stdout);
    let completions = text(&run(&["completions", "bash"]).stdout);
    for name in [
        "serve", "swap", "rollback", "inspect", "link", "log", "check", "describe",
    ] {
        let page = std::fs::read_to_string(dir.path().join(format!("manatee-{name}.1")));
        assert!(page.unwrap().contains(name));
        assert!(help.contains(name) && completions.contains(name), "{name}");
    }
    assert!(dir.path().join("manatee.1").exists());
    for hidden in ["precompile", "jail-child", "jail-broker"] {
        assert!(!help.contains(hidden), "{hidden}");
        assert!(!dir.path().join(format!("manatee-{hidden}.1")).exists());
    }
    let nowhere = run(&["man", "/nonexistent"]);
    assert_eq!(nowhere.status.code(), Some(1));
}

#[test]
fn bounds_are_options() {
    let served = Served::start(&[
        "--memory-limit=128",
        "--deadline=5000",
        "--recoveries=0",
        "--last-tries=0",
        "--port=null,speed=2500",
    ]);
    let tree = Client::connect(&served.control())
        .unwrap()
        .inspect(None)
        .unwrap();
    let limits = &tree["runtime"]["limits"];
    assert_eq!(limits["memory_bytes"], 128 << 20);
    assert_eq!(limits["deadline_ms"], 5000);
    for wrong in [
        "--memory-limit=63",
        "--memory-limit=4096",
        "--deadline=9",
        "--deadline=60001",
        "--recoveries=1001",
        "--port=null,speed=0",
    ] {
        let output = run(&[
            "serve",
            "--socket-path=/nonexistent/s",
            "--port=null",
            wrong,
        ]);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {output:?}");
    }
}

#[test]
fn serve_without_arguments_explains_itself() {
    let output = run(&["serve"]);
    assert_eq!(output.status.code(), Some(2));
    let words = text(&output.stderr);
    assert!(
        words.contains("Examples:") && words.contains("--socket-path"),
        "{words}"
    );
}
