//! What a guard answers: three judgements, each of which may be missing for a reason.

use std::fmt;

use serde::de::Error as _;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::completed::{Finish, Usage};
use crate::label::{Completion, Harm, Label, Task};
use crate::reasoning::Reasoning;
use crate::redacted::Redacted;

/// The answer to one question about an exchange.
///
/// There is no conversion to a bool and no default: what to do about a missing answer is
/// decided by a [`Policy`](crate::Policy), and the default policy blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer<T> {
    /// The guard gave this label.
    Given(T),
    /// The question has no meaning here: there is no response to judge.
    NotApplicable,
    /// This guard does not answer this question for any exchange.
    Unsupported,
    /// The guard should have answered and could not.
    Undetermined(Reason),
}

impl<T: Copy> Answer<T> {
    /// The label, if one was given.
    #[must_use]
    pub fn given(self) -> Option<T> {
        match self {
            Self::Given(label) => Some(label),
            _ => None,
        }
    }

    /// The same answer with another kind of label.
    pub fn map<U>(self, label: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Given(given) => Answer::Given(label(given)),
            Self::NotApplicable => Answer::NotApplicable,
            Self::Unsupported => Answer::Unsupported,
            Self::Undetermined(reason) => Answer::Undetermined(reason),
        }
    }

    /// Why the guard could not answer, if it could not.
    #[must_use]
    pub fn undetermined(self) -> Option<Reason> {
        match self {
            Self::Undetermined(reason) => Some(reason),
            _ => None,
        }
    }

    /// The name of the kind of answer, as it stands in JSON.
    fn status(self) -> &'static str {
        match self {
            Self::Given(_) => "given",
            Self::NotApplicable => "not_applicable",
            Self::Unsupported => "unsupported",
            Self::Undetermined(_) => "undetermined",
        }
    }
}

impl<T: fmt::Display> fmt::Display for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(label) => label.fmt(f),
            Self::NotApplicable => f.pad("not applicable"),
            Self::Unsupported => f.pad("unsupported"),
            Self::Undetermined(reason) => write!(f, "undetermined ({reason})"),
        }
    }
}

/// Why a guard could not answer a question. It never holds text of the exchange or the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The text to judge is empty or blank.
    NothingToJudge,
    /// The output holds no block of answers.
    NoAnswers,
    /// The block of answers does not name this question.
    MissingAnswer,
    /// The model answered `None` although there was something to judge.
    AnsweredNone,
    /// The answer is none of the labels.
    UnknownLabel,
    /// The block of answers gives this question two different answers.
    ConflictingAnswers,
    /// The answers stand behind text that is not the model's reasoning: they may be quoted.
    Unreasoned,
    /// Generation was cut off before an answer: see [`Verdict::finish`].
    CutOff(Finish),
    /// The guard failed: there was no verdict.
    Failed,
}

impl Reason {
    /// All reasons, those of a cut included.
    fn all() -> impl Iterator<Item = Self> {
        let plain = [
            Self::NothingToJudge,
            Self::NoAnswers,
            Self::MissingAnswer,
            Self::AnsweredNone,
            Self::UnknownLabel,
            Self::ConflictingAnswers,
            Self::Unreasoned,
            Self::Failed,
        ];
        plain.into_iter().chain(Finish::ALL.iter().copied().map(Self::CutOff))
    }
}

/// In JSON a reason is its text.
impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let reason = Self::all().find(|reason| reason.to_string() == text);
        reason.ok_or_else(|| D::Error::custom("unknown reason"))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingToJudge => f.write_str("nothing to judge"),
            Self::NoAnswers => f.write_str("no block of answers"),
            Self::MissingAnswer => f.write_str("not in the block of answers"),
            Self::AnsweredNone => f.write_str("answered None"),
            Self::UnknownLabel => f.write_str("not a known label"),
            Self::ConflictingAnswers => f.write_str("conflicting answers"),
            Self::Unreasoned => f.write_str("answers without reasoning before them"),
            Self::CutOff(finish) => write!(f, "cut off: {finish}"),
            Self::Failed => f.write_str("the guard failed"),
        }
    }
}

