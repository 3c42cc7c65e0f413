//! JSON lines of every step.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use guard_data::{LineLog, LineLogError};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::objective::Number;
use crate::report::{StepReport, TrainEvent, TrainObserver};

/// Writes a JSON line for every step: the numbers of its [`StepReport`] by name, those of the
/// objective among them. A number of the objective that has the name of a number of the report,
/// such as `loss`, is written as `objective/loss`.
///
/// A run that goes on from a checkpoint, or begins anew where none was written yet, cuts off the
/// steps that it makes again, so the file has each step once. A line that cannot be written ends
/// the run in good order; [`StepLog::finish`] says why. With each checkpoint the lines are brought
/// to the disk: an observer that has a log inside hands it the events as well as the steps.
#[derive(Debug)]
pub struct StepLog {
    log: LineLog,
    /// The steps that were there when the file was opened; none once a step was written.
    before: Vec<Logged>,
    failure: Option<LineLogError>,
}

/// A step of a log, and where its line ends.
#[derive(Clone, Copy, Debug)]
struct Logged {
    step: u64,
    end: u64,
}

/// How every line begins. What begins otherwise was not written here.
const BEGINNING: &[u8] = br#"{"step":"#;

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
    /// A line is none of a log of steps: the file is another one, or was damaged. Nothing was
    /// changed.
    #[error("{}, line {line}: {reason}; mend the line or choose another file", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
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
            true => Ok(Self { log, before: Vec::new(), failure: None }),
            false => Err(StepLogError::Occupied { path }),
        }
    }

    /// Opens the log of a run that goes on, or begins if there is no checkpoint yet. Only a last
    /// line that a kill tore is cut off.
    ///
    /// # Errors
    ///
    /// [`StepLogError::Log`] when the file cannot be used, and [`StepLogError::Line`] when there is
    /// something else than steps in it.
    pub fn resume(path: impl Into<PathBuf>) -> Result<Self, StepLogError> {
        let mut log = LineLog::open(path)?;
        let before = read(&log)?;
        log.cut_torn_line()?;
        Ok(Self { log, before, failure: None })
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
        let again = self.before.partition_point(|logged| logged.step < report.step);
        if again < self.before.len() {
            let end = self.before[..again].last().map_or(0, |logged| logged.end);
            self.log.cut_to(end)?;
        }
        self.before.clear();
        self.log.append(&Line(fields(report)).bytes())
    }
}

/// The steps of a log, if there is nothing else in it.
fn read(log: &LineLog) -> Result<Vec<Logged>, StepLogError> {
    let bad = |line, reason: String| {
        Err(StepLogError::Line { path: log.path().to_owned(), line, reason })
    };
    let mut steps: Vec<Logged> = Vec::new();
    let mut end = 0;
    for (number, line) in (1..).zip(log.lines()?) {
        let line = line?;
        end += line.len() as u64 + 1;
        let value: Value = match serde_json::from_slice(&line) {
            Ok(value) => value,
            Err(error) => return bad(number, error.to_string()),
        };
        let last = steps.last().map_or(0, |logged| logged.step);
        match value["step"].as_u64() {
            Some(step) if step > last => steps.push(Logged { step, end }),
            Some(step) => return bad(number, format!("step {step} comes after step {last}")),
            None => return bad(number, "it has no step".to_owned()),
        }
    }
    let torn = log.torn_line()?;
    let common = torn.len().min(BEGINNING.len());
    match torn[..common] == BEGINNING[..common] {
        true => Ok(steps),
        false => bad(steps.len() as u64 + 1, "it is no step that was cut short".to_owned()),
    }
}

impl TrainObserver for StepLog {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        if self.failure.is_none() {
            self.failure = self.write(report).err();
        }
        match self.failure {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        }
    }

    fn on_event(&mut self, event: &TrainEvent<'_>) {
        if self.failure.is_none() && matches!(event, TrainEvent::CheckpointSaved { .. }) {
            self.failure = self.log.sync().err();
        }
    }
}

/// The fields of a line in their order.
struct Line(Vec<(String, Value)>);

impl Line {
    fn bytes(&self) -> Vec<u8> {
        // Numbers under names always become JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn fields(report: &StepReport) -> Vec<(String, Value)> {
    let seconds = report.elapsed.as_secs_f64();
    let validation_seconds = report.validation_elapsed.map(|elapsed| elapsed.as_secs_f64());
    let known = [
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
        ("validation_seconds", json!(validation_seconds)),
        ("skipped", json!(report.skipped)),
    ];
    let number = |number: &Number| {
        let name = match known.iter().any(|(name, _)| *name == number.name) {
            true => format!("objective/{}", number.name),
            false => number.name.to_owned(),
        };
        (name, json!(number.value))
    };
    let numbers: Vec<_> = report.numbers.iter().map(number).collect();
    let known = known.into_iter().filter(|(_, value)| !value.is_null());
    known.map(|(name, value)| (name.to_owned(), value)).chain(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Window;

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
        // Nothing that was written since the file was opened is cut.
        assert!(log.on_step(&report(7)).is_continue());
        log.on_event(&TrainEvent::CheckpointSaved { path: &path });
        log.finish().unwrap();
        assert_eq!(steps(&path), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_run_that_begins_anew_has_its_own_steps_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.jsonl");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"st").unwrap();
        let mut log = StepLog::resume(&path).unwrap();
        assert_eq!(steps(&path), [1, 2]);
        assert!(log.on_step(&report(1)).is_continue());
        assert_eq!(steps(&path), [1]);
    }

    #[test]
    fn a_file_that_is_no_log_is_named_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.jsonl");
        for (text, line, reason) in [
            ("{\"step\":1}\n{\"st\n{\"step\":3}\n", 2, "EOF"),
            ("{\"step\":1}\n\n", 2, "EOF"),
            ("{\"step\":1}\n{\"loss\":2}\n", 2, "no step"),
            ("{\"step\":2}\n{\"step\":2}\n", 2, "step 2 comes after step 2"),
            ("{\"step\":1}\nnotes", 2, "cut short"),
            ("notes of mine\n", 1, "expected"),
            ("notes of mine", 1, "cut short"),
            ("[1, 2]", 1, "cut short"),
            ("{\"name\": 1}", 1, "cut short"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = StepLog::resume(&path).unwrap_err();
            let named = matches!(&error, StepLogError::Line { line: found, .. } if *found == line);
            assert!(named && error.to_string().contains(reason), "{text}: {error}");
            assert!(error.to_string().contains("steps.jsonl"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_number_of_the_objective_does_not_hide_one_of_the_report() {
        let mut report = report(3);
        report.numbers.push(Number { name: "loss", value: 7.0 });
        report.numbers.push(Number { name: "step", value: 8.0 });
        report.validation_elapsed = Some(std::time::Duration::from_secs(2));
        let line = Line(fields(&report)).bytes();
        assert!(line.starts_with(BEGINNING));
        let line: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&line["step"], &line["loss"]), (&json!(3), &json!(1.0)));
        assert_eq!(line["objective/loss"], json!(7.0));
        assert_eq!(line["objective/step"], json!(8.0));
        assert_eq!(line["validation_seconds"], json!(2.0));
    }
}
