//! The manifest of a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::options::TrainOptions;

/// What is written; another number is another format.
pub(super) const FORMAT: u32 = 2;

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
    /// The lowest loss on the validation set, and the windows that it came after. Another
    /// validation set begins anew.
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

impl Best {
    pub(crate) fn new(windows: u64, loss: f64) -> Self {
        Self { windows, loss }
    }
}

/// What a checkpoint was made with. But for the validation set it must not change between a
/// checkpoint and going on from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MadeWith {
    /// SHA-256 of the encoded examples; they depend on the tokenizer, the template and the cut.
    pub data: String,
    /// SHA-256 of the set that the best loss was measured on.
    pub validation: Option<String>,
    /// SHA-256 of the shape of the model and of what training leaves as it is.
    pub model: String,
    /// The objective with its options.
    pub objective: String,
    /// The options of training by name.
    pub options: Map<String, Value>,
}

/// Something that is not what a checkpoint was made with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// What differs: `data`, `model`, `objective`, or the name of an option as in
    /// `options.learning_rate`.
    pub what: String,
    /// What it was in the checkpoint; of data and models the SHA-256.
    pub before: String,
    /// What it is now.
    pub now: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, before, now } = self;
        write!(f, "`{what}` was {before} and is {now}")
    }
}

impl MadeWith {
    /// Everything that differs and must not.
    pub(super) fn changes(&self, now: &Self) -> Vec<Change> {
        let hashes = [
            ("data", [&self.data, &now.data]),
            ("model", [&self.model, &now.model]),
            ("objective", [&self.objective, &now.objective]),
        ];
        let differ = hashes.into_iter().filter(|(_, [before, now])| before != now);
        let changes = differ.map(|(what, [before, now])| Change {
            what: what.to_owned(),
            before: before.clone(),
            now: now.clone(),
        });
        changes.chain(self.changed_options(now)).collect()
    }

    fn changed_options(&self, now: &Self) -> Vec<Change> {
        let names: BTreeSet<&String> = self.options.keys().chain(now.options.keys()).collect();
        let differs = |name: &&String| {
            !TrainOptions::MAY_CHANGE.contains(&name.as_str())
                && self.options.get(*name) != now.options.get(*name)
        };
        let shown = |value: Option<&Value>| match value {
            Some(value) => value.to_string(),
            None => "not known".to_owned(),
        };
        let change = |name: &String| Change {
            what: format!("options.{name}"),
            before: shown(self.options.get(name)),
            now: shown(now.options.get(name)),
        };
        names.into_iter().filter(differs).map(change).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// The version of this crate that wrote it.
    pub(super) version: String,
    pub(super) progress: Progress,
    pub(super) made_with: MadeWith,
    pub(super) parts: BTreeMap<String, Part>,
}

/// What manifests of every format have.
#[derive(Deserialize)]
pub(super) struct AnyFormat {
    pub(super) format: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_with(options: &TrainOptions) -> MadeWith {
        MadeWith { data: "d".to_owned(), options: options.fields(), ..MadeWith::default() }
    }

    #[test]
    fn what_changed_is_named_with_both_values() {
        let before = TrainOptions::default();
        let now = TrainOptions { learning_rate: 2e-4, epochs: 1, ..TrainOptions::default() };
        let changes = made_with(&before).changes(&made_with(&now));
        let shown: Vec<String> = changes.iter().map(Change::to_string).collect();
        let expected = [
            "`options.epochs` was 3 and is 1",
            "`options.learning_rate` was 0.00005 and is 0.0002",
        ];
        assert_eq!(shown, expected);
        let data = MadeWith { data: "e".to_owned(), ..made_with(&before) };
        assert_eq!(made_with(&before).changes(&data)[0].to_string(), "`data` was d and is e");
    }

    #[test]
    fn what_changes_no_step_is_no_change() {
        let before = TrainOptions::default();
        let mut now = before.clone();
        (now.tokens_per_batch, now.examples_per_batch, now.head_chunk) = (1, Some(1), 1);
        (now.recompute, now.max_skipped) = (guard_core::Recompute::Nothing, 9);
        assert_eq!(made_with(&before).changes(&made_with(&now)), []);
        // Each name is that of an option.
        let fields = before.fields();
        assert!(TrainOptions::MAY_CHANGE.iter().all(|name| fields.contains_key(*name)));
        // What was read back from a file is what was written.
        let text = serde_json::to_string(&made_with(&before)).unwrap();
        assert_eq!(serde_json::from_str::<MadeWith>(&text).unwrap(), made_with(&before));
    }

    #[test]
    fn options_of_another_version_are_changes() {
        let before = made_with(&TrainOptions::default());
        let mut now = before.clone();
        now.options.remove("seed");
        assert_eq!(before.changes(&now)[0].to_string(), "`options.seed` was 42 and is not known");
    }
}
