//! One run of the conformance suite, natively, on the device as it is in the
//! copy.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde::Deserialize;
use wait_timeout::ChildExt;

use crate::fault::Suite;

/// Address space of a run, in bytes: a fault may make the device allocate
/// without end.
const MEMORY: u64 = 8 << 30;

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Requirements that were not met, in the suite's order; none if all were.
    Ended(Vec<String>),
    /// It exceeded the time limit. Has the requirements that had failed by then.
    Hung(Vec<String>),
    /// The process ended without a verdict, for example by a signal.
    Crashed(String),
}

impl Verdict {
    /// Returns whether the suite detected a fault.
    pub fn is_caught(&self) -> bool {
        *self != Self::Ended(Vec::new())
    }
}

/// Builds a suite's test of the workspace at `root` into `target`. Returns
/// the program.
///
/// # Errors
///
/// If it does not compile, with the compiler's messages.
pub fn build(suite: Suite, root: &Path, target: &Path) -> Result<PathBuf> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--package=manatee-device"])
        .args(["--test", suite.test()])
        .args(["--no-run", "--offline", "--message-format=json"])
        .current_dir(root)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_PROFILE_TEST_DEBUG", "false")
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        // Optimised a little, a run takes a third of the time; assertions stay.
        .env("CARGO_PROFILE_TEST_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .stdin(Stdio::null())
        .output()
        .context("running cargo")?;
    let messages = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!(
            "it does not compile:\n{}{words}",
            compiler_errors(&messages)
        );
    }
    executable(&messages).context("cargo named no program of the test")
}

/// The fields of a line of `cargo --message-format=json` that are used here.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    message: Option<Diagnostic>,
}

#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    rendered: Option<String>,
}

fn messages(output: &str) -> impl Iterator<Item = Message> {
    output
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
}

fn executable(output: &str) -> Option<PathBuf> {
    messages(output).find_map(|message| message.executable)
}

fn compiler_errors(output: &str) -> String {
    messages(output)
        .filter_map(|message| message.message)
        .filter(|diagnostic| diagnostic.level == "error")
        .filter_map(|diagnostic| diagnostic.rendered)
        .collect()
}

/// Runs the suite's test, for up to `limit`.
///
/// # Errors
///
/// If the program cannot be run.
pub fn run(suite: Suite, program: &Path, limit: Duration) -> Result<Verdict> {
    let mut command = Command::new(program);
    command.args(suite.arguments()).env("RUST_BACKTRACE", "0");
    run_command(&mut command, limit).with_context(|| format!("running {}", program.display()))
}

fn run_command(command: &mut Command, limit: Duration) -> Result<Verdict> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    limit_memory(&child)?;
    let mut stdout = child.stdout.take().context("a child without output")?;
    let reader = thread::spawn(move || {
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).map(|_| output)
    });
    let status = child.wait_timeout(limit).context("waiting for the test")?;
    if status.is_none() {
        child.kill().context("ending the test")?;
        child.wait().context("ending the test")?;
    }
    let output = reader.join().expect("reading does not panic")?;
    let output = String::from_utf8_lossy(&output);
    match status {
        None => Ok(Verdict::Hung(failed(&output))),
        Some(status) if status.success() && !ran(&output) => bail!("no test has run"),
        Some(status) => Ok(verdict(status, &output)),
    }
}

/// Returns whether a test ran: arguments that match none are no success.
fn ran(output: &str) -> bool {
    output
        .lines()
        .any(|line| line.starts_with("test ") && line.ends_with(" ok"))
}

fn limit_memory(child: &Child) -> Result<()> {
    let limit = Rlimit {
        current: Some(MEMORY),
        maximum: Some(MEMORY),
    };
    prlimit(Some(Pid::from_child(child)), Resource::As, limit).context("limiting memory")?;
    Ok(())
}

fn verdict(status: ExitStatus, output: &str) -> Verdict {
    let failed = failed(output);
    if status.success() == failed.is_empty() {
        Verdict::Ended(failed)
    } else {
        Verdict::Crashed(status.to_string())
    }
}

/// Returns the requirements that failed, once each: they run with windows and without.
fn failed(output: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    output
        .lines()
        .filter(|line| !line.starts_with("test result:"))
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix("FAILED"))
        .map(|line| line.split_once("] ").map_or(line, |(_, name)| name))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| seen.insert(*name))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const OUTPUT: &str = "
running 3 tests
test [copies]  tx::a   ... ok
test [copies]  tx::b   ... FAILED
test [windows] cq::c   ... FAILED
test [queues, moves] tx::b ... FAILED

failures:

---- tx::b ----
test result: FAILED
";

    fn exit(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn a_requirement_counts_once() {
        let expected = Verdict::Ended(vec!["tx::b".to_owned(), "cq::c".to_owned()]);
        assert_eq!(verdict(exit(101), OUTPUT), expected);
        assert!(expected.is_caught());
    }

    #[test]
    fn success_is_no_catch() {
        assert!(!verdict(exit(0), "test [copies] tx::a ... ok\n").is_caught());
    }

    #[test]
    fn an_end_without_a_verdict_is_a_crash() {
        let killed = verdict(ExitStatus::from_raw(6), "test [copies] tx::a ... ok\n");
        assert!(matches!(&killed, Verdict::Crashed(how) if how.contains("signal: 6")));
        assert!(killed.is_caught());
        assert!(matches!(verdict(exit(101), ""), Verdict::Crashed(_)));
    }

    #[test]
    fn a_run_of_no_test_is_an_error() {
        let mut command = Command::new("echo");
        let error = run_command(command.arg("running 0 tests"), Duration::from_secs(60));
        assert_eq!(error.unwrap_err().to_string(), "no test has run");
        let mut command = Command::new("echo");
        let verdict = run_command(
            command.arg("test [copies] tx::a ... ok"),
            Duration::from_secs(60),
        );
        assert_eq!(verdict.unwrap(), Verdict::Ended(Vec::new()));
    }

    #[test]
    fn a_run_that_does_not_end_hangs() {
        let mut command = Command::new("sleep");
        let verdict = run_command(command.arg("1000"), Duration::from_millis(1)).unwrap();
        assert_eq!(verdict, Verdict::Hung(Vec::new()));
    }

    #[test]
    fn cargo_names_the_program_and_the_errors() {
        let output = concat!(
            r#"{"reason":"compiler-artifact","executable":null}"#,
            "\n",
            r#"{"reason":"compiler-message","message":{"level":"warning","rendered":"w"}}"#,
            "\n",
            r#"{"reason":"compiler-message","message":{"level":"error","rendered":"e"}}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/target/conformance"}"#,
            "\n",
        );
        assert_eq!(executable(output), Some("/target/conformance".into()));
        assert_eq!(compiler_errors(output), "e");
    }
}
