//! Prints the result of a command, and opens the component that it is given.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use manatee::component;

use super::{errors, exit};
use crate::jail::child;

/// Prints why the command fails.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", errors::one_line(&**error));
    exit::status(error)
}

/// Compiles a component file in a child.
pub fn compile(file: &Path, sandbox: bool) -> anyhow::Result<child::Code> {
    let bytes = component::read(file)?;
    child::compile(&bytes, &file.display().to_string(), sandbox)
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
