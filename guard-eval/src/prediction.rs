//! Files of predictions, as the reference's `generated_predictions.jsonl` and a little more.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use guard_core::Verdict;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

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
    /// What the model wrote.
    pub predict: String,
    /// The id of the row. The reference's files have none and are in the benchmark's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The verdict, for guards that do not write text or know more than their text says; without
    /// its reasoning, which is in `predict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
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
            error: None,
        }
    }
}

/// Reads a file of predictions.
///
/// # Errors
///
/// [`EvalError`] names the first line that is none: a score over a part of the lines would be
/// another score.
pub fn read_predictions(path: impl AsRef<Path>) -> Result<Vec<Prediction>, EvalError> {
    let path = path.as_ref();
    let bytes = guard_data::read_whole(path)?;
    let lines: Vec<(u64, &[u8])> = (1..).zip(bytes.split(|byte| *byte == b'\n')).collect();
    let lines = lines.into_par_iter().filter(|(_, line)| !line.trim_ascii().is_empty());
    let read = |(line, bytes)| {
        serde_json::from_slice(bytes).map_err(|_| EvalError::Foreign {
            path: path.to_owned(),
            line,
            what: "expected the texts `prompt`, `label` and `predict`",
        })
    };
    lines.map(read).collect()
}

/// A file of predictions that a run adds to.
#[derive(Debug)]
pub(crate) struct PredictionLog {
    file: File,
    path: PathBuf,
}

impl PredictionLog {
    /// Opens the file, or makes it. Whole lines are read; a last line that was torn when its
    /// writer died is cut off, if the file is one of predictions at all.
    pub(crate) fn resume(path: &Path) -> Result<(Self, Vec<Prediction>), EvalError> {
        let fail = |error| EvalError::io("open", path, error);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(fail)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fail)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let foreign =
            |line| EvalError::Foreign { path: path.to_owned(), line, what: "no earlier output" };
        let mut done = Vec::new();
        for (line, bytes) in (1..).zip(bytes[..whole].split_inclusive(|byte| *byte == b'\n')) {
            let prediction: Prediction =
                serde_json::from_slice(bytes).map_err(|_| foreign(line))?;
            done.push(prediction);
        }
        let torn = &bytes[whole..];
        if done.is_empty() && !torn.is_empty() && !torn.starts_with(b"{\"prompt\":") {
            return Err(foreign(1));
        }
        file.set_len(whole as u64).map_err(fail)?;
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        Ok((Self { file, path: path.to_owned() }, done))
    }

    /// Adds a line and makes sure that it is out.
    pub(crate) fn write(&mut self, prediction: &Prediction) -> Result<(), EvalError> {
        let fail = |error| EvalError::io("write", &self.path, error);
        let mut line = serde_json::to_vec(prediction).map_err(|error| fail(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_t64_a_torn_line_is_cut_and_the_rest_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let (mut log, done) = PredictionLog::resume(&path).unwrap();
        assert_eq!(done, []);
        let lines = [Prediction::new("a", "harmful", "x"), Prediction::new("b", "harmful", "y\n")];
        lines.iter().for_each(|line| log.write(line).unwrap());
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"prompt\":\"c\",\"la").unwrap();
        assert!(read_predictions(&path).is_err());
        let (mut log, done) = PredictionLog::resume(&path).unwrap();
        assert_eq!(done, lines);
        log.write(&lines[0]).unwrap();
        assert_eq!(read_predictions(&path).unwrap().len(), 3);
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        for text in ["precious\n", "precious", "{\"prompt\":\"a\"}\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(PredictionLog::resume(&path).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
