//! Logs on standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How to log.
#[derive(Debug, clap::Args)]
pub struct LogArguments {
    /// How log lines look: for people, or one JSON object each
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: Format,

    /// Log more: -v what the virtual machine asks for, -vv everything. The
    /// variable RUST_LOG, if set, selects by part of the program instead
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// Begins to log to standard error. A panic on any thread is logged, and ends the
/// process: what is left of it would serve half a device.
pub fn start(arguments: &LogArguments) {
    let (filter, malformed) = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (arguments.filter(), Some((text, error))),
        },
        Err(_) => (arguments.filter(), None),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(wants_colours());
    match arguments.log_format {
        Format::Text => subscriber.with_target(false).init(),
        Format::Json => subscriber.json().flatten_event(true).init(),
    }
    if let Some((text, error)) = malformed {
        tracing::warn!(
            "RUST_LOG is `{}`, which says nothing: {error}",
            text.escape_debug()
        );
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}; the process ends");
        std::process::abort();
    }));
}

/// Whether lines may have colours: <https://no-color.org>.
fn wants_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !unwanted && std::io::stderr().is_terminal()
}

impl LogArguments {
    fn filter(&self) -> EnvFilter {
        EnvFilter::new(match self.verbose {
            0 => "info",
            1 => "info,manatee=debug",
            _ => "debug,manatee=trace",
        })
    }

    /// Reports why the command fails: as lines are logged, if that is for programs.
    pub fn report(&self, error: &anyhow::Error) {
        let text = super::one_line(&**error);
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
        start(&LogArguments {
            log_format: Format::Json,
            verbose: 0,
        });
        let _ = std::thread::spawn(|| panic!("of a thread")).join();
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
