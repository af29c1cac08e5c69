//! The guest's end: `traffic OWN-ADDRESS HOST-ADDRESS`. Its report goes to the
//! host, and to standard output as a line of JSON.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [own, host] = &arguments[..] else {
        bail!("usage: traffic OWN-ADDRESS HOST-ADDRESS");
    };
    let report = manatee_traffic::session::guest(address(own)?, address(host)?)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn address(text: &str) -> Result<IpAddr> {
    text.parse()
        .with_context(|| format!("`{text}` is no IP address"))
}
