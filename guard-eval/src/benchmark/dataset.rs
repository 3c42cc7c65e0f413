//! The rows of a benchmark, ready to be judged.

use std::path::Path;

use guard_core::Task;
use guard_data::{RowFault, Sample, SampleSource, SourceError, TableFile};

use super::{Benchmark, original, reference};
use crate::error::EvalError;
use crate::evaluation::check_ids;

/// The labelled rows of a published benchmark, or of a set of one's own.
///
/// ```
/// use guard_data::{InMemorySource, Sample};
/// use guard_eval::{Dataset, Harm, Labels, Task};
///
/// let labels = Labels { request: Some(Harm::Unharmful), ..Labels::default() };
/// let samples = vec![Sample::new("1", "mine", "How is bread baked?").with_labels(labels)];
/// let dataset = Dataset::from_source(&InMemorySource::new("mine", samples))?;
/// assert_eq!(dataset.tasks(), [Task::Request]);
/// # Ok::<(), guard_eval::EvalError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    name: String,
    benchmark: Option<&'static Benchmark>,
    rows: Vec<DatasetRow>,
}

/// One row of a dataset.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DatasetRow {
    /// The texts, the labels and an id that is unique in the dataset.
    pub sample: Sample,
    /// What the row belongs to, for breakdowns: a dimension and a value, such as `category` and
    /// `violence`. A dimension may occur several times.
    pub slices: Vec<(String, String)>,
}

impl DatasetRow {
    /// A row that belongs to no part.
    #[must_use]
    pub fn new(sample: Sample) -> Self {
        Self { sample, slices: Vec::new() }
    }

    /// The same row as part of `value` in this dimension.
    #[must_use]
    pub fn with_slice(mut self, dimension: &str, value: impl Into<String>) -> Self {
        self.slices.push((dimension.to_owned(), value.into()));
        self
    }
}

impl Dataset {
    /// Reads a published benchmark, from the reference's file (an array of `instruction`,
    /// `input` and `output`) or from the file of the original set; the form is told by the first row.
    ///
    /// # Errors
    ///
    /// [`EvalError::Source`] names the file and row at fault: a benchmark with a row missing
    /// would be another benchmark. [`EvalError::Empty`] for a file without rows.
    pub fn open(benchmark: &'static Benchmark, path: impl AsRef<Path>) -> Result<Self, EvalError> {
        let path = path.as_ref();
        let rows = match reference::read(benchmark, path)? {
            Some(rows) => rows,
            None => original::read(benchmark, path)?,
        };
        Self::new(benchmark.name.to_owned(), Some(benchmark), rows)
    }

    /// A dataset of the samples of a source. The first bad sample is an error.
    ///
    /// # Errors
    ///
    /// As [`Dataset::open`].
    pub fn from_source(source: &dyn SampleSource) -> Result<Self, EvalError> {
        let rows = source.samples()?.map(|sample| sample.map(DatasetRow::new));
        let rows = rows.collect::<Result<Vec<_>, SourceError>>()?;
        Self::new(source.name().to_owned(), None, rows)
    }

    /// A dataset of these rows, for sets whose rows belong to parts.
    ///
    /// # Errors
    ///
    /// [`EvalError::Empty`] without rows, [`EvalError::RepeatedId`] when two have one id.
    pub fn from_rows(name: impl Into<String>, rows: Vec<DatasetRow>) -> Result<Self, EvalError> {
        Self::new(name.into(), None, rows)
    }

    fn new(
        name: String,
        benchmark: Option<&'static Benchmark>,
        rows: Vec<DatasetRow>,
    ) -> Result<Self, EvalError> {
        if rows.is_empty() {
            return Err(EvalError::Empty { dataset: name });
        }
        check_ids(&name, rows.iter().map(|row| row.sample.id.as_str()))?;
        Ok(Self { name, benchmark, rows })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known of it, if it is a published benchmark.
    #[must_use]
    pub fn benchmark(&self) -> Option<&'static Benchmark> {
        self.benchmark
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> &[DatasetRow] {
        &self.rows
    }

    /// The questions that it asks: that of the benchmark, or all that any row has a label for.
    #[must_use]
    pub fn tasks(&self) -> Vec<Task> {
        if let Some(benchmark) = self.benchmark {
            return vec![benchmark.task];
        }
        let labelled =
            |task: &Task| self.rows.iter().any(|row| row.sample.labels.positive(*task).is_some());
        Task::ALL.into_iter().filter(labelled).collect()
    }

    /// Checks that the rows are as many as the published benchmark has.
    ///
    /// # Errors
    ///
    /// [`EvalError::RowCount`] with both numbers.
    pub fn check_row_count(&self) -> Result<(), EvalError> {
        let found = self.rows.len() as u64;
        match self.benchmark.and_then(|benchmark| benchmark.rows) {
            Some(expected) if expected != found => {
                Err(EvalError::RowCount { name: self.name.clone(), expected, found })
            }
            _ => Ok(()),
        }
    }
}

/// The rows of a table, each read by `read`; rows for which it gives `None` are left out.
pub(super) fn collect(
    table: &TableFile,
    mut read: impl FnMut(u64, &guard_data::TableRow) -> Result<Option<DatasetRow>, guard_data::RowFault>,
) -> Result<Vec<DatasetRow>, SourceError> {
    /// What all rows may take together: a hundred times the largest benchmark.
    const LIMIT: usize = 1 << 30;
    let mut rows = Vec::new();
    let mut bytes = 0;
    for (line, row) in table.rows()? {
        let row = read(line, &row?);
        let fault = |fault| SourceError::Row { path: table.path().to_owned(), line, fault };
        let row = row.map_err(fault)?;
        let sample = row.as_ref().map(|row| &row.sample);
        bytes += sample.map_or(0, |s| s.prompt.len() + s.response.as_ref().map_or(0, String::len));
        if bytes > LIMIT {
            return Err(fault(RowFault::FileTooLong { limit: LIMIT }));
        }
        rows.extend(row);
    }
    Ok(rows)
}
