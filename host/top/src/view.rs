//! The output of `manatee top`: the same lines on a screen and as plain text.

use std::time::Duration;

use manatee_control::method::UpDown;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use crate::model::{Flow, Look, Model, Pace, Watched, clean, name};

/// The least number of rows for events on a screen.
const EVENT_ROWS: usize = 6;
/// The width of the column of endpoints.
const ENDPOINT: usize = 18;

/// Colours, if they are enabled.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    colours: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Plain,
    Title,
    Faint,
    Good,
    Warning,
    Bad,
}

impl Palette {
    /// Returns a palette with or without colours.
    pub fn new(colours: bool) -> Self {
        Self { colours }
    }

    fn style(self, tone: Tone) -> Style {
        let coloured = |colour| match self.colours {
            true => Style::new().fg(colour),
            false => Style::new(),
        };
        match tone {
            Tone::Plain => Style::new(),
            Tone::Title => Style::new().add_modifier(Modifier::BOLD),
            Tone::Faint => coloured(Color::DarkGray),
            Tone::Good => coloured(Color::Green),
            Tone::Warning => coloured(Color::Yellow),
            Tone::Bad => coloured(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    fn span(self, tone: Tone, text: impl Into<String>) -> Span<'static> {
        Span::styled(text.into(), self.style(tone))
    }
}

/// Draws the screen.
pub fn draw(frame: &mut Frame<'_>, model: &Model, palette: Palette, every: Duration) {
    let devices = devices(model, palette);
    let height = usize::from(frame.area().height);
    let room = height.saturating_sub(EVENT_ROWS + 1).max(1);
    let own = devices.len().min(room);
    let [top, middle, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::try_from(own).unwrap_or(u16::MAX)),
        Constraint::Min(0),
    ])
    .areas(frame.area());
    let title = format!("manatee top, every {} s", every.as_secs_f64());
    let title = Line::from(vec![
        palette.span(Tone::Title, title),
        palette.span(Tone::Faint, "   q ends"),
    ]);
    frame.render_widget(Paragraph::new(title), top);
    frame.render_widget(Paragraph::new(devices), middle);
    let events = events(model, palette, bottom.height.into());
    frame.render_widget(Paragraph::new(events), bottom);
}

/// Returns it as plain text, without events.
pub fn text(model: &Model) -> String {
    let lines = devices(model, Palette::new(false)).into_iter();
    let line = |line: Line<'_>| {
        let parts = line.spans.iter().map(|span| &*span.content);
        format!("{}\n", parts.collect::<String>().trim_end())
    };
    lines.map(line).collect()
}

/// Returns the newest events, as many as there is room for.
fn events(model: &Model, palette: Palette, rows: usize) -> Vec<Line<'static>> {
    let mut lines = vec![Line::from(palette.span(Tone::Title, "Events"))];
    let events = &model.events;
    if events.is_empty() {
        lines.push(Line::from(palette.span(Tone::Faint, "none yet")));
    }
    let skipped = events.len().saturating_sub(rows.saturating_sub(1));
    lines.extend(events.iter().skip(skipped).map(|event| {
        let tone = match event.bad {
            true => Tone::Bad,
            false => Tone::Plain,
        };
        Line::from(palette.span(tone, event.text.clone()))
    }));
    lines
}

fn devices(model: &Model, palette: Palette) -> Vec<Line<'static>> {
    let each = model.devices.iter();
    each.flat_map(|device| one(device, palette)).collect()
}

fn one(device: &Watched, palette: Palette) -> Vec<Line<'static>> {
    let name = palette.span(Tone::Title, name(&device.path));
    let Some(look) = device.now() else {
        let why = device.gone.as_deref().unwrap_or("no answer yet");
        let why = palette.span(Tone::Bad, format!("  {why}"));
        return vec![Line::from(vec![name, why])];
    };
    let mut lines = vec![summary(name, device, look, palette), header(palette)];
    for (index, port) in look.counts.ports.iter().enumerate() {
        let now = Flow::of_port(port);
        let queues = look.queues.get(index).map_or(&[][..], |queues| queues);
        let now = Flow {
            waiting: queues.iter().map(|queue| queue.waiting).sum(),
            ..now
        };
        let (link, tone) = match port.link {
            UpDown::Up => ("up", Tone::Good),
            UpDown::Down => ("down", Tone::Bad),
        };
        let mut endpoint = clean(&port.endpoint, ENDPOINT);
        if let Some(mbps) = port.rate_mbps {
            endpoint = clean(&format!("{endpoint} <{mbps}M"), ENDPOINT);
        }
        let begin = vec![
            palette.span(Tone::Plain, format!("{:<4} ", port.port)),
            palette.span(tone, format!("{link:<4} ")),
            palette.span(Tone::Plain, format!("{endpoint:<ENDPOINT$} ")),
        ];
        lines.push(row(begin, device.port(index), &now, palette));
        if queues.len() > 1 {
            for (queue, now) in queues.iter().enumerate() {
                let begin = format!(
                    "{:<WIDTH$} ",
                    format!("  queue {queue}"),
                    WIDTH = ENDPOINT + 10
                );
                let begin = vec![palette.span(Tone::Faint, begin)];
                lines.push(row(begin, device.queue(index, queue), now, palette));
            }
        }
    }
    lines
}

