//! Preference pairs, as LLaMA-Factory reads them.

use std::fmt;
use std::io::Write;
use std::path::Path;

use guard_core::Task;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::MiningError;
use crate::reasoned::ReasonedSample;
use crate::replace::replace_file;
use crate::table::TableFile;

/// A right and a wrong text for one prompt.
///
/// The first four fields are those of LLaMA-Factory's ranking format, and `sample_weight` is the
/// column that the reference adds to it. Its texts are untrusted: `Debug` shows their lengths only.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PreferencePair {
    /// What the model is told to do.
    pub instruction: String,
    /// The exchange.
    pub input: String,
    /// The text to prefer.
    pub chosen: String,
    /// The text to avoid.
    pub rejected: String,
    /// The weight of the pair in the loss (paper, equations 2 and 3); 1 where none is given.
    #[serde(default = "one")]
    pub sample_weight: f64,
    /// The task on which the texts disagree, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// How many of the sample's texts were right on it, and how many wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub votes: Option<Votes>,
    /// The id of the sample, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The set of the sample, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// How many texts of a sample were right, and how many wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Votes {
    /// Texts with the label of the sample.
    pub correct: usize,
    /// Texts with another.
    pub incorrect: usize,
}

fn one() -> f64 {
    1.0
}

impl PreferencePair {
    /// A pair of weight 1 for the prompt of this sample.
    pub fn new(
        sample: &ReasonedSample,
        chosen: impl Into<String>,
        rejected: impl Into<String>,
    ) -> Self {
        Self {
            instruction: sample.instruction.clone(),
            input: sample.input.clone(),
            chosen: chosen.into(),
            rejected: rejected.into(),
            sample_weight: 1.0,
            task: None,
            votes: None,
            id: sample.id.clone(),
            source: sample.source.clone(),
        }
    }
}

impl fmt::Debug for PreferencePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreferencePair")
            .field("source", &self.source)
            .field("id", &self.id)
            .field("task", &self.task)
            .field("sample_weight", &self.sample_weight)
            .field("votes", &self.votes)
            .field("chosen", &self.chosen.len())
            .field("rejected", &self.rejected.len())
            .finish_non_exhaustive()
    }
}

/// Reads pairs: JSON lines or a JSON array, with or without the fields that LLaMA-Factory lacks.
///
/// # Errors
///
/// [`MiningError`] names the first row that is none, or whose weight is no number from 0 on.
pub fn read_pairs(path: impl AsRef<Path>) -> Result<Vec<PreferencePair>, MiningError> {
    let table = TableFile::open(path.as_ref())?;
    let mut pairs = Vec::new();
    for (line, row) in table.rows()? {
        let fields = Value::Object(row?.into_fields());
        let pair: Option<PreferencePair> = serde_json::from_value(fields).ok();
        let valid =
            |pair: &PreferencePair| pair.sample_weight.is_finite() && pair.sample_weight >= 0.0;
        pairs.push(pair.filter(valid).ok_or_else(|| MiningError::Foreign {
            path: table.path().to_owned(),
            line,
            what: "its fields are not those of a preference pair",
        })?);
    }
    Ok(pairs)
}

/// Checks that pairs can be written to this file, before days are spent on them.
///
/// # Errors
///
/// [`MiningError::PairFormat`] for a name that readers would take for something else.
pub fn check_pair_path(path: &Path) -> Result<(), MiningError> {
    let is_lines = path.extension().is_some_and(|end| end == "jsonl" || end == "json");
    match is_lines && path.file_name().is_none_or(|name| name != "dataset_info.json") {
        true => Ok(()),
        false => Err(MiningError::PairFormat { path: path.to_owned() }),
    }
}

/// Writes pairs as JSON lines, and adds them to the `dataset_info.json` beside them, by which
/// LLaMA-Factory finds them under the name of the file. Each file is whole or as it was.
///
/// # Errors
///
/// [`MiningError`] when they cannot be written, or `dataset_info.json` is something else.
pub fn write_pairs(path: impl AsRef<Path>, pairs: &[PreferencePair]) -> Result<(), MiningError> {
    let path = path.as_ref();
    check_pair_path(path)?;
    let info_path = path.with_file_name("dataset_info.json");
    let mut info = dataset_info(&info_path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    info.insert(
        name.into_owned(),
        json!({
            "file_name": file,
            "ranking": true,
            "columns": {
                "prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"
            }
        }),
    );
    let mut lines = Vec::new();
    for pair in pairs {
        lines.extend(encoded(path, serde_json::to_vec(pair))?);
        lines.push(b'\n');
    }
    replace(path, &lines)?;
    replace(&info_path, &encoded(&info_path, serde_json::to_vec_pretty(&info))?)
}

/// What LLaMA-Factory knows of the folder already.
fn dataset_info(path: &Path) -> Result<Map<String, Value>, MiningError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        read => read.map_err(|error| MiningError::io("read", path, error))?,
    };
    serde_json::from_slice(&bytes).map_err(|_| MiningError::Foreign {
        path: path.to_owned(),
        line: 1,
        what: "expected the JSON object of LLaMA-Factory's sets",
    })
}

pub(super) fn encoded(
    path: &Path,
    json: serde_json::Result<Vec<u8>>,
) -> Result<Vec<u8>, MiningError> {
    json.map_err(|error| MiningError::io("write", path, error.into()))
}

/// Writes a file beside its place and moves it there.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), MiningError> {
    let failed = |error| MiningError::io("write", path, error);
    replace_file(path, failed, |file| file.write_all(bytes).map_err(failed))
}
