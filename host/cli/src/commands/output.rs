//! Prints the result of a command.

use std::io::{self, Write};
use std::process::ExitCode;

use super::{errors, exit};

/// Prints why the command fails.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", errors::one_line(&**error));
    exit::status(error)
}

/// Prints a result. A closed pipe (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    print_on(text).map(|_| ())
}

/// Prints a part of a result. Returns false if the reader has closed the pipe.
pub fn print_on(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(true),
    }
}