/// Returns the titles of the columns of [`row`].
fn header(palette: Palette) -> Line<'static> {
    let [port, link, to] = ["PORT", "LINK", "ENDPOINT"];
    let [sent, received, bits] = ["SENT/s", "RECV/s", "bit/s"];
    let [dropped, posted, waiting] = ["DROP/s", "POSTED", "WAITS"];
    let text = format!(
        "{port:<4} {link:<4} {to:<ENDPOINT$} {sent:>7} {bits:>6} {received:>7} {bits:>6} \
         {dropped:>6} {posted:>7} {waiting:>5}"
    );
    Line::from(palette.span(Tone::Faint, text))
}

fn summary(name: Span<'static>, device: &Watched, look: &Look, palette: Palette) -> Line<'static> {
    let counts = &look.counts;
    let state = match counts.state.as_str() {
        "running" => Tone::Good,
        "recovering" => Tone::Warning,
        _ => Tone::Bad,
    };
    let attached = match counts.attached {
        true => "attached",
        false => "no VMM",
    };
    let crashes = match counts.failures {
        0 => Tone::Plain,
        _ => Tone::Warning,
    };
    let state_name = clean(&counts.state, 20);
    let version = clean(&counts.component_version, 20);
    let calls = device.calls().map_or_else(|| "-".to_owned(), short);
    Line::from(vec![
        name,
        palette.span(state, format!("  {state_name}")),
        palette.span(Tone::Plain, format!("  {attached}  {version}")),
        palette.span(Tone::Plain, format!("  up {}", age(counts.uptime_ms))),
        palette.span(Tone::Plain, format!("  {calls} calls/s")),
        palette.span(Tone::Plain, format!("  swaps {}", counts.swaps)),
        palette.span(crashes, format!("  crashes {}", counts.failures)),
    ])
}

fn row(
    mut begin: Vec<Span<'static>>,
    pace: Option<Pace>,
    now: &Flow,
    palette: Palette,
) -> Line<'static> {
    let number = |of: fn(&Pace) -> f64| {
        let number = pace.as_ref().map(of);
        number.map_or_else(|| "-".to_owned(), short)
    };
    let dropping = match pace {
        Some(pace) if pace.dropped > 0.0 => Tone::Warning,
        _ => Tone::Plain,
    };
    begin.push(palette.span(
        Tone::Plain,
        format!(
            "{:>7} {:>6} {:>7} {:>6} ",
            number(|it| it.sent),
            number(|it| it.sent_bits),
            number(|it| it.received),
            number(|it| it.received_bits),
        ),
    ));
    begin.push(palette.span(dropping, format!("{:>6} ", number(|it| it.dropped))));
    let rest = format!("{:>7} {:>5}", now.posted, now.waiting);
    begin.push(palette.span(Tone::Plain, rest));
    Line::from(begin)
}

/// Formats a number in at most five characters.
fn short(number: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let (mut number, mut unit) = (number, 0);
    // A number that rounds up to 1000 takes the next unit.
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{number:.0}"),
        _ if number < 9.95 => format!("{number:.1}{}", UNITS[unit]),
        _ => format!("{number:.0}{}", UNITS[unit]),
    }
}

/// Formats a duration by its two largest units.
fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ages_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (9_940.0, "9.9k"),
            (9_960.0, "10k"),
            (999_600.0, "1.0M"),
            (1.26e10, "13G"),
            (9.9e17, "990000T"),
        ] {
            assert_eq!(short(number), text);
        }
        for (millis, text) in [
            (900, "0s"),
            (61_000, "1m01s"),
            (3_720_000, "1h02m"),
            (90_000_000, "1d01h"),
        ] {
            assert_eq!(age(millis), text);
        }
    }
}
