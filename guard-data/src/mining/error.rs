//! What can go wrong in mining.

use std::path::{Path, PathBuf};

use guard_core::OptionsError;

use crate::line_log::LineLogError;
use crate::source::SourceError;

/// Why hard samples cannot be mined. The messages hold no moderated text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MiningError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of generations cannot be used.
    #[error(transparent)]
    Log(#[from] LineLogError),
    /// The samples cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An option of generation is out of range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The generator does not do what it should.
    #[error("the generator failed: {message}")]
    Generator {
        /// What it said.
        message: String,
    },
    /// A file of pairs has a name that tells another format.
    #[error("{}: pairs are written as .jsonl or .json", path.display())]
    PairFormat {
        /// The file.
        path: PathBuf,
    },
    /// The width of the weights is out of range.
    #[error("gamma must be at least 0 and below 1, found {gamma}")]
    Gamma {
        /// The value.
        gamma: f64,
    },
    /// A file of generations is of another run: take another folder, or finish that run.
    #[error("{}:{line}: {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What tells that it is of another run.
        what: &'static str,
    },
    /// There are fewer generations than samples: the run has not ended.
    #[error("{}: {found} of {expected} samples have generations", path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// The samples.
        expected: u64,
        /// Those that have generations.
        found: u64,
    },
    /// An observer ended the run; another one goes on from there.
    #[error("stopped after {done} samples")]
    Stopped {
        /// The samples that have generations.
        done: u64,
    },
}

impl MiningError {
    pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}
