//! A chart of how far each requirement is met.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::{Figure, Report};

const WIDTH: u32 = 1000;
const LINE: u32 = 26;
const MARGIN: u32 = 70;
/// Room for the names.
const NAMES: u32 = 470;
/// The factor at the right edge; longer bars are cut.
const EDGE: f64 = 4.0;

const MET: RGBColor = RGBColor(0x2e, 0x7d, 0x32);
const MISSED: RGBColor = RGBColor(0xc6, 0x28, 0x28);

/// Draws a bar for each figure that has a requirement: its length is how many
/// times better the value is, and the line is at 1.
///
/// # Errors
///
/// If the file can't be written.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let judged: Vec<(&Figure, f64)> = report.figures.iter().filter_map(judge).collect();
    let height = MARGIN + LINE * judged.len() as u32 + MARGIN / 2;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    paint(&area, &judged).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

fn judge(figure: &Figure) -> Option<(&Figure, f64)> {
    let verdict = figure.verdict.as_ref()?;
    Some((figure, verdict.bound?.margin(verdict.value)))
}

fn paint<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    judged: &[(&Figure, f64)],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    area.fill(&WHITE)?;
    let at = |times: f64| (NAMES as f64 + times / EDGE * f64::from(WIDTH - NAMES - 60)) as i32;
    let title = ("sans-serif", 18).into_font();
    area.draw(&Text::new("Times better than required", (20, 20), title))?;
    let small = || ("sans-serif", 13).into_font();
    for (index, (figure, margin)) in judged.iter().enumerate() {
        let top = (MARGIN + LINE * index as u32) as i32;
        let name = format!("{}: {}", figure.row, figure.what);
        area.draw(&Text::new(name, (20, top + 4), small()))?;
        let color = if *margin >= 1.0 { MET } else { MISSED };
        let bar = [
            (at(0.0), top),
            (at(margin.min(EDGE)), top + LINE as i32 - 8),
        ];
        area.draw(&Rectangle::new(bar, color.filled()))?;
        let beside = (at(margin.min(EDGE)) + 6, top + 4);
        area.draw(&Text::new(format!("{margin:.2}"), beside, small()))?;
    }
    let bottom = (MARGIN + LINE * judged.len() as u32) as i32;
    let line = vec![(at(1.0), MARGIN as i32 - 12), (at(1.0), bottom)];
    area.draw(&PathElement::new(line, BLACK.stroke_width(2)))?;
    area.draw(&Text::new(
        "required",
        (at(1.0) - 24, MARGIN as i32 - 28),
        small(),
    ))?;
    area.present()
}
