//! Checkpoints: whole or not there.
//!
//! A checkpoint is a folder `step-N` with the trained weights, the state of the optimiser and,
//! written last, a manifest with the size and the SHA-256 of each. It is written under another
//! name and renamed when it is whole. Where the manifest is missing or does not fit, there is no
//! checkpoint.

mod error;
mod folder;
mod load;
mod manifest;
mod storage;
#[cfg(test)]
mod tests;

pub use error::{CheckpointError, CheckpointFault};
pub use load::with_checkpoint;
pub use manifest::{Best, Change, Progress};

pub(crate) use folder::{CheckpointFolder, Found, Parts};
pub(crate) use manifest::MadeWith;

use std::path::PathBuf;

/// Where and how often checkpoints are written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointOptions {
    /// The folder of the run. One run writes to it at a time.
    pub folder: PathBuf,
    /// Steps between two checkpoints, at least 1. One is written at the end in any case, and
    /// where a step fails. Default 1000, as in the released scripts.
    pub every: u64,
    /// How many of the newest are kept, at least 1. Default 2.
    pub keep_last: usize,
    /// What becomes of checkpoints that are there already. Default an error.
    pub resume: Resume,
    /// Goes on although data, model, objective or options are not those that the checkpoint was
    /// made with. Default no. What decides memory and speed alone may change in any case, and so
    /// may the validation set: the best loss on another set is forgotten.
    pub allow_changes: bool,
}

/// What becomes of checkpoints that are there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resume {
    /// They are an error: nothing is overwritten.
    #[default]
    Never,
    /// The newest that is whole is gone on from; without one the run begins.
    IfThere,
}

impl CheckpointOptions {
    /// Checkpoints in this folder.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self { folder, every: 1000, keep_last: 2, resume: Resume::Never, allow_changes: false }
    }

    /// The same options with this many steps between two checkpoints; 0 counts as 1.
    #[must_use]
    pub fn with_every(mut self, steps: u64) -> Self {
        self.every = steps.max(1);
        self
    }

    /// The same options, keeping this many of the newest; 0 counts as 1.
    #[must_use]
    pub fn with_keep_last(mut self, count: usize) -> Self {
        self.keep_last = count.max(1);
        self
    }

    /// The same options, going on from what is there.
    #[must_use]
    pub fn with_resume(mut self) -> Self {
        self.resume = Resume::IfThere;
        self
    }

    /// The same options, going on although something was changed.
    #[must_use]
    pub fn with_changes_allowed(mut self) -> Self {
        self.allow_changes = true;
        self
    }
}