/// An answer and, where the guard computes one, its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Judged<T> {
    /// The answer.
    pub answer: Answer<T>,
    /// The probability, from 0 to 1, of the positive label (harmful, or refusal). `None` when
    /// the guard computes none: a score is never an invented constant.
    pub score: Option<f64>,
}

impl<T> Judged<T> {
    /// An answer without a score.
    pub fn new(answer: Answer<T>) -> Self {
        Self { answer, score: None }
    }

    /// The same answer with the probability of the positive label.
    #[must_use]
    pub fn with_score(mut self, score: f64) -> Self {
        self.score = Some(score);
        self
    }
}

impl<T> From<Answer<T>> for Judged<T> {
    fn from(answer: Answer<T>) -> Self {
        Self::new(answer)
    }
}

impl<L: Label> Serialize for Judged<L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Judged", 4)?;
        fields.serialize_field("status", self.answer.status())?;
        fields.serialize_field("label", &self.answer.given().map(Label::word))?;
        fields.serialize_field("reason", &self.answer.undetermined())?;
        fields.serialize_field("score", &self.score)?;
        fields.end()
    }
}

/// A judgement as it stands in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JudgedFields {
    status: String,
    label: Option<String>,
    reason: Option<Reason>,
    score: Option<f64>,
}

impl<'de, L: Label> Deserialize<'de> for Judged<L> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let JudgedFields { status, label, reason, score } =
            JudgedFields::deserialize(deserializer)?;
        let label = label.map(|word| L::from_word(&word).ok_or(())).transpose();
        let answer = match (status.as_str(), label, reason) {
            ("given", Ok(Some(label)), None) => Answer::Given(label),
            ("not_applicable", Ok(None), None) => Answer::NotApplicable,
            ("unsupported", Ok(None), None) => Answer::Unsupported,
            ("undetermined", Ok(None), Some(reason)) => Answer::Undetermined(reason),
            _ => return Err(D::Error::custom("status, label and reason do not fit together")),
        };
        if score.is_some_and(|score| !(0.0..=1.0).contains(&score)) {
            return Err(D::Error::custom("a score is a probability, from 0 to 1"));
        }
        Ok(Self { answer, score })
    }
}

/// What a guard says about one exchange.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Verdict {
    /// Is the request harmful?
    pub request: Judged<Harm>,
    /// Did the assistant refuse?
    pub completion: Judged<Completion>,
    /// Is the response harmful?
    pub response: Judged<Harm>,
    /// The reasoning, if the guard reasons and it was asked for.
    pub reasoning: Option<Reasoning>,
    /// All that the model wrote for this verdict, where it writes and the reasoning was asked
    /// for. Not part of the JSON: it repeats the reasoning.
    #[serde(skip)]
    pub output: Option<String>,
    /// Whether the conclusions of the reasoning agree with the answers; `None` when the
    /// reasoning concludes nothing.
    pub consistent: Option<bool>,
    /// The share of the exchange's text that the guard read: below 1 when a lossy cut was
    /// asked for, never by default.
    pub coverage: f64,
    /// Why the last generation for this verdict ended.
    pub finish: Finish,
    /// What the verdict cost.
    pub usage: Usage,
}

/// Shows the length of the model's text only.
impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verdict")
            .field("request", &self.request)
            .field("completion", &self.completion)
            .field("response", &self.response)
            .field("reasoning", &self.reasoning)
            .field("output", &self.output.as_deref().map(Redacted))
            .field("consistent", &self.consistent)
            .field("coverage", &self.coverage)
            .field("finish", &self.finish)
            .field("usage", &self.usage)
            .finish()
    }
}

