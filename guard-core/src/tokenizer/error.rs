//! What can be wrong with a tokenizer or its input.

use crate::weights::WeightsError;

/// A tokenizer that cannot be used, or a text that it does not encode. Messages hold nothing of
/// the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] WeightsError),
    /// The file is not JSON.
    #[error("not a tokenizer.json")]
    Json(#[from] serde_json::Error),
    /// Something in the file is no JSON object, and has to be one.
    #[error("{0} is not a JSON object")]
    NotAnObject(&'static str),
    /// The file splits text with a regular expression that is not known to be harmless.
    #[error(
        "the tokenizer splits text with the unknown pattern `{pattern}`: a pattern can be made to \
         take for ever, so load this file as trusted only if you trust its author"
    )]
    UnknownPattern {
        /// The pattern.
        pattern: String,
    },
    /// A count or an id in the file is beyond any honest one.
    #[error("{what}: {found}, at most {limit} are accepted")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// What was found.
        found: u64,
        /// The largest value accepted.
        limit: u64,
    },
    /// The tokenizers crate refuses the file, or the text.
    #[error("the tokenizer failed")]
    Tokenizers(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The tokenizers crate panicked. It does on some crafted files; the tokenizer is as it was.
    #[error("the tokenizer panicked while {action}")]
    Panicked {
        /// What it was doing.
        action: &'static str,
    },
    /// A text is longer than any that is encoded.
    #[error("a text of {found} bytes is not encoded, at most {limit} are")]
    TextTooLong {
        /// Its length in bytes.
        found: usize,
        /// The longest accepted.
        limit: usize,
    },
    /// Untrusted text came out as a control token, which must never happen.
    #[error("untrusted text was encoded as control token {id}")]
    ControlToken {
        /// The token.
        id: u32,
    },
    /// The file names the tokens before a text in a way in which they cannot be numbered anew.
    #[error("the tokenizer's post-processor is not known, so its tokens cannot be numbered anew")]
    UnknownPostProcessor,
    /// The tokenizer has tokens that the model does not have.
    #[error("the tokenizer has {found} tokens, the model only {expected}")]
    VocabularyMismatch {
        /// The size of the model's vocabulary.
        expected: usize,
        /// The size of the tokenizer's vocabulary.
        found: usize,
    },
}
