//! How the pairs came about.

use std::fmt;

use guard_core::Task;
use serde::Serialize;

use super::{Reading, Sides};

/// The counts of one run of mining. Shown, it is a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MiningReport {
    /// The samples.
    pub samples: u64,
    /// Their texts.
    pub texts: u64,
    /// Texts without a whole block of answers.
    pub unparsed: u64,
    /// Samples whose texts disagree, for the request, the completion and the response. A task is
    /// looked at only if no earlier one made a pair.
    pub ambiguous: [u64; 3],
    /// Samples whose texts are all right on that task.
    pub all_right: [u64; 3],
    /// Samples whose texts are all wrong on that task.
    pub all_wrong: [u64; 3],
    /// The pairs by their task.
    pub pairs: [u64; 3],
    /// Samples whose texts disagree and that have no pair: none of the right ones may be chosen, or all
    /// wrong ones are empty.
    pub unpaired: u64,
}

impl MiningReport {
    /// All pairs.
    #[must_use]
    pub fn pair_count(&self) -> u64 {
        self.pairs.iter().sum()
    }

    pub(super) fn record_texts(&mut self, read: &[Reading]) {
        self.samples += 1;
        self.texts += read.len() as u64;
        self.unparsed += read.iter().filter(|reading| !reading.is_whole).count() as u64;
    }

    pub(super) fn record_task(&mut self, task: Task, sides: &Sides) {
        let counts = match (sides.right.is_empty(), sides.wrong.is_empty()) {
            (false, false) => &mut self.ambiguous,
            (false, true) => &mut self.all_right,
            (true, false) => &mut self.all_wrong,
            (true, true) => return,
        };
        counts[task as usize] += 1;
    }

    pub(super) fn record_pair(&mut self, task: Task) {
        self.pairs[task as usize] += 1;
    }
}

impl fmt::Display for MiningReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, texts, unparsed, .. } = self;
        writeln!(f, "{samples} samples, {texts} generations, {unparsed} without whole answers\n")?;
        writeln!(
            f,
            "{:<12}{:>10}{:>10}{:>10}{:>10}",
            "task", "all right", "all wrong", "disagree", "pairs"
        )?;
        for task in Task::ALL {
            let at = task as usize;
            let (right, wrong) = (self.all_right[at], self.all_wrong[at]);
            let (ambiguous, pairs) = (self.ambiguous[at], self.pairs[at]);
            writeln!(f, "{task:<12}{right:>10}{wrong:>10}{ambiguous:>10}{pairs:>10}")?;
        }
        if self.unpaired > 0 {
            writeln!(f, "{} disagree and have no text to choose or to reject", self.unpaired)?;
        }
        Ok(())
    }
}