impl Verdict {
    /// A verdict with these judgements, no reasoning, full coverage and no cost.
    #[must_use]
    pub fn new(
        request: impl Into<Judged<Harm>>,
        completion: impl Into<Judged<Completion>>,
        response: impl Into<Judged<Harm>>,
    ) -> Self {
        Self {
            request: request.into(),
            completion: completion.into(),
            response: response.into(),
            reasoning: None,
            output: None,
            consistent: None,
            coverage: 1.0,
            finish: Finish::NotRun,
            usage: Usage::default(),
        }
    }

    /// A verdict that gives no answer, for this reason.
    #[must_use]
    pub fn undetermined(reason: Reason) -> Self {
        Self::new(
            Answer::Undetermined(reason),
            Answer::Undetermined(reason),
            Answer::Undetermined(reason),
        )
    }

    /// The answer to one question: whether the label is the positive one, harmful or refusal.
    #[must_use]
    pub fn answer(&self, task: Task) -> Answer<bool> {
        match task {
            Task::Request => self.request.answer.map(Label::is_positive),
            Task::Completion => self.completion.answer.map(Label::is_positive),
            Task::Response => self.response.answer.map(Label::is_positive),
        }
    }

    /// The probability of the positive label of one question, where the guard computes one.
    #[must_use]
    pub fn score(&self, task: Task) -> Option<f64> {
        match task {
            Task::Request => self.request.score,
            Task::Completion => self.completion.score,
            Task::Response => self.response.score,
        }
    }

    /// The first task, in the order of the instruction, that the guard could not judge.
    #[must_use]
    pub fn first_undetermined(&self) -> Option<(Task, Reason)> {
        let reason = |task| Some((task, self.answer(task).undetermined()?));
        Task::ALL.into_iter().find_map(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_tells_the_kinds_of_answer_apart() {
        let verdict = Verdict::new(
            Judged::new(Answer::Given(Harm::Harmful)).with_score(0.75),
            Answer::NotApplicable,
            Answer::Undetermined(Reason::CutOff(Finish::TokenBudget)),
        );
        let json = serde_json::to_value(&verdict).unwrap();
        assert_eq!(json["request"]["label"], "harmful");
        assert_eq!(json["request"]["score"], 0.75);
        assert_eq!(json["completion"]["status"], "not_applicable");
        assert_eq!(json["completion"]["label"], serde_json::Value::Null);
        assert_eq!(json["response"]["status"], "undetermined");
        assert_eq!(json["response"]["reason"], "cut off: token budget");
    }

    #[test]
    fn json_round_trips_and_refuses_what_cannot_be() {
        for reason in Reason::all() {
            let mut verdict = Verdict::new(
                Judged::new(Answer::Given(Harm::Unharmful)).with_score(0.1),
                Answer::Undetermined(reason),
                Answer::Unsupported,
            );
            verdict.reasoning = Some(Reasoning::default());
            let json = serde_json::to_string(&verdict).unwrap();
            assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
        }
        let judged = |json: serde_json::Value| serde_json::from_value::<Judged<Harm>>(json).is_ok();
        let json = |status: &str, label: Option<&str>, reason: Option<&str>| serde_json::json!({"status": status, "label": label, "reason": reason, "score": null});
        assert!(judged(json("given", Some("harmful"), None)));
        for score in [-5.0, 1.5, 1e308] {
            let mut json = json("given", Some("harmful"), None);
            json["score"] = score.into();
            assert!(!judged(json), "{score}");
        }
        assert!(!judged(json("given", None, None)));
        assert!(!judged(json("given", Some("refusal"), None)));
        assert!(!judged(json("undetermined", Some("harmful"), Some("no block of answers"))));
        assert!(!judged(json("undetermined", None, Some("because"))));
        assert!(!judged(json("certain", None, None)));
    }

    #[test]
    fn the_first_gap_is_found() {
        let verdict = Verdict::new(
            Answer::Given(Harm::Unharmful),
            Answer::Undetermined(Reason::AnsweredNone),
            Answer::Undetermined(Reason::NoAnswers),
        );
        assert_eq!(verdict.first_undetermined(), Some((Task::Completion, Reason::AnsweredNone)));
    }
}
