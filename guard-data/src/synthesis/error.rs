//! What can go wrong apart from the teacher.

use std::path::PathBuf;

use super::journal::JournalError;
use crate::source::SourceError;
use crate::teacher::LedgerError;

/// Why a run could not be made, or its results not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthesisError {
    /// The source cannot be opened, or read to its end.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal cannot take what is spent.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The journal has a cap, and the client asks without reserving from it.
    #[error("the journal has a cost cap that the client does not keep to: put `Budgeted` round it")]
    Unpaid,
    /// Two of the files of an export are one.
    #[error("{} is named twice", path.display())]
    SamePath {
        /// The file.
        path: PathBuf,
    },
    /// A result cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
