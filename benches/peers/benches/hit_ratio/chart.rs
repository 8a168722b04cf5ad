//! Charts of the hit ratio over the capacity, as SVG.

use plotters::prelude::*;
use std::error::Error;
use std::path::Path;

/// A line of a chart: capacities and hit ratios in percent.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// The size of a chart, in pixels.
const SIZE: (u32, u32) = (860, 480);
const FONT: &str = "sans-serif";
/// The colors of the lines, in their order.
const COLORS: [RGBColor; 13] = [
    RGBColor(60, 60, 60),
    RGBColor(160, 160, 160),
    RGBColor(120, 160, 220),
    RGBColor(40, 100, 200),
    RGBColor(0, 160, 160),
    RGBColor(210, 30, 40),
    RGBColor(230, 140, 20),
    RGBColor(150, 90, 200),
    RGBColor(190, 150, 220),
    RGBColor(150, 200, 120),
    RGBColor(70, 150, 60),
    RGBColor(200, 180, 40),
    RGBColor(200, 130, 150),
];

/// Draws a chart into a file.
pub fn draw(file: &Path, title: &str, lines: &[Line<'_>]) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|line| &line.points);
    let least = points().map(|point| point.0).fold(f64::MAX, f64::min);
    let most = points().map(|point| point.0).fold(0.0, f64::max);
    let top = points().map(|point| point.1).fold(1.0, f64::max) * 1.05;
    let bottom = points().map(|point| point.1).fold(100.0, f64::min) * 0.9;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d((least..most).log_scale(), bottom..top)?;
    chart
        .configure_mesh()
        .x_desc("entries")
        .y_desc("hit ratio, %")
        .x_label_formatter(&|entries| format!("{entries:.0}"))
        .y_label_formatter(&|percent| format!("{percent:.0}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (line, color) in lines.iter().zip(COLORS) {
        // The lines of hotset are thicker.
        let width = if line.name.starts_with("hotset") {
            3
        } else {
            1
        };
        let style = color.stroke_width(width);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style))?
            .label(line.name.replace('`', ""))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}
