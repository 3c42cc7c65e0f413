//! JSON lines of every step.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use guard_data::{LineLog, LineLogError};
use serde_json::{Map, Value, json};

use crate::report::{StepReport, TrainObserver};

/// Writes a JSON line for every step: the numbers of its [`StepReport`] by name, those of the
/// objective among them.
///
/// A run that goes on from a checkpoint, or begins anew where none was written yet, cuts off the
/// steps that it makes again, so the file has each step once. A line that cannot be written ends the run in good order;
/// [`StepLog::finish`] says why.
#[derive(Debug)]
pub struct StepLog {
    log: LineLog,
    /// Whether a step was written since the file was opened.
    begun: bool,
    failure: Option<LineLogError>,
}

/// Why steps could not be logged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepLogError {
    /// The file cannot be used.
    #[error(transparent)]
    Log(#[from] LineLogError),
    /// There is a log of another run.
    #[error("{} has steps of a run already: resume it, or choose another file", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
}

impl StepLog {
    /// Opens the log of a run that begins.
    ///
    /// # Errors
    ///
    /// [`StepLogError::Occupied`] when there are steps in it.
    pub fn begin(path: impl Into<PathBuf>) -> Result<Self, StepLogError> {
        let path = path.into();
        let log = LineLog::open(&path)?;
        match log.is_empty() {
            true => Ok(Self { log, begun: false, failure: None }),
            false => Err(StepLogError::Occupied { path }),
        }
    }

    /// Opens the log of a run that goes on, or begins if there is no checkpoint yet.
    ///
    /// # Errors
    ///
    /// [`StepLogError::Log`] when the file cannot be used.
    pub fn resume(path: impl Into<PathBuf>) -> Result<Self, StepLogError> {
        let mut log = LineLog::open(path)?;
        log.cut_torn_line()?;
        Ok(Self { log, begun: false, failure: None })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.log.path()
    }

    /// Whether every step was written.
    ///
    /// # Errors
    ///
    /// What went wrong first.
    pub fn finish(self) -> Result<(), StepLogError> {
        self.failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    fn write(&mut self, report: &StepReport) -> Result<(), LineLogError> {
        if !self.begun {
            self.cut_behind(report.step.saturating_sub(1))?;
            self.begun = true;
        }
        self.log.append(Value::Object(line(report)).to_string().as_bytes())
    }

    /// Keeps the lines up to this step.
    fn cut_behind(&mut self, step: u64) -> Result<(), LineLogError> {
        let mut bytes = 0;
        for line in self.log.lines()? {
            let line = line?;
            let number = serde_json::from_slice::<Value>(&line).ok();
            if number.and_then(|line| line["step"].as_u64()).is_none_or(|number| number > step) {
                break;
            }
            bytes += line.len() as u64 + 1;
        }
        self.log.cut_to(bytes)
    }
}

impl TrainObserver for StepLog {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        match self.write(report) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failure.get_or_insert(error);
                ControlFlow::Break(())
            }
        }
    }
}

fn line(report: &StepReport) -> Map<String, Value> {
    let seconds = report.elapsed.as_secs_f64();
    let pairs = [
        ("step", json!(report.step)),
        ("total_steps", json!(report.total_steps)),
        ("loss", json!(report.loss)),
        ("learning_rate", json!(report.learning_rate)),
        ("gradient_norm", json!(report.gradient_norm)),
        ("validation_loss", json!(report.validation_loss)),
        ("examples", json!(report.window.examples)),
        ("target_tokens", json!(report.window.target_tokens)),
        ("tokens", json!(report.tokens)),
        ("seconds", json!(seconds)),
        ("skipped", json!(report.skipped)),
    ];
    let known = pairs.into_iter().map(|(name, value)| (name.to_owned(), value));
    let numbers = report.numbers.iter().map(|n| (n.name.to_owned(), json!(n.value)));
    known.filter(|(_, value)| !value.is_null()).chain(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Number, Window};

    fn report(step: u64) -> StepReport {
        let mut report = StepReport::new(step, Window { examples: 2, target_tokens: 9 });
        report.loss = step as f64 / 3.0;
        report.numbers.push(Number { name: "rewards/margins", value: 0.5 });
        report
    }

    fn steps(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        let step = |line: &str| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64();
        text.lines().map(|line| step(line).unwrap()).collect()
    }

    #[test]
    fn a_resumed_log_has_each_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.jsonl");
        let mut log = StepLog::begin(&path).unwrap();
        for step in 1..=5 {
            assert!(log.on_step(&report(step)).is_continue());
        }
        log.finish().unwrap();
        assert!(matches!(StepLog::begin(&path), Err(StepLogError::Occupied { .. })));
        // The kill tore the next line.
        let mut text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""rewards/margins":0.5"#));
        text.push_str(r#"{"step":6,"lo"#);
        std::fs::write(&path, text).unwrap();
        let mut log = StepLog::resume(&path).unwrap();
        for step in 4..=6 {
            assert!(log.on_step(&report(step)).is_continue());
        }
        assert_eq!(steps(&path), [1, 2, 3, 4, 5, 6]);
    }
}
