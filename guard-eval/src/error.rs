//! What can go wrong between a file and a score.

use std::path::PathBuf;

use guard_core::Task;
use guard_data::{LineLogError, SourceError};

/// An evaluation that cannot be done, or not be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file of rows cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A dataset has no rows.
    #[error("`{dataset}` has no rows")]
    Empty {
        /// The dataset.
        dataset: String,
    },
    /// Two rows have one id.
    #[error("rows {} and {} of `{dataset}` have the same id", rows[0], rows[1])]
    RepeatedId {
        /// The dataset.
        dataset: String,
        /// The two rows, from 0.
        rows: [usize; 2],
    },
    /// There are more or fewer rows than there have to be.
    #[error("`{name}` has {found} rows, expected {expected}")]
    RowCount {
        /// The benchmark, or the file.
        name: String,
        /// How many there have to be.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// A prediction belongs to no row of the dataset, or to another than the one it stands for.
    #[error("prediction {prediction} is not of `{dataset}`: {what}")]
    Mismatch {
        /// The dataset.
        dataset: String,
        /// The prediction, from 0.
        prediction: usize,
        /// What does not fit.
        what: &'static str,
    },
    /// A row has no label of the task.
    #[error("row {row} of `{name}` has no label of its task")]
    Label {
        /// The benchmark.
        name: String,
        /// The row, from 0.
        row: usize,
    },
    /// A line of a file is no prediction, or none of the run that would go on with it.
    #[error("{}:{line}: cannot be used: {what}", path.display())]
    Foreign {
        /// The file of predictions.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// Another run writes to the same file.
    #[error("{} is in use by another run", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// One system has two results on one question of one dataset.
    #[error("`{system}` has two results on `{dataset}` ({task})")]
    Repeated {
        /// The system.
        system: String,
        /// The dataset.
        dataset: String,
        /// The question.
        task: Task,
    },
    /// The positive rows are not as many as the published benchmark has.
    #[error("`{name}` has {found} positive rows, expected {expected}")]
    Positives {
        /// The benchmark.
        name: String,
        /// How many there have to be.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// The observer of a run ended it.
    #[error("stopped after {done} of {total} rows")]
    Stopped {
        /// Rows that have a prediction.
        done: usize,
        /// Rows of the dataset.
        total: usize,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<LineLogError> for EvalError {
    fn from(error: LineLogError) -> Self {
        match error {
            LineLogError::Io { action, path, source } => Self::Io { action, path, source },
            LineLogError::InUse { path } => Self::InUse { path },
        }
    }
}

impl EvalError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> Self {
        Self::Io { action, path: path.into(), source }
    }
}
