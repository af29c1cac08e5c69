//! The process in which a row runs.

use std::io::Read;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::case::Case;
use crate::neighbour::Neighbour;
use crate::rows::Row;

/// The environment variable that names the row which a process runs.
const VARIABLE: &str = "MANATEE_ATTACK";
/// Far longer than any row takes: a row that takes this long hangs.
const WATCHDOG: Duration = Duration::from_secs(300);
/// The limit of a process' private memory, whatever its row's bound, so that a failing
/// row does not exhaust the machine.
const MOST_MEMORY: u64 = 4 << 30;

/// Returns the name of the row that this process was started for.
pub fn asked_for() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// Runs a row in this process.
pub fn carry_out(row: &Row, case: &Case) -> ExitCode {
    let limit = Rlimit {
        current: Some(MOST_MEMORY),
        maximum: Some(MOST_MEMORY),
    };
    setrlimit(Resource::Data, limit).expect("a limit can be lowered");
    let neighbour = Neighbour::start();
    // Resets the peak, so that it covers the row only.
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
    let before = status("VmRSS:");
    (row.run)(case);
    neighbour.works_on();
    let grown = status("VmHWM:").saturating_sub(before);
    let most = row.megabytes << 10;
    assert!(
        grown <= most,
        "the process grew by {} MiB; the row allows {}",
        grown >> 10,
        row.megabytes
    );
    ExitCode::SUCCESS
}

/// Returns a line of `/proc/self/status` in KiB.
pub fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it can be read");
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel reports it")
}

/// Runs a row in a process, and waits for its end.
///
/// # Errors
///
/// The process failed, was killed, or did not end.
pub fn run(name: &str) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut child = Command::new(program)
        .env(VARIABLE, name)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let said = wait(&mut child)?;
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{}\n{said}", describe(status)))
}

/// Reads a process' output until it ends.
fn wait(child: &mut Child) -> Result<String, String> {
    const MOST: u64 = 64 << 10;
    let mut output = child.stderr.take().ok_or("no output")?;
    let (sender, ended) = channel();
    thread::spawn(move || {
        let mut said = Vec::new();
        let _ = output.by_ref().take(MOST).read_to_end(&mut said);
        let _ = std::io::copy(&mut output, &mut std::io::sink());
        let _ = sender.send(String::from_utf8_lossy(&said).into_owned());
    });
    ended.recv_timeout(WATCHDOG).map_err(|_| {
        let _ = child.kill();
        let _ = child.wait();
        format!("it had not ended after {} s", WATCHDOG.as_secs())
    })
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(signal) => format!("the attack ended the process by signal {signal}"),
        None => format!("the row failed ({status})"),
    }
}
