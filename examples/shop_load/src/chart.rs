//! A chart of the comparison, as SVG.

use crate::AnyError;
use crate::comparison::{Comparison, Side};
use crate::mix::Endpoint;
use crate::report::time;
use crate::tally::Summary;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// The size of the chart, in pixels.
const SIZE: (u32, u32) = (1_000, 440);
const FONT: &str = "sans-serif";
const COLOR_OFF: RGBColor = RGBColor(140, 140, 140);
const COLOR_ON: RGBColor = RGBColor(210, 30, 40);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws the chart into a file.
pub(crate) fn draw(file: &Path, comparison: &Comparison) -> Result<(), AnyError> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (times, reads) = area.split_horizontally(720);
    draw_times(&times, comparison)?;
    draw_reads(&reads, [&comparison.off, &comparison.on])?;
    let drawn = area.present();
    drawn.map_err(|error| format!("cannot write {}: {error}", file.display()).into())
}

/// Draws a line from the median to the 99th percentile for each endpoint, with the cache off and on.
fn draw_times(area: &Area<'_>, comparison: &Comparison) -> Result<(), AnyError> {
    let cacheable = Endpoint::ALL.into_iter().filter(|it| it.is_cacheable());
    let names: Vec<_> = cacheable.clone().map(Endpoint::name).collect();
    let names: Vec<_> = names.into_iter().chain(["all"]).collect();
    let summaries = |side: &Side| -> Vec<Summary> {
        let each = cacheable
            .clone()
            .map(|endpoint| side.tally.summary(|it| it == endpoint));
        let all = side.tally.summary(Endpoint::is_cacheable);
        each.chain([all]).collect()
    };
    let sides = [
        ("cache off", COLOR_OFF, -0.13, summaries(&comparison.off)),
        ("cache on", COLOR_ON, 0.13, summaries(&comparison.on)),
    ];
    let mut chart = ChartBuilder::on(area)
        .caption("Response times by endpoint", (FONT, 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(
            -0.5..as_f64(names.len()) - 0.5,
            bounds(sides.iter().flat_map(|side| &side.3)).log_scale(),
        )?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(names.len())
        .x_label_formatter(&|place| label(&names, *place))
        .x_desc("endpoint")
        .y_desc("response time: median to 99th percentile (log scale)")
        .y_label_formatter(&|seconds| time(Duration::from_secs_f64(*seconds)))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (name, color, offset, summaries) in sides {
        let points = summaries.iter().enumerate().map(|(place, summary)| {
            let x = as_f64(place) + offset;
            [summary.p50, summary.p99].map(|time| (x, time.as_secs_f64()))
        });
        let points: Vec<_> = points.filter(|[p50, _]| p50.1 > 0.0).collect();
        let lines = points
            .iter()
            .map(|&points| PathElement::new(points, color.stroke_width(4)));
        chart
            .draw_series(lines)?
            .label(format!("{name}: p50 (dot) to p99"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(4)));
        let medians = points
            .iter()
            .map(|&[p50, _]| Circle::new(p50, 6, color.filled()));
        chart.draw_series(medians)?;
        let ends = points.iter().map(|&[_, (x, p99)]| {
            PathElement::new([(x - 0.08, p99), (x + 0.08, p99)], color.stroke_width(4))
        });
        chart.draw_series(ends)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// Returns the range of the time axis.
fn bounds<'a>(summaries: impl Iterator<Item = &'a Summary> + Clone) -> Range<f64> {
    let times = summaries.flat_map(|summary| [summary.p50, summary.p99]);
    let times = times.filter(|time| !time.is_zero());
    let min = times.clone().min().unwrap_or(Duration::from_micros(1));
    let max = times.max().unwrap_or(Duration::from_secs(1));
    // The factor leaves space for the legend.
    min.as_secs_f64() / 1.5..max.as_secs_f64() * 3.0
}

/// Returns the name of the endpoint at a position of the axis, or nothing between two endpoints.
fn label(names: &[&str], place: f64) -> String {
    let name = names
        .iter()
        .enumerate()
        .find(|(at, _)| (as_f64(*at) - place).abs() < 0.01);
    name.map_or(String::new(), |(_, name)| name.replace("GET ", ""))
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(number: usize) -> f64 {
    number as f64
}

/// Draws the numbers of database reads as bars.
fn draw_reads(area: &Area<'_>, sides: [&Side; 2]) -> Result<(), AnyError> {
    let reads = sides.map(Side::reads_per_1000);
    let names = ["cache off", "cache on"];
    let mut chart = ChartBuilder::on(area)
        .caption("Database reads", (FONT, 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.5..1.5, 0.0..reads[0].max(reads[1]) * 1.15)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(3)
        .x_label_formatter(&|place| label(&names, *place))
        .y_desc("reads per 1,000 requests")
        .y_label_formatter(&|reads| format!("{reads:.0}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for ((place, reads), color) in reads.into_iter().enumerate().zip([COLOR_OFF, COLOR_ON]) {
        let x = as_f64(place);
        let bar = Rectangle::new([(x - 0.3, 0.0), (x + 0.3, reads)], color.filled());
        chart.draw_series([bar])?;
        // The offset is in pixels from the top of the bar.
        let text = Text::new(format!("{reads:.0}"), (-12, -18), (FONT, 14));
        chart.draw_series([EmptyElement::at((x, reads)) + text])?;
    }
    Ok(())
}
