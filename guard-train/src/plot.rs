//! The curves of a run as a picture.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;

/// The numbers of all steps of a run, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingCurves {
    /// For each number the steps that have it.
    curves: BTreeMap<String, Vec<(f64, f64)>>,
}

/// Why a picture could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// The log cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log has no step.
    #[error("{} has no step to draw", path.display())]
    Empty {
        /// The log.
        path: PathBuf,
    },
    /// The drawing failed.
    #[error("cannot draw the curves: {0}")]
    Draw(String),
}

/// What is drawn together, and what the picture is called. Everything else gets its own picture.
const PANELS: [(&str, &[&str]); 7] = [
    ("loss", &["loss", "validation_loss"]),
    ("learning rate", &["learning_rate"]),
    ("gradient norm", &["gradient_norm"]),
    ("rewards", &["rewards/chosen", "rewards/rejected"]),
    ("reward margins", &["rewards/margins"]),
    ("reward accuracy", &["rewards/accuracies"]),
    ("log-probabilities", &["logps/chosen", "logps/rejected"]),
];

/// Numbers of the log that are no curves.
const NOT_DRAWN: [&str; 7] =
    ["step", "total_steps", "examples", "target_tokens", "tokens", "seconds", "validation_seconds"];

const COLUMNS: usize = 2;
const PANEL: (u32, u32) = (460, 260);

impl TrainingCurves {
    /// Reads the log that [`StepLog`](crate::StepLog) wrote. Lines that are none are passed over.
    ///
    /// # Errors
    ///
    /// [`PlotError`] when the file cannot be read or has no step.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, PlotError> {
        let path = path.as_ref();
        let failed = |source| PlotError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut curves = Self::default();
        for line in BufReader::new(file).lines() {
            if let Ok(Value::Object(line)) = serde_json::from_str(&line.map_err(failed)?) {
                curves.add(&line);
            }
        }
        match curves.curves.is_empty() {
            true => Err(PlotError::Empty { path: path.to_owned() }),
            false => Ok(curves),
        }
    }

    fn add(&mut self, line: &serde_json::Map<String, Value>) {
        let Some(step) = line.get("step").and_then(Value::as_f64) else { return };
        for (name, value) in line {
            let drawn = !NOT_DRAWN.contains(&name.as_str());
            if let Some(value) = value.as_f64().filter(|value| drawn && value.is_finite()) {
                self.curves.entry(name.clone()).or_default().push((step, value));
            }
        }
    }

    /// Loss, learning rate, gradient norm and the numbers of the objective over the steps, as
    /// an SVG.
    ///
    /// # Errors
    ///
    /// [`PlotError::Draw`] when a curve cannot be drawn.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        let panels = self.panels();
        let rows = panels.len().div_ceil(COLUMNS).max(1);
        let size = (PANEL.0 * COLUMNS as u32, PANEL.1 * rows as u32);
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            area.fill(&WHITE).map_err(drawing)?;
            for (panel, area) in panels.iter().zip(area.split_evenly((rows, COLUMNS))) {
                draw(panel, &area).map_err(PlotError::Draw)?;
            }
            area.present().map_err(drawing)?;
        }
        Ok(svg)
    }

    fn panels(&self) -> Vec<Panel<'_>> {
        let curves = |names: &[&str]| {
            let known = names.iter().filter_map(|name| self.curves.get_key_value(*name));
            known.map(|(name, points)| (name.as_str(), points.as_slice())).collect::<Vec<_>>()
        };
        let known = PANELS.iter().map(|(title, names)| (*title, curves(names)));
        let named: Vec<&str> = PANELS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let others = self.curves.keys().filter(|name| !named.contains(&name.as_str()));
        let others = others.map(|name| (name.as_str(), curves(&[name.as_str()])));
        let all = known.chain(others).filter(|(_, curves)| !curves.is_empty());
        all.map(|(title, curves)| Panel { title, curves }).collect()
    }
}

struct Panel<'a> {
    title: &'a str,
    curves: Vec<(&'a str, &'a [(f64, f64)])>,
}

fn drawing(error: impl std::fmt::Display) -> PlotError {
    PlotError::Draw(error.to_string())
}

fn draw(panel: &Panel<'_>, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), String> {
    let points = || panel.curves.iter().flat_map(|(_, points)| points.iter().copied());
    let [x, y] = [range(points().map(|point| point.0)), range(points().map(|point| point.1))];
    // What a sum of steps leaves of nothing is nothing.
    let least = (y.end - y.start) * 1e-9;
    let failed = |error: DrawingAreaErrorKind<std::io::Error>| error.to_string();
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)
        .map_err(failed)?;
    let label = |value: &f64| match value.abs() {
        size if size < least => "0".to_owned(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.1e}"),
        _ => format!("{}", (value * 1e4).round() / 1e4),
    };
    let mut mesh = chart.configure_mesh();
    let whole = |step: &f64| format!("{step:.0}");
    mesh.light_line_style(TRANSPARENT).x_labels(6).y_labels(6);
    mesh.x_label_formatter(&whole).y_label_formatter(&label);
    mesh.draw().map_err(failed)?;
    for (number, (name, points)) in panel.curves.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        let series = chart.draw_series(line).map_err(failed)?;
        series.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour));
    }
    if panel.curves.len() > 1 {
        let mut legend = chart.configure_series_labels();
        legend.background_style(WHITE.mix(0.8)).draw().map_err(failed)?;
    }
    Ok(())
}

/// From the least to the greatest value, with some room round them.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (mut least, mut greatest) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        (least, greatest) = (least.min(value), greatest.max(value));
    }
    let room = (greatest - least) * 0.04;
    let room = if room > 0.0 { room } else { greatest.abs().max(1.0) * 0.5 };
    least - room..greatest + room
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.jsonl");
        let line = |step: u32| {
            format!(
                r#"{{"step":{step},"loss":{},"learning_rate":1e-5,"rewards/chosen":0.1,"rewards/rejected":-0.1,"my_number":2}}"#,
                1.0 / f64::from(step)
            )
        };
        let lines: Vec<String> = (1..=9).map(line).collect();
        std::fs::write(&path, lines.join("\n") + "\n{torn").unwrap();
        let svg = TrainingCurves::read(&path).unwrap().to_svg().unwrap();
        for title in ["loss", "learning rate", "rewards", "rewards/rejected", "my_number"] {
            assert!(svg.contains(title), "{title} is not drawn");
        }
        assert!(
            !svg.contains("gradient norm") && svg.starts_with("<svg") && svg.ends_with("</svg>\n")
        );
    }

    #[test]
    fn what_cannot_be_drawn_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.jsonl");
        assert!(matches!(TrainingCurves::read(&path), Err(PlotError::Read { .. })));
        std::fs::write(&path, "nonsense\n{\"step\":1,\"loss\":null}\n").unwrap();
        assert!(matches!(TrainingCurves::read(&path), Err(PlotError::Empty { .. })));
        // One step, and one that does not change.
        std::fs::write(&path, "{\"step\":1,\"loss\":0}\n").unwrap();
        TrainingCurves::read(&path).unwrap().to_svg().unwrap();
    }
}
