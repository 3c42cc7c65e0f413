//! Why training failed.

use guard_core::{ModelError, WeightsError};

use crate::checkpoint::CheckpointError;
use crate::example::{ExamplePlace, ExampleSet};
use crate::objective::ObjectiveError;
use crate::pass::PassError;

/// Why training failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An example cannot go through the model: it is too long, or its tokens are another model's.
    #[error("{example} cannot be read by the model")]
    Example {
        /// The example.
        example: ExamplePlace,
        /// What is wrong.
        source: ModelError,
    },
    /// The objective refuses an example.
    #[error("the objective refuses {example}")]
    Refused {
        /// The example.
        example: ExamplePlace,
        /// What it refuses.
        source: ObjectiveError,
    },
    /// The model cannot compute a step.
    #[error("the model cannot compute step {step}")]
    Model {
        /// The step.
        step: u64,
        /// What is wrong.
        source: ModelError,
    },
    /// The objective cannot work with a step.
    #[error("the objective cannot work with step {step}")]
    Objective {
        /// The step.
        step: u64,
        /// What it refuses.
        source: ObjectiveError,
    },
    /// An example has other target tokens than its objective says.
    #[error("{example} has {found} target tokens, and {expected} for the objective")]
    TargetTokens {
        /// The example.
        example: ExamplePlace,
        /// What the objective counts.
        expected: usize,
        /// What its answers have.
        found: usize,
    },
    /// There is nothing to learn, or nothing to measure the loss on.
    #[error("{set} has no example with a target token among {examples}")]
    Nothing {
        /// The set that has nothing.
        set: ExampleSet,
        /// The number of its examples.
        examples: usize,
    },
    /// The weights are not finite any more, so there is nothing to keep. A checkpoint from before
    /// is.
    #[error("the weights of `{tensor}` are not finite after step {step}; lower the learning rate")]
    NotFinite {
        /// The step.
        step: u64,
        /// The first parameter that is not finite.
        tensor: String,
    },
    /// Too many windows in a row were not finite. The model is as it was before the first.
    #[error(
        "{skipped} windows in a row were not finite, the last at step {step} (examples {}); lower \
         the learning rate, or look at these examples",
        list(examples)
    )]
    Diverged {
        /// The step.
        step: u64,
        /// How many were skipped.
        skipped: u32,
        /// The examples of the last, from 0: the rows of their source where these are known, else
        /// their places in the data.
        examples: Vec<usize>,
    },
    /// A checkpoint could not be written or gone on from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights could not be read from their device.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A panic cut a step short and took the model with it: go on from a checkpoint.
    #[error("the model was lost in a step that did not end")]
    Lost,
}

/// The first few numbers.
fn list(examples: &[usize]) -> String {
    let shown: Vec<String> = examples.iter().take(8).map(usize::to_string).collect();
    let more = if examples.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Whether the numbers are at fault, and not the example or the objective.
pub(super) fn is_not_finite(error: &PassError) -> bool {
    let PassError::Objective(error) = error else { return false };
    matches!(error, ObjectiveError::NotFinite { .. } | ObjectiveError::Overflow { .. })
}

pub(super) fn failed(step: u64, error: PassError) -> TrainError {
    match error {
        PassError::Model(source) => TrainError::Model { step, source },
        PassError::Objective(source) => TrainError::Objective { step, source },
    }
}
