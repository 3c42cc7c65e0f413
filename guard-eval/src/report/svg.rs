//! Pictures of a report as SVG, drawn with the page's colours.

use std::fmt::Write;

use guard_core::is_hidden;

/// A point in the units of the axes.
pub(super) type Point = (f64, f64);

/// A line of a plot and the number of its colour.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
    pub(super) colour: usize,
}

/// A plot over two axes.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) x: Axis<'a>,
    pub(super) y: Axis<'a>,
}

pub(super) struct Axis<'a> {
    pub(super) title: &'a str,
    pub(super) from: f64,
    pub(super) to: f64,
}

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 44.0;

impl Plot<'_> {
    /// Lines from point to point.
    pub(super) fn lines(&self, series: &[Series], diagonal: bool) -> String {
        self.frame(&self.body(series, diagonal))
    }

    /// The same with a mark at each point.
    pub(super) fn marks(&self, series: &[Series], diagonal: bool) -> String {
        let mut body = self.body(series, diagonal);
        for line in series {
            for point in &line.points {
                let (x, y) = self.place(*point);
                let _ = write!(
                    body,
                    r#"<circle class="mark c{}" cx="{x:.1}" cy="{y:.1}" r="4"><title>{}: {:.3}, {:.3}</title></circle>"#,
                    line.colour % COLOURS,
                    escape(&line.name),
                    point.0,
                    point.1
                );
            }
        }
        self.frame(&body)
    }

    fn body(&self, series: &[Series], diagonal: bool) -> String {
        let mut body = String::new();
        if diagonal {
            let from = self.place((self.x.from, self.y.from));
            let to = self.place((self.x.to, self.y.to));
            let _ = write!(
                body,
                r#"<line class="guide" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
                from.0, from.1, to.0, to.1
            );
        }
        for line in series.iter().filter(|line| line.points.len() > 1) {
            let places = line.points.iter().map(|point| self.place(*point));
            let points: Vec<String> = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = write!(
                body,
                r#"<polyline class="line c{}" points="{}"><title>{}</title></polyline>"#,
                line.colour % COLOURS,
                points.join(" "),
                escape(&line.name)
            );
        }
        body
    }

    fn place(&self, (x, y): Point) -> Point {
        let share = |value: f64, axis: &Axis<'_>| {
            let span = axis.to - axis.from;
            if span > 0.0 { ((value - axis.from) / span).clamp(0.0, 1.0) } else { 0.5 }
        };
        (
            LEFT + share(x, &self.x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - share(y, &self.y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    fn frame(&self, body: &str) -> String {
        let mut grid = String::new();
        for tick in 0..=TICKS {
            let at = |axis: &Axis<'_>| {
                axis.from + (axis.to - axis.from) * f64::from(tick) / f64::from(TICKS)
            };
            let (x, y) = self.place((at(&self.x), at(&self.y)));
            let (left, low) = (LEFT, HEIGHT - BOTTOM);
            let _ = write!(
                grid,
                r#"<line class="grid" x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{low}"/><line class="grid" x1="{left}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}"/>"#,
                WIDTH - RIGHT
            );
            let _ = write!(
                grid,
                r#"<text class="tick" x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                low + 15.0,
                number(at(&self.x)),
                left - 6.0,
                y + 4.0,
                number(at(&self.y))
            );
        }
        let middle = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) / 2.0;
        format!(
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><text class="title" x="{LEFT}" y="17">{title}</text>{grid}{body}<text class="axis" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text><text class="axis" transform="translate(13 {middle:.1}) rotate(-90)" text-anchor="middle">{}</text></svg>"#,
            LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
            HEIGHT - 8.0,
            escape(self.x.title),
            escape(self.y.title),
            title = escape(self.title),
        )
    }
}

/// The parts into which grid lines divide an axis.
const TICKS: u32 = 5;

/// How many colours the page has.
pub(super) const COLOURS: usize = 8;

/// A bar with its interval.
pub(super) struct Bar {
    pub(super) group: String,
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) interval: Option<(f64, f64)>,
    pub(super) colour: usize,
}

/// Horizontal bars from 0 to 100 percent, in groups.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    const ROW: f64 = 18.0;
    const SPAN: f64 = 400.0;
    const VALUES: f64 = 46.0;
    let longest = bars.iter().map(|bar| bar.name.chars().count()).max().unwrap_or(0);
    let names = (longest as f64 * 6.3 + 16.0).clamp(40.0, 260.0);
    let wide = names + SPAN + VALUES;
    let mut body = String::new();
    let mut y = 34.0;
    let mut group = None;
    for bar in bars {
        if group != Some(&bar.group) {
            y += if group.is_some() { 8.0 } else { 0.0 };
            let _ = write!(
                body,
                r#"<text class="group" x="0" y="{:.1}">{}</text>"#,
                y + 11.0,
                escape(&bar.group)
            );
            y += ROW;
            group = Some(&bar.group);
        }
        let width = SPAN * bar.value.clamp(0.0, 1.0);
        let _ = write!(
            body,
            r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text><rect class="bar c{}" x="{names:.1}" y="{y:.1}" width="{width:.1}" height="13" rx="2"/>"#,
            names - 8.0,
            y + 11.0,
            escape(&bar.name),
            bar.colour % COLOURS,
        );
        let mut end = width;
        if let Some((low, high)) = bar.interval {
            let (low, high) = (names + SPAN * low, names + SPAN * high);
            end = end.max(high - names);
            let middle = y + 6.5;
            let _ = write!(
                body,
                r#"<path class="whisker" d="M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v7M{high:.1} {:.1}v7"/>"#,
                middle - 3.5,
                middle - 3.5
            );
        }
        let _ = write!(
            body,
            r#"<text class="tick" x="{:.1}" y="{:.1}">{:.1}</text>"#,
            names + end + 6.0,
            y + 11.0,
            100.0 * bar.value
        );
        y += ROW;
    }
    format!(
        r#"<svg viewBox="0 0 {wide:.0} {:.0}" role="img" aria-label="{title}"><text class="title" x="0" y="17">{title}</text>{body}</svg>"#,
        y + 4.0,
        title = escape(title),
    )
}

/// The end of an axis from 0 whose ticks are round numbers and which holds `largest`.
pub(super) fn round_end(largest: f64) -> f64 {
    let rough = largest / f64::from(TICKS);
    let scale = 10.0_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * scale);
    let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(rough);
    step * f64::from(TICKS)
}

fn number(value: f64) -> String {
    if value.abs() >= 10.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Text in markup: nothing of it is markup, and no control character passes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            c if is_hidden(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (largest, end) in [(3100.0, 5000.0), (900.0, 1000.0), (1.0, 1.0), (12.0, 12.5)] {
            assert_eq!(round_end(largest), end);
        }
    }
}
