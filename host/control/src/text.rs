//! Describes events in words.

use crate::client::Told;
use crate::event::{Event, Stamped};
use crate::method::{Swapped, UpDown};

/// Writes a line about a notification, for people.
pub fn line(told: &Told) -> String {
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

/// Describes an event in one line.
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
            line(&told),
            "01:02:03.004 swapped: 2 instead of 1; the guest paused for 70 us\n"
        );
    }
}
