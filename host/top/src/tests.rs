//! The screen's content at 80 columns.

use manatee_control::event::{Crash, Stamped};
use manatee_control::method::{Counts, PortCounts, RefusedCounts, RxCounts, TxCounts, UpDown};
use manatee_control::{Client, Event};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;
use serde_json::json;

use super::*;
use crate::arguments::interval;

/// Returns a sample of a device with two ports after this many seconds.
fn look(seconds: u64) -> Look {
    let transmit = TxCounts {
        packets: 1_300_000 * seconds,
        bytes: 1_250_000_000 * seconds,
        dropped_busy: 3 * seconds,
        ..TxCounts::default()
    };
    let receive = RxCounts {
        packets: 820 * seconds,
        bytes: 820 * 60 * seconds,
        ..RxCounts::default()
    };
    let tap = PortCounts {
        endpoint: "tap=tap0".into(),
        posted_buffers: 512,
        transmit,
        receive,
        refused: RefusedCounts {
            source: 2 * seconds,
            ..RefusedCounts::default()
        },
        rate_mbps: Some(10_000),
        ..PortCounts::default()
    };
    let null = PortCounts {
        port: 1,
        endpoint: "null".into(),
        link: UpDown::Down,
        ..PortCounts::default()
    };
    let queue = |share: u64| {
        json!({
            "posted_buffers": 256, "pending_transmits": share,
            "counters": {
                "transmit": { "packets": 1000 * share * seconds, "bytes": 0, "dropped_busy": 0 },
                "receive": { "packets": 0, "bytes": 0 },
                "refused": { "source": seconds },
            },
        })
    };
    let tree = json!({ "ports": {
        "0": { "queues": [queue(1), queue(4)] },
        "1": { "queues": [queue(0)] },
    } });
    Look {
        counts: Counts {
            uptime_ms: 3_600_000 + 1000 * seconds,
            attached: true,
            state: "running".into(),
            component_version: "0.1.0".into(),
            swaps: 2,
            failures: 1,
            calls: 9000 * seconds,
            ports: vec![tap, null],
            ..Counts::default()
        },
        queues: Flow::queues(&tree),
    }
}

fn model() -> Model {
    let mut model = Model::new(&["/run/nic.control".into(), "/run/other.control".into()]);
    model.devices[0].looked(look(1));
    model.devices[0].looked(look(2));
    model.devices[1].lost("nobody\u{1b}[31m answers");
    let crash = Event::Crashed(Crash {
        failures: 1,
        reason: "unreachable".into(),
    });
    let told = |event| {
        Told::Event(Stamped {
            number: 1,
            time_ms: 3_723_004,
            event,
        })
    };
    model.happened(0, &told(Event::Attached));
    model.happened(0, &told(crash));
    model
}

fn picture(model: &Model, height: u16, colours: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(80, height)).unwrap();
    let every = Duration::from_secs(1);
    terminal
        .draw(|frame| view::draw(frame, model, Palette::new(colours), every))
        .unwrap();
    terminal.backend().buffer().clone()
}

fn rows(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width);
    let rows = buffer.content.chunks(width);
    let row = |cells: &[ratatui::buffer::Cell]| {
        let row: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        row.trim_end().to_owned()
    };
    rows.map(row).collect()
}

/// The expected lines at 80 columns.
const EXPECTED: [&str; 11] = [
    "manatee top, every 1 s   q ends",
    "nic.control  running  attached  0.1.0  up 1h00m  9.0k calls/s  swaps 2  crashes ",
    "PORT LINK ENDPOINT            SENT/s  bit/s  RECV/s  bit/s DROP/s  POSTED WAITS",
    "0    up   tap=tap0 <10000M      1.3M    10G     820   394k      5     512     5",
    "  queue 0                       1.0k      0       0      0      1     256     1",
    "  queue 1                       4.0k      0       0      0      1     256     4",
    "1    down null                     0      0       0      0      0       0     0",
    "other.control  nobody [31m answers",
    "Events",
    "01:02:03.004 attached: a virtual machine [nic.control]",
    "01:02:03.004 crashed (1): unreachable [nic.control]",
];

