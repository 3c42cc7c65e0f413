//! The 13 benchmarks of the paper, and datasets of one's own.

mod dataset;
mod original;
mod python_random;
mod reference;
mod registry;

use guard_core::Task;
use serde::Serialize;

pub use dataset::{Dataset, DatasetRow};
pub(crate) use reference::labels;
pub use registry::{BENCHMARKS, benchmark};

/// What is known about a published benchmark. It asks one question; sets that ask several appear
/// once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Benchmark {
    /// Its name, as in the reference's files.
    pub name: &'static str,
    /// The question. Its positive label is harmful, or refusal.
    pub task: Task,
    /// The rows of the reference's file; `None` where the file was not to be had.
    pub rows: Option<u64>,
    /// How many of them are positive.
    pub positives: Option<u64>,
    /// The rows with which the paper weights it in averages. For two sets they differ from the
    /// rows of the file.
    pub paper_rows: u64,
    /// Who labelled the rows.
    pub labelled_by: &'static str,
    /// Whether it holds prompts that were made to mislead.
    pub adversarial: bool,
    /// Whether the published models were trained on another part of the same set.
    pub in_distribution: bool,
    /// Where the original is.
    pub home: &'static str,
    /// The file of the original that is read.
    pub file: &'static str,
    /// The licence of the original.
    pub licence: &'static str,
    /// The paper that introduced it.
    pub citation: &'static str,
}
