//! Looking through a set before money and days are spent on it.

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
use overlap::Overlap;
use phrases::PhraseSketch;
use row::{Input, Item, RowFacts};

pub use phrases::{PhraseOptions, TellingPhrase};
pub use report::{CheckReport, Finding, LabelCount, Problem};

/// Checks sets of samples, and of traces.
///
/// What is looked for is told at [`Problem`]; the sizes are those of [`Statistics`](crate::Statistics).
/// A set is read twice, row by row, and a row takes about 100 bytes of memory: what is kept of a
/// text is its hash.
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

/// Rows that are looked at side by side.
const BATCH: usize = 4096;

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
        let rows: Vec<Item> = items.by_ref().take(BATCH).collect();
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
    name: String,
    report: CheckReport,
    /// Rows by the hash of their exchange.
    groups: HashMap<u128, Group>,
    /// The label of each row's request, for the second reading.
    request_labels: Vec<Option<bool>>,
}

/// Rows with one text.
struct Group {
    /// The first row.
    first: u64,
    rows: u64,
    /// Which labels the rows give: a bit for each task's positive, and for each negative label.
    labels: u8,
}

impl Pass {
    fn new(input: &Input<'_>) -> Self {
        let mut report = CheckReport::new(input.name());
        report.has_traces = matches!(input, Input::Traces(_));
        Self {
            name: input.name().to_owned(),
            report,
            groups: HashMap::new(),
            request_labels: Vec::new(),
        }
    }

    fn record(&mut self, item: &Item, facts: RowFacts) {
        self.report.rows += 1;
        self.request_labels.push(facts.labels[0]);
        let row = item.row;
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
            let source = facts.source.as_deref().unwrap_or(&self.name);
            let total = self.report.statistics.source(source);
            *total = total.and(&statistics);
        }
        for problem in facts.problems {
            self.report.find(problem, || format!("row {row}"));
        }
        if let Some(benchmark) = facts.overlap {
            let place = || format!("row {row}, in {}", benchmark.name);
            self.report.find(benchmark.problem, place);
        }
        let Some(text) = facts.text else { return };
        let labels = facts.labels.iter().enumerate().fold(0, |bits, (task, label)| match label {
            Some(true) => bits | 1 << task,
            Some(false) => bits | 8 << task,
            None => bits,
        });
        let group = self.groups.entry(text).or_insert(Group { first: row, rows: 0, labels: 0 });
        group.rows += 1;
        group.labels |= labels;
    }

    /// Duplicates and conflicts, which are known only when all rows were seen.
    fn finish_groups(&mut self) {
        let mut groups: Vec<&Group> = self.groups.values().filter(|group| group.rows > 1).collect();
        groups.sort_unstable_by_key(|group| group.first);
        for group in groups {
            let place = format!("row {} and {} more", group.first, group.rows - 1);
            self.report.find_several(Problem::Duplicate, group.rows - 1, || place.clone());
            if group.labels & (group.labels >> 3) & 7 != 0 {
                self.report.find_several(Problem::Conflict, group.rows, || place.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
