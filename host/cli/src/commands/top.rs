//! `manatee top`, a separate program in the same directory as this one.

#[path = "../../../top/src/arguments.rs"]
mod arguments;

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

pub use arguments::Arguments;

/// The program's name.
const TOP: &str = "manatee-top";

/// Executes that program. Its arguments are parsed here only for the help and the pages.
pub fn run(_: &Arguments) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("finding this program")?;
    let top = own.with_file_name(TOP);
    let words = std::env::args_os().skip_while(|word| word != "top").skip(1);
    let error = Command::new(&top).args(words).exec();
    Err(error).with_context(|| {
        format!(
            "starting {}, which has to be in the same directory as this program: `just build` builds it",
            top.display()
        )
    })
}
