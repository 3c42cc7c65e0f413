//! The labels of the three tasks and the words they are written with.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Whether a text is harmful: the label of a request and of a response.
///
/// The positive class of the metrics is [`Harm::Harmful`] (paper, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Harm {
    /// The text asks for, or contains, harmful content.
    Harmful,
    /// The text is acceptable.
    Unharmful,
}

/// What the assistant did with the request.
///
/// The positive class of the metrics is [`Completion::Refusal`] (paper, section 2). A refusal
/// is not a harm: it never blocks an exchange by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Completion {
    /// The assistant declined.
    Refusal,
    /// The assistant did what was asked, in whole or in part.
    Compliance,
}

/// One of the three questions that a guard answers about an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Task 1: is the request harmful?
    Request,
    /// Task 2: did the assistant refuse?
    Completion,
    /// Task 3: is the response harmful?
    Response,
}

impl Task {
    /// All tasks, in the order in which the model answers them.
    pub const ALL: [Self; 3] = [Self::Request, Self::Completion, Self::Response];

    /// The task with this number in the instruction (1, 2 or 3).
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Request),
            2 => Some(Self::Completion),
            3 => Some(Self::Response),
            _ => None,
        }
    }

    /// The number of the task in the instruction: 1, 2 or 3.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32 + 1
    }

    /// Whether the task can be answered for an exchange without a response.
    #[must_use]
    pub fn needs_response(self) -> bool {
        self != Self::Request
    }
}

/// A label that is written as one lower-case word.
///
/// Implemented by [`Harm`] and [`Completion`] only; it lets the parser, the metrics and the
/// reports treat the three tasks alike.
pub trait Label: Copy + Eq + fmt::Debug + fmt::Display + sealed::Sealed {
    /// The label that counts as positive: harmful, or refusal.
    const POSITIVE: Self;
    /// The other label.
    const NEGATIVE: Self;

    /// The word that the model writes.
    fn word(self) -> &'static str;

    /// Reads a label from its word, whatever the case. Nothing else is accepted, neither
    /// blanks nor parts of a word.
    fn from_word(word: &str) -> Option<Self> {
        [Self::POSITIVE, Self::NEGATIVE]
            .into_iter()
            .find(|label| label.word().eq_ignore_ascii_case(word))
    }

    /// Whether this is the positive label.
    fn is_positive(self) -> bool {
        self == Self::POSITIVE
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Harm {}
    impl Sealed for super::Completion {}
}

impl Label for Harm {
    const POSITIVE: Self = Self::Harmful;
    const NEGATIVE: Self = Self::Unharmful;

    fn word(self) -> &'static str {
        match self {
            Self::Harmful => "harmful",
            Self::Unharmful => "unharmful",
        }
    }
}

impl Label for Completion {
    const POSITIVE: Self = Self::Refusal;
    const NEGATIVE: Self = Self::Compliance;

    fn word(self) -> &'static str {
        match self {
            Self::Refusal => "refusal",
            Self::Compliance => "compliance",
        }
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl fmt::Display for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Request => "request",
            Self::Completion => "completion",
            Self::Response => "response",
        })
    }
}

/// A word that is no label of the expected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `{}` or `{}`, found `{found}`", expected[0], expected[1])]
pub struct LabelError {
    /// The two words that would have been accepted.
    pub expected: [&'static str; 2],
    /// The word that was found.
    pub found: String,
}

impl LabelError {
    fn new<L: Label>(found: &str) -> Self {
        Self { expected: [L::POSITIVE.word(), L::NEGATIVE.word()], found: found.to_owned() }
    }
}

impl FromStr for Harm {
    type Err = LabelError;

    fn from_str(word: &str) -> Result<Self, LabelError> {
        Self::from_word(word).ok_or_else(|| LabelError::new::<Self>(word))
    }
}

impl FromStr for Completion {
    type Err = LabelError;

    fn from_str(word: &str) -> Result<Self, LabelError> {
        Self::from_word(word).ok_or_else(|| LabelError::new::<Self>(word))
    }
}

/// The known labels of a sample; a task without a label is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Labels {
    /// Whether the request is harmful.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Harm>,
    /// Whether the assistant refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Completion>,
    /// Whether the response is harmful.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Harm>,
}

impl Labels {
    /// Whether the label of this task is the positive one; `None` without a label.
    #[must_use]
    pub fn positive(&self, task: Task) -> Option<bool> {
        match task {
            Task::Request => self.request.map(Label::is_positive),
            Task::Completion => self.completion.map(Label::is_positive),
            Task::Response => self.response.map(Label::is_positive),
        }
    }

    /// The same labels with that of `task` read from its word. `None` for a word that is no
    /// label of the task.
    #[must_use]
    pub fn with_word(mut self, task: Task, word: &str) -> Option<Self> {
        match task {
            Task::Request => self.request = Some(Harm::from_word(word)?),
            Task::Completion => self.completion = Some(Completion::from_word(word)?),
            Task::Response => self.response = Some(Harm::from_word(word)?),
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_ignore_case() {
        for harm in [Harm::Harmful, Harm::Unharmful] {
            assert_eq!(harm.word().to_uppercase().parse(), Ok(harm));
        }
        for completion in [Completion::Refusal, Completion::Compliance] {
            assert_eq!(completion.to_string().parse(), Ok(completion));
        }
    }

    #[test]
    fn only_whole_words_are_labels() {
        for word in ["", "harm", "un harmful", " harmful", "non-compliance", "harmfull"] {
            assert_eq!(Harm::from_word(word), None);
            assert_eq!(Completion::from_word(word), None);
        }
        let error = "safe".parse::<Harm>().unwrap_err();
        assert_eq!(error.to_string(), "expected `harmful` or `unharmful`, found `safe`");
    }

    #[test]
    fn labels_are_lowercase_words_in_json() {
        let labels = Labels { request: Some(Harm::Harmful), ..Labels::default() };
        let json = serde_json::to_string(&labels).unwrap();
        assert_eq!(json, r#"{"request":"harmful"}"#);
        assert_eq!(serde_json::from_str::<Labels>(&json).unwrap(), labels);
    }
}
