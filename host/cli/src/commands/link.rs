//! `manatee link`.

use std::path::PathBuf;

use clap::ValueEnum;
use manatee_control::method::{LinkStatus, UpDown};
use manatee_control::{Client, LinkSetting};

/// Show or set the link of a port, as the guest sees it
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Show or set the link of a port, as the guest sees it.\n\n\
        With `auto`, the default, the link of a TAP is up while its interface is. `up` and `down` hold \
        until the next setting, whatever the interface does.",
    after_help = "Example: unplug the first port, and leave it to its TAP again\n\n  \
        manatee link --control /tmp/nic.control 0 down\n  \
        manatee link --control /tmp/nic.control 0 auto"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// The number of the port: 0 is the first
    #[arg(value_name = "PORT")]
    port: u32,

    /// The state to set; without it the link is only shown
    #[arg(value_enum, value_name = "STATE")]
    state: Option<Setting>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Setting {
    /// The guest has a link
    Up,
    /// The guest has none
    Down,
    /// The link follows the port's TAP; up for other ports
    Auto,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let setting = arguments.state.map(|state| match state {
        Setting::Up => LinkSetting::Up,
        Setting::Down => LinkSetting::Down,
        Setting::Auto => LinkSetting::Auto,
    });
    let link = Client::connect(&arguments.control)?.link(arguments.port, setting)?;
    if arguments.json {
        return super::output::print(&format!("{}\n", serde_json::to_string(&link)?));
    }
    super::output::print(&as_text(&link))
}

fn as_text(link: &LinkStatus) -> String {
    let why = match (link.forced, &link.interface) {
        (Some(_), None) => "set by an operator".to_owned(),
        (Some(_), Some(interface)) => {
            format!("set by an operator; its interface is {interface}")
        }
        (None, Some(interface)) => format!("its interface is {interface}"),
        (None, None) => "it has no interface to follow".to_owned(),
    };
    let state = match link.state {
        UpDown::Up => "up",
        UpDown::Down => "down",
    };
    format!("port {}: {state} ({why})\n", link.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_why() {
        let mut link = LinkStatus {
            port: 0,
            state: UpDown::Down,
            forced: Some(UpDown::Down),
            interface: Some("up".into()),
            interface_mtu: Some(1500),
        };
        assert_eq!(
            as_text(&link),
            "port 0: down (set by an operator; its interface is up)\n"
        );
        link.forced = None;
        link.interface = Some("down".into());
        assert_eq!(as_text(&link), "port 0: down (its interface is down)\n");
    }
}
