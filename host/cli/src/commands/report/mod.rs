//! `manatee report`.

mod machine;
mod redact;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use manatee_control::{Client, ClientError};
use serde_json::{Value, json};

use super::{errors, output, version};
use crate::jail::child::clean;
use redact::Redaction;

/// The number of newest log lines in the report.
const LINES: usize = 500;
/// The longest line, in bytes.
const LINE: usize = 1000;
/// The number of bytes at a log's end that are read.
const TAIL: u64 = 1 << 20;

/// Write one file for a bug report, without guest data or addresses
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Write one file for a bug report, as JSON: this build, the machine with its \
        limits, and for each process that serves its counters, all that `manatee inspect` shows \
        (including its jail and the component's failures), and the end of its log.\n\n\
        It contains no packet and no memory of a guest. MAC addresses, IP addresses and names of \
        users are replaced by words, and the machine's name is left out. Read it before you \
        share it.",
    after_help = "Example:\n\n  \
        manatee report --control /run/manatee/tap0.control report.json"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given; repeat it for more devices. Without it
    /// the report covers this build and machine only
    #[arg(long, value_name = "PATH")]
    control: Vec<PathBuf>,

    /// A file with the log. Without it systemd's journal is read
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// The file, which must not exist; `-` is standard output
    #[arg(value_name = "FILE", default_value = "manatee-report.json")]
    output: PathBuf,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let log = arguments.log.as_deref().map(tail).transpose()?;
    let servers: Vec<_> = arguments.control.iter().map(|path| server(path)).collect();
    let mut redaction = Redaction::default();
    servers.iter().for_each(|server| redaction.learn(server));
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut report = json!({
        "report": 1,
        "time_ms": since.unwrap_or_default().as_millis() as u64,
        "machine": machine::describe(),
        "limits": machine::limits(),
        "servers": servers,
        "log": log,
    });
    redaction.tree(&mut report);
    // Versions are not redacted, even if they look like addresses.
    report["build"] = version::version()?;
    let text = format!("{report:#}\n");
    if arguments.output == Path::new("-") {
        return output::print(&text);
    }
    write(&arguments.output, &text)?;
    let path = arguments.output.display();
    output::print(&format!(
        "{path}: {} KiB. Read it before you share it.\n",
        text.len().div_ceil(1024)
    ))
}

/// Writes a new file that only its owner can read.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let shown = path.display();
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{shown} exists already: name another file, or remove it")
        }
        file => file.with_context(|| format!("writing {shown}"))?,
    };
    file.write_all(text.as_bytes())
        .with_context(|| format!("writing {shown}"))
}

/// Queries a process that serves. If it does not answer, the report says so.
fn server(path: &Path) -> Value {
    let asked = ask(path).unwrap_or_else(|error| {
        let error = errors::one_line(&error);
        json!({ "error": error })
    });
    let journal = asked["inspect"]["process"]["id"].as_u64().and_then(journal);
    json!({ "control": path.display().to_string(), "answers": asked, "journal": journal })
}

fn ask(path: &Path) -> Result<Value, ClientError> {
    let mut client = Client::connect(path)?;
    let counters = client.counters()?;
    let level = client.log(None)?;
    let tree = client.inspect(None)?;
    Ok(json!({ "counters": counters, "log_level": level.level, "inspect": tree }))
}

/// Returns the end of a file, by lines.
fn tail(path: &Path) -> anyhow::Result<Vec<String>> {
    let shown = path.display();
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().with_context(|| format!("reading the log {shown}"))?;
    Ok(last_lines(&bytes))
}

/// Returns a process' lines in systemd's journal; None if there is no journal.
fn journal(process: u64) -> Option<Vec<String>> {
    let journal = Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=cat"])
        .arg(format!("--lines={LINES}"))
        .arg(format!("_PID={process}"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let bytes = journal.ok().filter(|it| it.status.success())?.stdout;
    Some(last_lines(&bytes)).filter(|lines| !lines.is_empty())
}

fn last_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<_> = text.lines().collect();
    let newest = &lines[lines.len().saturating_sub(LINES)..];
    newest.iter().map(|line| clean(line, LINE)).collect()
}
