//! The command `manatee`.

mod commands;
mod jail;

fn main() -> std::process::ExitCode {
    commands::run()
}
