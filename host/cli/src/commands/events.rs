//! `manatee events`.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use manatee_control::{Client, EventKind, Told, text};
use serde_json::json;

/// Follow the events of a running device
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Follow the events of a running device, one a line, until it ends: virtual \
    machines that attach and detach, replacements of the component, its failures and \
    recoveries, and links.",
    after_help = "Example: failures, for a program\n\n  \
        manatee events --control /tmp/nic.control --json crashed recovered down"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// The events to follow; by default all
    #[arg(value_parser = kind(), value_name = "EVENT")]
    events: Vec<EventKind>,

    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Returns the parser of an event's name.
fn kind() -> impl TypedValueParser<Value = EventKind> {
    let value = |kind: EventKind| PossibleValue::new(kind.name()).help(kind.meaning());
    PossibleValuesParser::new(EventKind::ALL.map(value))
        .map(|name| EventKind::find(&name).expect("one of the possible values"))
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let kinds = (!arguments.events.is_empty()).then(|| arguments.events.clone());
    let mut client = Client::connect(&arguments.control)?;
    client.subscribe(kinds)?;
    loop {
        let told = client.follow()?;
        let line = if arguments.json {
            as_json(&told)?
        } else {
            text::line(&told)
        };
        if !super::output::print_on(&line)? {
            // The reader has closed the pipe.
            return Ok(());
        }
    }
}

fn as_json(told: &Told) -> anyhow::Result<String> {
    Ok(match told {
        Told::Event(event) => format!("{}\n", serde_json::to_string(event)?),
        Told::Lost(events) => format!("{}\n", json!({ "event": "lost", "events": events })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_events_are_an_object_too() {
        assert_eq!(
            as_json(&Told::Lost(7)).unwrap(),
            "{\"event\":\"lost\",\"events\":7}\n"
        );
    }
}
