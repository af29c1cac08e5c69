//! The command `manatee`.

mod cli;
mod jail;

fn main() -> std::process::ExitCode {
    cli::run()
}
