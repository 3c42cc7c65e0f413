//! Files of predictions, as the reference's `generated_predictions.jsonl` and a little more.

use std::collections::HashMap;
use std::path::Path;

use guard_core::Verdict;
use guard_data::LineLog;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use crate::error::EvalError;

/// What a system said about one row of a benchmark: one line of a file.
///
/// The first three fields are the reference's; its scripts read files that have the others, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Prediction {
    /// What the model read, the instruction included.
    pub prompt: String,
    /// The label: its word, or a block of answers where there are several.
    pub label: String,
    /// What the model wrote; for guards that write nothing, their answers in words.
    pub predict: String,
    /// The id of the row. The reference's files have none and are in the benchmark's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The verdict, for guards that do not write text or know more than their text says; without
    /// its reasoning, which is in `predict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Which guard made it with which options, for runs that go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Why there is no verdict, if the guard failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Prediction {
    /// A prediction with the reference's three fields.
    pub fn new(
        prompt: impl Into<String>,
        label: impl Into<String>,
        predict: impl Into<String>,
    ) -> Self {
        Self {
            prompt: prompt.into(),
            label: label.into(),
            predict: predict.into(),
            id: None,
            verdict: None,
            run: None,
            error: None,
        }
    }
}

/// Reads a file of predictions, one a line. Where a row failed and was judged again, the later
/// line stands for it.
///
/// # Errors
///
/// [`EvalError`] names the first line that is none: a score over a part of the lines would be
/// another score.
pub fn read_predictions(path: impl AsRef<Path>) -> Result<Vec<Prediction>, EvalError> {
    let path = path.as_ref();
    let bytes = guard_data::read_whole(path)?;
    let lines = parse_lines(path, &bytes)?;
    Ok(without_retried(lines.into_iter().map(|(_, prediction)| prediction).collect()))
}

/// A prediction with the number of its line, from 1.
type NumberedLine = (u64, Prediction);

/// The predictions of whole lines.
fn parse_lines(path: &Path, bytes: &[u8]) -> Result<Vec<NumberedLine>, EvalError> {
    /// Lines that are read side by side: it bounds what a file of empty lines takes.
    const BATCH: usize = 4096;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let lines = (1..).zip(bytes.split(|byte| *byte == b'\n'));
    let mut lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty()).peekable();
    let mut predictions = Vec::new();
    while lines.peek().is_some() {
        let batch: Vec<(u64, &[u8])> = lines.by_ref().take(BATCH).collect();
        let read = |(line, bytes)| match serde_json::from_slice::<Prediction>(bytes) {
            Ok(prediction) => Ok((line, prediction)),
            Err(error) => Err(EvalError::Foreign {
                path: path.to_owned(),
                line,
                what: match error.classify() {
                    Category::Data => "its fields are not those of a prediction",
                    _ => "not whole JSON",
                },
            }),
        };
        let batch = batch.into_par_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        predictions.extend(batch);
    }
    Ok(predictions)
}

/// Leaves out failures whose row was judged again.
fn without_retried(mut predictions: Vec<Prediction>) -> Vec<Prediction> {
    let last: HashMap<String, usize> = predictions
        .iter()
        .enumerate()
        .filter_map(|(place, prediction)| Some((prediction.id.clone()?, place)))
        .collect();
    let mut place = 0;
    predictions.retain(|prediction| {
        let later = prediction.id.as_ref().is_some_and(|id| last[id] > place);
        place += 1;
        prediction.error.is_none() || !later
    });
    predictions
}

/// A file of predictions that a run adds to.
#[derive(Debug)]
pub(crate) struct PredictionLog {
    log: LineLog,
}

impl PredictionLog {
    /// Opens the file, or makes it, and reads its whole lines. Nothing is changed yet.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<NumberedLine>), EvalError> {
        let log = LineLog::open(path)?;
        let mut bytes = Vec::new();
        for line in log.lines()? {
            bytes.extend(line?);
            bytes.push(b'\n');
        }
        let done = parse_lines(path, &bytes)?;
        let torn = log.torn_line()?;
        if done.is_empty() && !torn.is_empty() && !torn.starts_with(b"{\"prompt\":") {
            let what = "no earlier output";
            return Err(EvalError::Foreign { path: path.to_owned(), line: 1, what });
        }
        Ok((Self { log }, done))
    }

    /// Cuts off a last line that was torn when its writer died. For a file that is known to be
    /// of this run.
    pub(crate) fn accept(&mut self) -> Result<(), EvalError> {
        Ok(self.log.cut_torn_line()?)
    }

    /// Adds a line and makes sure that it is out.
    pub(crate) fn write(&mut self, prediction: &Prediction) -> Result<(), EvalError> {
        let line = serde_json::to_vec(prediction)
            .map_err(|error| EvalError::io("write", self.log.path(), error.into()))?;
        Ok(self.log.append(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    #[test]
    fn fault_t64_a_torn_line_is_cut_and_the_rest_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let (mut log, done) = PredictionLog::open(&path).unwrap();
        assert_eq!(done, []);
        // A second run is kept off.
        assert!(matches!(PredictionLog::open(&path), Err(EvalError::InUse { .. })));
        let lines = [Prediction::new("a", "harmful", "x"), Prediction::new("b", "harmful", "y\n")];
        lines.iter().for_each(|line| log.write(line).unwrap());
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"prompt\":\"c\",\"la").unwrap();
        assert!(read_predictions(&path).is_err());
        drop(log);
        let (mut log, done) = PredictionLog::open(&path).unwrap();
        assert_eq!(done, [(1, lines[0].clone()), (2, lines[1].clone())]);
        log.accept().unwrap();
        log.write(&lines[0]).unwrap();
        assert_eq!(read_predictions(&path).unwrap().len(), 3);
    }

    #[test]
    fn a_row_that_was_judged_again_counts_once() {
        let line = |id: &str, failed: bool| {
            let mut line = Prediction::new("a", "harmful", "x");
            line.id = Some(id.to_owned());
            line.error = failed.then(|| "the server is down".to_owned());
            line
        };
        let lines = vec![line("1", true), line("2", true), line("1", false), line("1", false)];
        // Two answers to one row stay two: that is told when they meet their rows.
        let kept = without_retried(lines);
        assert_eq!(kept, [line("2", true), line("1", false), line("1", false)]);
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        for text in ["precious\n", "precious", "{\"prompt\":\"a\"}\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(PredictionLog::open(&path).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
