//! Limits the log lines that other parties cause: how many there are, and what they contain.
//!
//! Each line that a guest, a VMM, a component or a client can cause passes a [`Ration`], and
//! each text of theirs passes [`clean`].

use std::time::{Duration, Instant};

/// The longest foreign text in a line, in bytes.
pub const MAX_LINE: usize = 1024;

/// Lines that may pass at once.
const BURST: u32 = 16;
/// The first interval after which one more line may pass.
const FIRST_INTERVAL: Duration = Duration::from_secs(10);
/// The longest interval, if the flood does not end.
const LAST_INTERVAL: Duration = Duration::from_secs(600);

/// Limits the lines of one source. A burst passes at first, and then one line at an interval that
/// doubles as long as lines are dropped, up to ten minutes. Once none was dropped for ten
/// minutes, the initial state returns.
#[derive(Debug)]
pub struct Ration {
    left: u32,
    interval: Duration,
    /// The start of the interval after which the next line may pass.
    since: Instant,
    /// The time of the last dropped line.
    flooded: Option<Instant>,
    /// Lines that were dropped since the last that passed.
    untold: u64,
    dropped: u64,
}

impl Default for Ration {
    fn default() -> Self {
        Self {
            left: BURST,
            interval: FIRST_INTERVAL,
            since: Instant::now(),
            flooded: None,
            untold: 0,
            dropped: 0,
        }
    }
}

impl Ration {
    /// Counts a line. Returns how many were dropped since the last one if it may pass, None if not.
    pub fn pass(&mut self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    /// Returns how many lines were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn pass_at(&mut self, now: Instant) -> Option<u64> {
        let quiet = |flooded| now.saturating_duration_since(flooded) >= LAST_INTERVAL;
        if self.flooded.is_some_and(quiet) {
            self.flooded = None;
            self.interval = FIRST_INTERVAL;
        }
        self.refill(now);
        if self.left == 0 {
            self.flooded = Some(now);
            self.untold += 1;
            self.dropped += 1;
            return None;
        }
        self.left -= 1;
        if self.untold > 0 {
            self.interval = (2 * self.interval).min(LAST_INTERVAL);
        }
        Some(std::mem::take(&mut self.untold))
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let more = passed.as_nanos() / self.interval.as_nanos();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more);
        if self.left >= BURST {
            // The interval starts once there is room for more.
            (self.left, self.since) = (BURST, now);
        } else {
            self.since += more * self.interval;
        }
    }
}

/// Makes foreign text fit into one log line: truncates it to `most` bytes, and replaces whatever
/// ends a line, moves a cursor, changes the direction of writing or is invisible.
pub fn clean(text: &[u8], most: usize) -> String {
    /// Marks a truncated text.
    const CUT: char = '…';
    // The result has between a quarter and three times the bytes of its input.
    let cut_short = text.len() > 4 * most;
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * most)]);
    let mut line = String::with_capacity(text.len().min(most));
    // Where the text has to end for the mark to fit.
    let mut fits = 0;
    for c in text.chars().map(shown) {
        if line.len() + c.len_utf8() > most {
            line.truncate(fits);
            line.push(CUT);
            return line;
        }
        line.push(c);
        if line.len() + CUT.len_utf8() <= most {
            fits = line.len();
        }
    }
    if cut_short {
        line.truncate(fits);
        line.push(CUT);
    }
    line
}

