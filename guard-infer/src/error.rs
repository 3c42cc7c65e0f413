//! What can go wrong between a prompt and a text.

use std::path::PathBuf;
use std::sync::Arc;

use guard_core::burn::tensor::TensorReadError;
use guard_core::{ConfigError, GuardError, ModelError, OptionsError, TokenizerError, WeightsError};

use crate::device::DeviceError;

/// A prompt that was not continued.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// An option is out of range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// There is no continuation to score, or one without a token.
    #[error("a continuation is empty")]
    EmptyContinuation,
    /// The prompt leaves no room for an answer. Nothing is cut silently.
    #[error("the prompt has {tokens} tokens, at most {limit} fit into the model's context")]
    TooLong {
        /// How many tokens the prompt has, or at least has.
        tokens: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Too many prompts of other calls wait already. Nothing was done: the call can be made again later.
    #[error("{waiting} prompts are waiting for the model, at most {limit} may")]
    Busy {
        /// How many wait.
        waiting: usize,
        /// How many may wait.
        limit: usize,
    },
    /// The stop condition of the options panicked.
    #[error("the stop condition panicked")]
    StopCondition,
    /// The call that was at work for all callers panicked, by a fault of this crate.
    #[error("another call on the same model panicked while it worked for this one")]
    Abandoned,
    /// The tokenizer failed.
    #[error("the prompt cannot be encoded")]
    Tokenizer(#[source] Arc<TokenizerError>),
    /// The model refused the call.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device computed nothing that could be read back.
    #[error("the device failed")]
    Device(#[source] Arc<TensorReadError>),
}

impl From<TensorReadError> for GenerateError {
    fn from(error: TensorReadError) -> Self {
        Self::Device(Arc::new(error))
    }
}

impl From<TokenizerError> for GenerateError {
    fn from(error: TokenizerError) -> Self {
        Self::Tokenizer(Arc::new(error))
    }
}

impl From<GenerateError> for GuardError {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::TooLong { tokens, limit } => Self::TooLong { tokens, limit },
            GenerateError::Options(error) => Self::Options(error),
            GenerateError::Busy { waiting, limit } => Self::Busy { waiting, limit },
            other => Self::Generation(Box::new(other)),
        }
    }
}

/// A guard or generator that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The files of the model cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The settings of the guard cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
