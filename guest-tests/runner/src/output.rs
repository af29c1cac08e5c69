//! Standard output.

use crate::bindings::wasi::cli::stdout::get_stdout;

/// The most bytes that one call may write.
const AT_ONCE: usize = 4096;

/// Prints a text. A reader that closes the pipe is no error.
pub fn print(text: &str) {
    let stdout = get_stdout();
    for part in text.as_bytes().chunks(AT_ONCE) {
        if stdout.blocking_write_and_flush(part).is_err() {
            return;
        }
    }
}