/// Returns the character to show for a character.
fn shown(c: char) -> char {
    match c {
        // Invisible, with or without width.
        '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}' => {
            char::REPLACEMENT_CHARACTER
        }
        '"' | '\'' | '\\' => c,
        _ if c.is_control() || c.is_whitespace() => ' ',
        // `escape_debug` escapes what is of no use by itself: formatting, private and unassigned
        // characters, and combining marks.
        _ if c.escape_debug().len() > 1 => char::REPLACEMENT_CHARACTER,
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the seconds at which lines pass, of one that is tried each second.
    fn passed(ration: &mut Ration, begin: Instant, seconds: u64) -> Vec<u64> {
        let tries = 0..seconds;
        tries
            .filter(|&at| ration.pass_at(begin + Duration::from_secs(at)).is_some())
            .collect()
    }

    #[test]
    fn flood_gets_a_burst_and_then_ever_less() {
        let mut ration = Ration::default();
        let begin = Instant::now();
        let day = passed(&mut ration, begin, 24 * 3600);
        assert_eq!(day[..16], (0..16).collect::<Vec<_>>());
        let gaps: Vec<_> = day[20..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.is_sorted(), "{gaps:?}");
        assert_eq!(gaps.last(), Some(&600));
        assert!((24 * 6..24 * 6 + 24).contains(&day.len()), "{}", day.len());
        assert_eq!(ration.dropped() + day.len() as u64, 24 * 3600);
    }

    #[test]
    fn what_was_dropped_is_told_with_the_next_that_passes() {
        let mut ration = Ration::default();
        let begin = Instant::now();
        let passed = (0..100).filter(|_| ration.pass_at(begin).is_some()).count();
        assert_eq!(passed, BURST as usize);
        assert_eq!(ration.pass_at(begin + FIRST_INTERVAL), Some(84));
        assert_eq!(ration.pass_at(begin + FIRST_INTERVAL), None);
        assert_eq!(ration.dropped(), 85);
    }

    #[test]
    fn quiet_after_a_flood_brings_everything_back() {
        let mut ration = Ration::default();
        let begin = Instant::now();
        passed(&mut ration, begin, 7200);
        let later = begin + Duration::from_secs(7200) + 2 * LAST_INTERVAL;
        assert!(ration.pass_at(later).is_some());
        let later = later + BURST * FIRST_INTERVAL;
        assert_eq!(passed(&mut ration, later, 16).len(), 16);
    }

    #[test]
    fn source_that_says_little_says_all() {
        let mut ration = Ration::default();
        let begin = Instant::now();
        for line in 0..10_000 {
            let at = begin + line * FIRST_INTERVAL;
            assert_eq!(ration.pass_at(at), Some(0), "line {line}");
        }
    }

    #[test]
    fn text_is_one_line_without_tricks() {
        let tricks = [
            '\n',
            '\r',
            '\t',
            '\0',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{200e}',
            '\u{200f}',
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{feff}',
            '\u{ad}',
            '\u{e000}',
            '\u{f8ff}',
            '\u{10fffd}',
            '\u{fff9}',
            '\u{e0041}',
            '\u{378}',
            '\u{3164}',
            '\u{300}',
        ];
        for trick in tricks {
            let cleaned = clean(format!("a{trick}b").as_bytes(), 100);
            assert!(
                ["a b", "a\u{fffd}b"].contains(&&*cleaned),
                "{trick:?}: {cleaned:?}"
            );
        }
        let plain = r#"päckets "dropped" \ 'ü' 漢字 ✓ <0x1f>"#;
        assert_eq!(clean(plain.as_bytes(), 100), plain);
        assert_eq!(clean(b"a\xffb", 100), "a\u{fffd}b");
    }

    #[test]
    fn text_is_cut_where_a_character_begins_and_says_so() {
        for (text, most, expected) in [
            ("abcdef", 6, "abcdef"),
            ("abcdefg", 6, "abc…"),
            ("ääää", 8, "ääää"),
            ("ääääx", 8, "ää…"),
            ("", 3, ""),
        ] {
            assert_eq!(clean(text.as_bytes(), most), expected);
        }
        for text in [
            "x".repeat(90_000),
            "\u{202e}".repeat(90_000),
            "漢".repeat(400),
        ] {
            let cleaned = clean(text.as_bytes(), 1024);
            assert!(
                cleaned.len() <= 1024 && cleaned.ends_with('…'),
                "{}",
                cleaned.len()
            );
        }
        assert!(clean(&[0xff; 5000], 1024).len() <= 1024);
    }
}
