//! Texts that models have written, why they ended and what they cost.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::redacted::Redacted;

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finish {
    /// The model wrote an end token.
    EndOfText,
    /// The stop condition held.
    Stopped,
    /// [`GenerateOptions::max_tokens`](crate::GenerateOptions::max_tokens) were written.
    TokenBudget,
    /// The context of the model is full.
    ContextFull,
    /// The text went round in circles.
    Repetition,
    /// The [deadline](crate::Limits::deadline) passed.
    Deadline,
    /// The call was [cancelled](crate::Limits::cancel).
    Cancelled,
    /// The model computed no finite number.
    NonFinite,
    /// Nothing was generated, because nothing had to be.
    NotRun,
}

impl Finish {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::EndOfText,
        Self::Stopped,
        Self::TokenBudget,
        Self::ContextFull,
        Self::Repetition,
        Self::Deadline,
        Self::Cancelled,
        Self::NonFinite,
        Self::NotRun,
    ];

    /// Whether the text ended because it was whole, not because it was cut off.
    #[must_use]
    pub fn is_complete(self) -> bool {
        matches!(self, Self::EndOfText | Self::Stopped)
    }
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::EndOfText => "end of text",
            Self::Stopped => "stop condition",
            Self::TokenBudget => "token budget",
            Self::ContextFull => "context full",
            Self::Repetition => "repetition",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::NonFinite => "non-finite logits",
            Self::NotRun => "not run",
        })
    }
}

/// What a completion cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt, the beginning-of-text token included.
    pub prompt_tokens: usize,
    /// Tokens that were generated, an end token included.
    pub completion_tokens: usize,
    /// Wall time from the call to the end of this completion, in milliseconds.
    pub latency_ms: u64,
}

impl Usage {
    /// The cost of a completion of so many tokens that took this long.
    #[must_use]
    pub fn new(prompt_tokens: usize, completion_tokens: usize, latency: Duration) -> Self {
        let latency_ms = latency.as_millis().try_into().unwrap_or(u64::MAX);
        Self { prompt_tokens, completion_tokens, latency_ms }
    }

    /// The cost of two completions that ran one after the other.
    #[must_use]
    pub fn then(self, other: Self) -> Self {
        let latency_ms = self.latency_ms.saturating_add(other.latency_ms);
        Self { latency_ms, ..self.beside(other) }
    }

    /// The cost of two completions that ran side by side: their tokens, and the longer time.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_add(other.completion_tokens),
            latency_ms: self.latency_ms.max(other.latency_ms),
        }
    }
}

/// The text that a generator wrote.
///
/// It may repeat the moderated text, so `Debug` shows its length only.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Completed {
    /// The text, without the prompt and without control tokens.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// What it cost.
    pub usage: Usage,
}

impl Completed {
    /// A text that ended for this reason and cost nothing.
    pub fn new(text: impl Into<String>, finish: Finish) -> Self {
        Self { text: text.into(), finish, usage: Usage::default() }
    }

    /// The same text with what it cost.
    #[must_use]
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }
}

impl fmt::Debug for Completed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completed")
            .field("text", &Redacted(&self.text))
            .field("finish", &self.finish)
            .field("usage", &self.usage)
            .finish()
    }
}
