//! Logs on standard error.

use std::env::{self, VarError};
use std::io::IsTerminal;

use super::stderr::Stderr;
use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use parking_lot::Mutex;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The longest log filter, in bytes.
const MAX_TEXT: usize = 4096;

/// Options of logging.
#[derive(Debug, clap::Args)]
pub struct LogArguments {
    /// Write log lines for people, or as one JSON object each
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: Format,

    /// What to log: off, error, warn, info, debug or trace, or parts of the program with a
    /// level each, as in `warn,manatee_vfio_user=debug`. Without it the variable RUST_LOG
    /// decides, or -v. `manatee log` changes it later
    #[arg(long, value_name = "LEVEL", value_parser = directives, conflicts_with = "verbose")]
    log_level: Option<String>,

    /// Log more: -v the virtual machine's requests, -vv everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// Changes what is logged.
pub struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
    text: Mutex<String>,
    output: Stderr,
}

impl LogLevel {
    /// Returns the destination of lines.
    pub fn output(&self) -> Stderr {
        self.output.clone()
    }

    /// Returns the current filter.
    pub fn text(&self) -> String {
        self.text.lock().clone()
    }

    /// Changes the filter.
    ///
    /// # Errors
    ///
    /// If it is invalid; then nothing changes.
    pub fn set(&self, text: &str) -> anyhow::Result<()> {
        directives(text).map_err(anyhow::Error::msg)?;
        let mut current = self.text.lock();
        self.filter.reload(EnvFilter::try_new(text)?)?;
        text.clone_into(&mut current);
        Ok(())
    }
}

/// Starts logging to standard error. A panic on any thread is logged, and ends the
/// process: the remaining threads would serve half a device.
///
/// # Errors
///
/// If the variable RUST_LOG is invalid; then lines are logged as if it were not set.
pub fn start(arguments: &LogArguments) -> (LogLevel, anyhow::Result<()>) {
    let chosen = arguments.chosen();
    let (text, outcome) = match chosen {
        Ok(text) => (text, Ok(())),
        Err(error) => (arguments.by_verbosity().to_owned(), Err(error)),
    };
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&text));
    let output = Stderr::default();
    let lines = fmt::layer()
        .with_writer(output.clone())
        .with_ansi(wants_colours());
    let registry = tracing_subscriber::registry().with(filter);
    match arguments.log_format {
        Format::Text => registry.with(lines.with_target(false)).init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}; the process ends");
        std::process::abort();
    }));
    let level = LogLevel {
        filter: handle,
        text: Mutex::new(text),
        output,
    };
    (level, outcome)
}

/// Checks a filter. The error names the invalid part.
fn directives(text: &str) -> Result<String, String> {
    check(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn check(text: &str) -> anyhow::Result<()> {
    ensure!(text.len() <= MAX_TEXT, "it has more than {MAX_TEXT} bytes");
    for part in text.split(',').filter(|part| !part.is_empty()) {
        if let Err(error) = part.parse::<Directive>() {
            bail!(
                "`{}` is not a valid filter ({error}): use off, error, warn, info, debug or trace, or \
                 PART=LEVEL, as in manatee_vfio_user=debug",
                part.escape_debug()
            );
        }
    }
    Ok(())
}

/// Returns whether lines may have colours: <https://no-color.org>.
fn wants_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !unwanted && std::io::stderr().is_terminal()
}

impl LogArguments {
    /// Returns the chosen filter.
    fn chosen(&self) -> anyhow::Result<String> {
        if let Some(text) = &self.log_level {
            return Ok(text.clone());
        }
        match env::var(EnvFilter::DEFAULT_ENV) {
            Ok(text) => {
                check(&text).with_context(|| {
                    format!("the variable RUST_LOG is `{}`", text.escape_debug())
                })?;
                Ok(text)
            }
            Err(VarError::NotPresent) => Ok(self.by_verbosity().to_owned()),
            Err(VarError::NotUnicode(_)) => bail!("the variable RUST_LOG is not UTF-8"),
        }
    }

    fn by_verbosity(&self) -> &'static str {
        match self.verbose {
            0 => "info",
            1 => "info,manatee=debug",
            _ => "debug,manatee=trace",
        }
    }

    /// Reports why the command fails, in JSON if lines are logged as JSON.
    pub fn report(&self, error: &anyhow::Error) {
        let text = super::errors::one_line(&**error);
        match self.log_format {
            Format::Text => eprintln!("error: {text}"),
            Format::Json => tracing::error!("{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    #[ignore = "the next test runs this, in a process of its own"]
    fn inside() {
        let _ = start(&LogArguments {
            log_format: Format::Json,
            log_level: None,
            verbose: 0,
        });
        let _ = std::thread::spawn(|| panic!("of a thread")).join();
    }

    #[test]
    fn the_invalid_part_is_named() {
        for good in ["", "debug", "warn,manatee_vfio_user=trace", "off,"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for (text, part) in [
            ("info,manatee=loud", "`manatee=loud`"),
            ("a=b=c,info", "`a=b=c`"),
        ] {
            let error = check(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(check(&"x".repeat(MAX_TEXT + 1)).is_err());
    }

    #[test]
    fn a_panic_of_any_thread_is_logged_and_ends_the_process() {
        let output = Command::new("/proc/self/exe")
            .args([
                "--exact",
                "commands::logging::tests::inside",
                "--ignored",
                "--nocapture",
            ])
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains("\"level\":\"ERROR\""), "{log}");
        assert!(log.contains("of a thread"), "{log}");
    }
}
