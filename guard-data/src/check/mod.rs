//! Looking through a set before money and days are spent on it.

mod groups;
mod overlap;
mod phrases;
mod report;
mod row;

use std::collections::HashMap;

use rayon::prelude::*;

use crate::observer::{Observer, Progress};
use crate::reasoned::ReasonedFile;
use crate::row::RowFault;
use crate::source::{SampleSource, SourceError};
use groups::Group;
use overlap::Overlap;
use phrases::PhraseSketch;
use row::{Input, Item, RowFacts};

pub use phrases::{PhraseOptions, TellingPhrase};
pub use report::{CheckReport, Finding, LabelCount, Problem};

/// Checks sets of samples, and of traces.
///
/// What is looked for is told at [`Problem`]; the sizes are those of [`Statistics`](crate::Statistics).
/// A set is read twice, some rows at a time. What is kept of a text is its hash, so a row takes about
/// 150 bytes of memory; phrases take 64 MiB and what the frequent ones need.
///
/// ```
/// use guard_data::{Check, Harm, InMemorySource, Labels, Problem, Sample};
///
/// let label = |request| Labels { request: Some(request), ..Labels::default() };
/// let samples = vec![
///     Sample::new("1", "mine", "hi").with_labels(label(Harm::Unharmful)),
///     Sample::new("2", "mine", "hi").with_labels(label(Harm::Harmful)),
/// ];
/// let report = Check::new().samples(&InMemorySource::new("mine", samples), &mut ())?;
/// assert_eq!(report.finding(Problem::Conflict).count, 2);
/// # Ok::<(), guard_data::SourceError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Check {
    overlap: Overlap,
    phrases: PhraseOptions,
}

/// Rows that are looked at side by side, and the bytes of text that they may have together.
const BATCH: usize = 4096;
const BATCH_BYTES: usize = 16 << 20;

impl Check {
    /// Checks that know of no benchmark yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for texts of this benchmark as well: a guard that was trained on them cannot be
    /// evaluated on it.
    ///
    /// # Errors
    ///
    /// [`SourceError`] for the first row that cannot be read: a part of a benchmark would let
    /// through what is in the other.
    pub fn with_benchmark(mut self, benchmark: &dyn SampleSource) -> Result<Self, SourceError> {
        for sample in benchmark.samples()? {
            self.overlap.add(benchmark.name(), &sample?);
        }
        Ok(self)
    }

    /// Looks for phrases that tell the label by other limits.
    #[must_use]
    pub fn with_phrases(mut self, phrases: PhraseOptions) -> Self {
        self.phrases = phrases;
        self
    }

    /// Checks the samples of a source.
    ///
    /// # Errors
    ///
    /// [`SourceError`] when the source cannot be opened; rows that cannot be read are counted.
    /// [`SourceError::Stopped`] when the observer said so.
    pub fn samples(
        &self,
        source: &dyn SampleSource,
        observer: &mut dyn Observer,
    ) -> Result<CheckReport, SourceError> {
        self.run(&Input::Samples(source), observer)
    }

    /// Checks the samples of a file and their traces.
    ///
    /// # Errors
    ///
    /// As [`Check::samples`].
    pub fn traces(
        &self,
        file: &ReasonedFile,
        observer: &mut dyn Observer,
    ) -> Result<CheckReport, SourceError> {
        self.run(&Input::Traces(file), observer)
    }

    fn run(
        &self,
        input: &Input<'_>,
        observer: &mut dyn Observer,
    ) -> Result<CheckReport, SourceError> {
        let mut pass = Pass::new(input);
        let sketch = PhraseSketch::new(self.phrases);
        in_batches(input, observer, "reading", |rows| {
            let facts = |item: &Item| RowFacts::of(item, &self.overlap, &sketch);
            let facts: Vec<RowFacts> = rows.par_iter().map(facts).collect();
            for (item, facts) in rows.iter().zip(facts) {
                pass.record(item, facts);
            }
        })?;
        if let Some(mut phrases) = sketch.into_counter(&pass.request_labels) {
            in_batches(input, observer, "phrases", |rows| phrases.count(rows))?;
            pass.report.phrases = phrases.telling();
        }
        pass.finish_groups();
        Ok(pass.report)
    }
}

/// Hands the rows of a source over, some at a time.
fn in_batches(
    input: &Input<'_>,
    observer: &mut dyn Observer,
    stage: &'static str,
    mut each: impl FnMut(&[Item]),
) -> Result<(), SourceError> {
    let mut items = input.items()?;
    let mut done = 0;
    loop {
        let mut rows: Vec<Item> = Vec::new();
        let mut bytes = 0;
        while rows.len() < BATCH && bytes < BATCH_BYTES {
            let Some(item) = items.next() else { break };
            bytes += item.text_len();
            rows.push(item);
        }
        if rows.is_empty() {
            return Ok(());
        }
        each(&rows);
        done += rows.len() as u64;
        if observer.on_progress(&Progress { stage, done, total: None }).is_break() {
            return Err(SourceError::Stopped { done });
        }
    }
}

/// What the first reading gathers.
struct Pass {
    report: CheckReport,
    /// Rows by the hash of their exchange.
    groups: HashMap<u128, Group>,
    /// Rows by the hash of their request, whose label depends on nothing else.
    requests: HashMap<u128, Group>,
    /// The label of each row's request, for the second reading.
    request_labels: Vec<Option<bool>>,
}

impl Pass {
    fn new(input: &Input<'_>) -> Self {
        Self {
            report: CheckReport::new(input.name()),
            groups: HashMap::new(),
            requests: HashMap::new(),
            request_labels: Vec::new(),
        }
    }

    fn record(&mut self, item: &Item, facts: RowFacts) {
        self.report.rows += 1;
        self.request_labels.push(facts.labels[0]);
        let place = || item.place();
        if let Err(error) = &item.content {
            let problem = match error {
                SourceError::Row { fault: RowFault::UnknownLabel { .. }, .. } => {
                    Problem::UnknownLabel
                }
                _ => Problem::Undecodable,
            };
            self.report.find(problem, || error.to_string());
            return;
        }
        for (count, label) in self.report.labels.iter_mut().zip(facts.labels) {
            count.record(label);
        }
        if let Some(statistics) = facts.statistics {
            let CheckReport { name, statistics: table, .. } = &mut self.report;
            let total = table.source(facts.source.as_deref().unwrap_or(name));
            *total = total.and(&statistics);
        }
        for problem in facts.problems {
            self.report.find(problem, || place().to_string());
        }
        if let Some(benchmark) = facts.overlap {
            self.report.find(benchmark.problem, || format!("{}, in {}", place(), benchmark.name));
        }
        let Some(hashes) = facts.hashes else { return };
        let labels = facts.labels.iter().enumerate().fold(0, |bits, (task, label)| match label {
            Some(true) => bits | 1 << task,
            Some(false) => bits | 8 << task,
            None => bits,
        });
        Group::add(&mut self.groups, hashes.exchange, labels, place);
        // The request's own bits.
        Group::add(&mut self.requests, hashes.request, labels & 9, place);
    }

    /// Duplicates and conflicts, which are known only when all rows were seen.
    fn finish_groups(&mut self) {
        for group in Group::sorted(&self.groups) {
            self.report.find_several(Problem::Duplicate, group.rows - 1, || group.place());
            if group.conflicts() {
                self.report.find_several(Problem::Conflict, group.rows, || group.place());
            }
        }
        for group in Group::sorted(&self.requests).filter(|group| group.conflicts()) {
            self.report.find_several(Problem::RequestConflict, group.rows, || group.place());
        }
    }
}

#[cfg(test)]
mod tests;
