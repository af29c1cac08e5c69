//! Messages of `manatee serve` about settings and at its start.

use std::process::Command;

use serde_json::Value;

use crate::harness;
use crate::process::is_root;

/// Starts a server that fails, and returns its output.
fn refused(options: &[&str], change: impl FnOnce(&mut Command)) -> String {
    let mut command = harness::serve("/nonexistent/socket".as_ref());
    command.args(options);
    change(&mut command);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_error_at_the_start_has_the_format_of_the_log() {
    let text = refused(&[], |_| ());
    assert!(
        text.contains("error: the vfio-user socket: /nonexistent"),
        "{text}"
    );
    let text = refused(&["--log-format", "json"], |_| ());
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.last().unwrap();
    assert_eq!(last["level"], "ERROR");
    let message = last["message"].as_str().unwrap();
    assert!(message.contains("/nonexistent/socket"), "{message}");
}

#[test]
fn a_malformed_filter_is_an_error_that_names_the_part() {
    let with = |text: &str, format: &str| {
        refused(&["--log-format", format], |command| {
            command.env("RUST_LOG", text);
        })
    };
    let text = with("info,manatee=loud", "text");
    assert!(
        text.starts_with("error: the variable RUST_LOG is"),
        "{text}"
    );
    assert!(
        text.contains("`manatee=loud` is not a valid filter"),
        "{text}"
    );
    let line: Value = serde_json::from_str(with("info,manatee=loud", "json").trim()).unwrap();
    assert!(line["message"].as_str().unwrap().contains("`manatee=loud`"));
    let text = with("manatee=debug", "text");
    assert!(!text.contains("RUST_LOG"), "{text}");
    let text = refused(&["--log-level", "manatee=loud"], |_| ());
    assert!(
        text.contains("`manatee=loud` is not a valid filter"),
        "{text}"
    );
}

#[test]
fn a_user_that_it_can_not_become_is_named() {
    let text = refused(&["--user", "no-such-user"], |_| ());
    assert!(text.contains("there is no user `no-such-user`"), "{text}");
    if !is_root() {
        let text = refused(&["--user", "root"], |_| ());
        assert!(text.contains("only root can become another user"), "{text}");
    }
}
