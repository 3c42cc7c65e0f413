//! The manifest of a checkpoint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is written; another number is another format.
pub(super) const FORMAT: u32 = 1;

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Progress {
    /// The windows that it has gone through, skipped ones included: the place in the data and in
    /// the schedule.
    pub windows: u64,
    /// The steps of the optimiser.
    pub steps: u64,
    /// The examples that were seen, each as often as it was.
    pub examples: u64,
    /// Their target tokens.
    pub target_tokens: u64,
    /// Windows that were skipped in a row up to now.
    pub skipped_in_a_row: u32,
    /// The lowest loss on the validation set, and the windows that it came after.
    pub best: Option<Best>,
}

/// The best checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Best {
    /// The windows that it came after.
    pub windows: u64,
    /// Its loss on the validation set.
    pub loss: f64,
}

/// SHA-256 hashes of what must not change between a checkpoint and going on from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hashes {
    /// The encoded examples; they depend on the tokenizer, the template and the cut.
    pub data: String,
    /// The shape of the model, and the weights that training leaves as they are.
    pub model: String,
    /// The objective with its options.
    pub objective: String,
    /// The options of training.
    pub options: String,
}

impl Best {
    pub(crate) fn new(windows: u64, loss: f64) -> Self {
        Self { windows, loss }
    }
}

impl Hashes {
    /// The first that differs: what it is of, here and there.
    pub(super) fn difference<'a>(&'a self, now: &'a Self) -> Option<(&'static str, [&'a str; 2])> {
        let pairs = [
            ("data", [&self.data, &now.data]),
            ("model", [&self.model, &now.model]),
            ("objective", [&self.objective, &now.objective]),
            ("options", [&self.options, &now.options]),
        ];
        let differs = pairs.into_iter().find(|(_, [there, here])| there != here)?;
        Some((differs.0, differs.1.map(String::as_str)))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// The version of this crate that wrote it.
    pub(super) version: String,
    pub(super) progress: Progress,
    pub(super) hashes: Hashes,
    pub(super) parts: BTreeMap<String, Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}
