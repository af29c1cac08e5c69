//! The content of a report, and what it leaves out.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::harness::command;
use crate::process::Served;

/// Secrets in all forms that they may have.
const SECRETS: [&str; 7] = [
    "02:aa:bb:cc:dd:01",
    "02aabbccdd01",
    "02-aa-bb-cc-dd-01",
    "02:aa:bb:cc:dd:02",
    "192.0.2.77",
    "2001:db8::77",
    "jane",
];
const LOG: &str = "\
serving 02:AA:BB:CC:DD:01 alias 02AABBCCDD01 and 02-aa-bb-cc-dd-01
peer 02:aa:bb:cc:dd:02 at 192.0.2.77:80 and [2001:db8::77]
opened /home/jane/nic.sock \u{1b}[31m
the last line";

#[test]
fn a_report_has_the_state_and_no_secrets() {
    let served = Served::start(&["--port", "null,mac=02:aa:bb:cc:dd:01"]);
    let (log, report) = (served.dir().join("log"), served.dir().join("report.json"));
    fs::write(&log, LOG).unwrap();
    let write = || {
        let mut command = command();
        command.arg("report").arg("--control").arg(served.control());
        command.args(["--control", "/nonexistent/control"]);
        command
            .arg("--log")
            .arg(&log)
            .arg(&report)
            .output()
            .unwrap()
    };
    let written = write();
    assert!(written.status.success(), "{written:?}");
    let mode = fs::metadata(&report).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(&report).unwrap();
    for secret in SECRETS {
        let small = text.to_ascii_lowercase();
        assert!(!small.contains(secret), "{secret} is in the report");
    }
    assert!(!text.contains('\u{1b}') && !text.contains("\\u001b"));

    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["build"]["version"], env!("CARGO_PKG_VERSION"));
    let kernel = report["machine"]["kernel"].as_str().unwrap();
    assert!(kernel.starts_with("Linux "), "{kernel}");
    assert!(report["limits"]["open_files"]["soft"].as_u64() > Some(0));
    let [answers, silent] = [0, 1].map(|server| &report["servers"][server]["answers"]);
    assert_eq!(answers["counters"]["state"], "running");
    assert_eq!(answers["log_level"], "info");
    let inspect = &answers["inspect"];
    assert!(inspect["process"]["jail"].is_object(), "the jail's state");
    assert_eq!(inspect["runtime"]["limits"]["memory_bytes"], 512 << 20);
    let error = silent["error"].as_str().unwrap();
    assert!(error.contains("no control socket answers"), "{error}");
    // Occurrences of one address have the same word.
    let mac = &inspect["ports"]["1"]["mac"];
    let mac = mac.as_str().unwrap();
    assert!(mac.starts_with("[MAC "), "{mac}");
    let first = report["log"][0].as_str().unwrap();
    assert_eq!(first.matches(mac).count(), 3, "{first}");
    assert_eq!(report["log"][3], "the last line");

    let again = write();
    assert!(!again.status.success());
    let error = String::from_utf8(again.stderr).unwrap();
    assert!(error.contains("name another file, or remove it"), "{error}");
}

#[test]
fn a_report_of_a_machine_alone_goes_to_standard_output() {
    let output = command().args(["report", "-"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["servers"], Value::Array(Vec::new()));
    assert!(report["build"]["wasmtime"].is_string());
    let missing = command()
        .args(["report", "--log", "/nonexistent", "-"])
        .output();
    let missing = missing.unwrap();
    assert_eq!(missing.status.code(), Some(1));
    let error = String::from_utf8(missing.stderr).unwrap();
    assert!(error.contains("reading the log /nonexistent"), "{error}");
}
