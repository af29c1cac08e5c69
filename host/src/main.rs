//! The command `manatee`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