#[test]
fn all_of_it_fits_80_columns() {
    let shown = rows(&picture(&model(), 20, false));
    let expected: Vec<_> = EXPECTED.iter().map(|row| row.trim_end()).collect();
    let shown: Vec<_> = shown.iter().map(|row| row.trim_end()).collect();
    assert_eq!(shown[..11], expected, "{shown:#?}");
    assert!(shown[11..].iter().all(|row| row.is_empty()));
}

#[test]
fn colours_are_there_unless_they_are_unwanted() {
    let colours = |buffer: &Buffer| {
        let cells = buffer.content.iter();
        let mut colours: Vec<_> = cells.flat_map(|cell| [cell.fg, cell.bg]).collect();
        colours.sort_unstable_by_key(|colour| format!("{colour:?}"));
        colours.dedup();
        colours
    };
    assert_eq!(colours(&picture(&model(), 20, false)), [Color::Reset]);
    let coloured = colours(&picture(&model(), 20, true));
    for colour in [Color::Green, Color::Red, Color::Yellow, Color::DarkGray] {
        assert!(coloured.contains(&colour), "{colour:?} of {coloured:?}");
    }
    let (plain, coloured) = (picture(&model(), 20, false), picture(&model(), 20, true));
    assert_eq!(rows(&plain), rows(&coloured));
}

#[test]
fn small_screens_keep_the_newest_events() {
    let mut model = model();
    for number in 0..300 {
        model.happened(0, &Told::Lost(number));
    }
    let shown = rows(&picture(&model, 9, false));
    assert!(shown[8].contains("(299 events were lost"), "{shown:#?}");
    for height in [1, 2, 3] {
        rows(&picture(&model, height, false));
    }
}

#[test]
fn plain_text_is_what_the_screen_shows() {
    let text = view::text(&model());
    let lines: Vec<_> = text.lines().collect();
    // A terminal truncates long lines.
    let cut: Vec<String> = lines
        .iter()
        .map(|line| line.chars().take(80).collect())
        .collect();
    assert_eq!(cut[..], EXPECTED[1..8]);
    assert!(lines[0].ends_with("crashes 1"));
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn paces_need_two_looks_of_one_process() {
    let mut model = Model::new(&["/run/nic.control".into()]);
    let device = &mut model.devices[0];
    assert_eq!(device.port(0), None);
    device.looked(look(5));
    assert_eq!(device.port(0), None);
    device.looked(look(7));
    let pace = device.port(0).unwrap();
    assert_eq!((pace.sent, pace.dropped), (1_300_000.0, 5.0));
    assert_eq!(device.queue(0, 1).unwrap().sent, 4000.0);
    assert_eq!((device.queue(0, 2), device.port(2)), (None, None));
    // A restarted process counts from 0, and two samples at the same time give no rate.
    device.looked(look(1));
    assert_eq!(device.port(0), None);
    device.looked(look(1));
    assert_eq!(device.port(0), None);
    device.lost("gone");
    assert!(device.now().is_none());
}

#[test]
fn intervals_are_bounded() {
    assert_eq!(interval("0.1"), Ok(Duration::from_millis(100)));
    assert_eq!(interval("3600"), Ok(Duration::from_secs(3600)));
    for wrong in ["0", "0.05", "3601", "-1", "x", "", "inf", "NaN"] {
        assert!(
            interval(wrong).unwrap_err().contains("0.1 to 3600"),
            "{wrong}"
        );
    }
}

#[test]
fn a_device_that_does_not_exist_is_an_error() {
    let error = Client::connect(Path::new("/nonexistent/control")).unwrap_err();
    assert!(error.to_string().contains("manatee serve --control"));
}
