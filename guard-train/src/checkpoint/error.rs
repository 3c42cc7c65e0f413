//! Why checkpoints cannot be written, or not be gone on from.

use std::path::{Path, PathBuf};

use guard_core::WeightsError;

use super::manifest::Change;

/// A folder of checkpoints that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, such as `write` or `rename`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Weights or the optimiser's state could not be written or read.
    #[error(transparent)]
    Tensors(#[from] WeightsError),
    /// Another run writes to the folder.
    #[error("another run trains in {}", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// There are checkpoints already, and the run was not told to go on from them.
    #[error(
        "{} has checkpoints already, the last of step {step}, of another run or of an earlier call \
         of `train`: go on from them (`CheckpointOptions::with_resume`), or train in another folder",
        path.display()
    )]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// The step of the newest that is whole.
        step: u64,
    },
    /// There are checkpoints, but none of them is whole.
    #[error("no checkpoint in {} is whole: {reasons}", path.display())]
    NoneWhole {
        /// The folder.
        path: PathBuf,
        /// What is wrong with each.
        reasons: String,
    },
    /// A file has the name that a checkpoint is to have.
    #[error("{} is in the way of a checkpoint and is no folder: move it away", path.display())]
    NoFolder {
        /// The file.
        path: PathBuf,
    },
    /// The checkpoint was made with something else.
    #[error(
        "{} was made with something else: {}; allow changes if that is meant",
        path.display(), list(changes)
    )]
    Changed {
        /// The checkpoint.
        path: PathBuf,
        /// What differs, at least one thing.
        changes: Vec<Change>,
    },
}

fn list(changes: &[Change]) -> String {
    changes.iter().map(Change::to_string).collect::<Vec<_>>().join(", ")
}

impl CheckpointError {
    pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// What is wrong with one checkpoint, which is passed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointFault {
    /// The manifest is missing or cannot be read.
    #[error("its manifest cannot be read: {0}")]
    Unreadable(String),
    /// The manifest is of another version.
    #[error("its format is {found}, expected {expected}")]
    Format {
        /// The format that is written.
        expected: u32,
        /// The format of the checkpoint.
        found: u32,
    },
    /// The manifest belongs to another folder.
    #[error("its manifest is that of step {found}")]
    Step {
        /// The step in the manifest.
        found: u64,
    },
    /// A part is missing or has another size.
    #[error("{part} has {found} bytes, expected {expected}")]
    Size {
        /// The file.
        part: String,
        /// Its size when it was written.
        expected: u64,
        /// Its size now; 0 where it is missing.
        found: u64,
    },
    /// A part was changed.
    #[error("{part} was changed: its SHA-256 is {found}, expected {expected}")]
    Content {
        /// The file.
        part: String,
        /// Its hash when it was written.
        expected: String,
        /// Its hash now.
        found: String,
    },
}
