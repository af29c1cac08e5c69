//! `manatee events`.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use manatee_control::event::Stamped;
use manatee_control::method::{Swapped, UpDown};
use manatee_control::{Client, Event, EventKind, Told};
use serde_json::json;

/// Follow what happens to a running device
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Follow what happens to a running device, a line each, until it ends: that a \
        virtual machine comes and goes, replacements of the component, its failures and \
        recoveries, and links.",
    after_help = "Example: failures, for a program\n\n  \
        manatee events --control /tmp/nic.control --json crashed recovered down"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// Which events; all if none is named
    #[arg(value_parser = kind(), value_name = "EVENT")]
    events: Vec<EventKind>,

    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Returns what reads the name of an event: any of the protocol's.
fn kind() -> impl TypedValueParser<Value = EventKind> {
    let value = |kind: EventKind| PossibleValue::new(kind.name()).help(kind.meaning());
    PossibleValuesParser::new(EventKind::ALL.map(value))
        .map(|name| EventKind::find(&name).expect("one of those that are listed"))
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
            as_text(&told)
        };
        if !super::output::print_on(&line)? {
            // Whoever read has seen enough.
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

/// Writes a line for people.
pub fn as_text(told: &Told) -> String {
    match told {
        Told::Event(Stamped { time_ms, event, .. }) => {
            format!("{} {}\n", clock(*time_ms), sentence(event))
        }
        Told::Lost(events) => format!("({events} events were lost: they were not read in time)\n"),
    }
}

/// Writes the time of day, in UTC.
fn clock(time_ms: u64) -> String {
    let seconds = time_ms / 1000;
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    let (seconds, millis) = (seconds % 60, time_ms % 1000);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03}")
}

/// Says what happened, in one line.
pub fn sentence(event: &Event) -> String {
    match event {
        Event::Attached => "attached: a virtual machine".to_owned(),
        Event::Detached => "detached: the virtual machine is gone".to_owned(),
        Event::Swapped(swapped) => format!("swapped: {}", replacement(swapped)),
        Event::RolledBack(swapped) => format!("rolled back: {}", replacement(swapped)),
        Event::Crashed(crash) => format!("crashed ({}): {}", crash.failures, crash.reason),
        Event::Recovered(recovery) => format!(
            "recovered in {} us; {} transmits and {} receives are lost",
            recovery.took_us, recovery.lost_transmits, recovery.lost_receives
        ),
        Event::Link(link) => {
            let state = match link.state {
                UpDown::Up => "up",
                UpDown::Down => "down",
            };
            format!("link: port {} is {state}", link.port)
        }
        Event::Down(down) => format!("down until it is reset: {}", down.reason),
    }
}

fn replacement(swapped: &Swapped) -> String {
    format!(
        "{} instead of {}; the guest paused for {} us",
        swapped.to, swapped.from, swapped.pause_us
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_and_what() {
        let event = Event::Swapped(Swapped {
            from: "1".into(),
            to: "2".into(),
            pause_us: 70,
            ..Swapped::default()
        });
        let told = Told::Event(Stamped {
            number: 1,
            time_ms: 86_400_000 + 3_723_004,
            event,
        });
        assert_eq!(
            as_text(&told),
            "01:02:03.004 swapped: 2 instead of 1; the guest paused for 70 us\n"
        );
        assert_eq!(
            as_json(&Told::Lost(7)).unwrap(),
            "{\"event\":\"lost\",\"events\":7}\n"
        );
    }
}
