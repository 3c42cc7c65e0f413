//! The guard itself: exchanges in, verdicts out.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::exchange::Exchange;
use crate::format::FormatError;
use crate::generate::OptionsError;
use crate::label::Task;
use crate::limits::{Cancel, Limits};
use crate::verdict::{Answer, Reason, Verdict};
use crate::visible::is_hidden;

/// Something that judges exchanges: a local model, a remote service, rules, or several guards
/// behind one face.
///
/// The trait is synchronous and object-safe. Implement [`Guard::judge`] for batches;
/// [`Guard::judge_one`] is a convenience.
pub trait Guard: Send + Sync {
    /// What this guard is and what it can judge.
    fn info(&self) -> &GuardInfo;

    /// Judges each exchange. The result has one entry an exchange, in order, and an entry that
    /// fails leaves the others alone.
    fn judge(&self, items: &[Exchange], options: &JudgeOptions)
    -> Vec<Result<Verdict, GuardError>>;

    /// Judges one exchange with default options.
    ///
    /// # Errors
    ///
    /// [`GuardError`] when there is no verdict. A verdict that answers nothing is no error.
    fn judge_one(&self, exchange: &Exchange) -> Result<Verdict, GuardError> {
        let verdicts = self.judge(std::slice::from_ref(exchange), &JudgeOptions::default());
        let found = verdicts.len();
        let one = verdicts.into_iter().next().filter(|_| found == 1);
        one.unwrap_or(Err(GuardError::InvalidOutput { expected: 1, found }))
    }
}

/// A guard behind a pointer is a guard.
macro_rules! forward_guard {
    ($($pointer:ty),+) => {$(
        impl<G: Guard + ?Sized> Guard for $pointer {
            fn info(&self) -> &GuardInfo {
                (**self).info()
            }

            fn judge(
                &self,
                items: &[Exchange],
                options: &JudgeOptions,
            ) -> Vec<Result<Verdict, GuardError>> {
                (**self).judge(items, options)
            }

            fn judge_one(&self, exchange: &Exchange) -> Result<Verdict, GuardError> {
                (**self).judge_one(exchange)
            }
        }
    )+};
}

forward_guard!(&G, Arc<G>, Box<G>);

/// What a guard is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GuardInfo {
    /// A name for logs and reports, such as the name of the model's folder.
    pub id: String,
    /// The tasks that it answers.
    pub tasks: Vec<Task>,
    /// How many tokens it reads and writes at most for one exchange, if it is bounded.
    pub context_tokens: Option<usize>,
    /// What else its verdicts depend on, such as its prompt and its calibration: two guards of one
    /// model with other words here give other verdicts. May be empty.
    pub variant: String,
}

impl GuardInfo {
    /// A guard of this name that answers these tasks and knows no bound of length.
    pub fn new(id: impl Into<String>, tasks: &[Task]) -> Self {
        let variant = String::new();
        Self { id: id.into(), tasks: tasks.to_vec(), context_tokens: None, variant }
    }

    /// The same guard with words for what else its verdicts depend on.
    #[must_use]
    pub fn with_variant(mut self, variant: impl Into<String>) -> Self {
        self.variant = variant.into();
        self
    }

    /// The same guard, known to read and write at most so many tokens for one exchange.
    #[must_use]
    pub fn with_context_tokens(mut self, tokens: usize) -> Self {
        self.context_tokens = Some(tokens);
        self
    }
}

/// Options of [`Guard::judge`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct JudgeOptions {
    /// The most tokens that the guard may write for one exchange. Default 2,048 (paper 4.2).
    pub max_tokens: usize,
    /// When the whole call ends, done or not. Default never.
    pub limits: Limits,
    /// Whether verdicts carry the reasoning. Default yes.
    pub keep_reasoning: bool,
    /// Whether the guard reasons before it answers. Default yes.
    pub mode: JudgeMode,
}

impl Default for JudgeOptions {
    fn default() -> Self {
        Self {
            max_tokens: 2048,
            limits: Limits::default(),
            keep_reasoning: true,
            mode: JudgeMode::Reason,
        }
    }
}

impl JudgeOptions {
    /// The same options with at most so many written tokens for one exchange.
    #[must_use]
    pub fn with_max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// The same options with a limit of wall time for the whole call.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = Some(deadline);
        self
    }

    /// The same options with something that ends the call early: what has no answer then is
    /// undetermined.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.limits.cancel = Some(cancel);
        self
    }

    /// The same options in another mode.
    #[must_use]
    pub fn with_mode(mut self, mode: JudgeMode) -> Self {
        self.mode = mode;
        self
    }

    /// The same options, with verdicts that leave the reasoning out.
    #[must_use]
    pub fn without_reasoning(mut self) -> Self {
        self.keep_reasoning = false;
        self
    }
}

/// Whether a guard reasons before it answers.
///
/// All but [`JudgeMode::Reason`] take the answers from the probabilities of labels, and need a guard
/// that has these: others refuse with [`GuardError::NoScores`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum JudgeMode {
    /// Always: slow, with reasons to show.
    #[default]
    Reason,
    /// Never: the answers at once.
    Verdict,
    /// Where the answers at once are not sure: for one of the tasks, the probability of the positive
    /// label lies between the two, ends included.
    Adaptive {
        /// Below this probability the negative label is sure.
        low: f64,
        /// Above this probability the positive label is sure.
        high: f64,
    },
}

impl JudgeMode {
    /// [`JudgeMode::Adaptive`] between probabilities of 0.2 and 0.8.
    pub const ADAPTIVE: Self = Self::Adaptive { low: 0.2, high: 0.8 };

    /// Checks that the thresholds are probabilities, in order.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] when they are not.
    pub fn validate(self) -> Result<(), OptionsError> {
        match self {
            Self::Adaptive { low, high } if !(0.0 <= low && low <= high && high <= 1.0) => {
                let found = format!("{low} and {high}");
                let expected = "two probabilities, the lower one first";
                Err(OptionsError { option: "mode.adaptive", expected, found })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for JudgeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Reason => f.pad("reason"),
            Self::Verdict => f.pad("verdict"),
            Self::ADAPTIVE => f.pad("adaptive"),
            Self::Adaptive { low, high } => write!(f, "adaptive:{low}:{high}"),
        }
    }
}

/// A word that names no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown mode `{0}`: expected `reason`, `verdict`, `adaptive`, or `adaptive:LOW:HIGH` with two \
     probabilities"
)]
pub struct UnknownJudgeMode(pub String);

impl FromStr for JudgeMode {
    type Err = UnknownJudgeMode;

    fn from_str(word: &str) -> Result<Self, UnknownJudgeMode> {
        let thresholds = || {
            let (low, high) = word.strip_prefix("adaptive:")?.split_once(':')?;
            let mode = Self::Adaptive { low: low.parse().ok()?, high: high.parse().ok()? };
            mode.validate().is_ok().then_some(mode)
        };
        match word {
            "reason" => Ok(Self::Reason),
            "verdict" => Ok(Self::Verdict),
            "adaptive" => Ok(Self::ADAPTIVE),
            _ => thresholds().ok_or_else(|| UnknownJudgeMode(word.to_owned())),
        }
    }
}

/// Why there is no verdict. The messages hold no text of the exchange.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The format of the guard cannot express the exchange.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// An option is out of range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The exchange is longer than the guard can read. Nothing is cut silently.
    #[error(
        "the exchange takes {tokens} tokens with the guard's instruction, and at most {limit} fit \
         beside room for an answer"
    )]
    TooLong {
        /// How many tokens the whole prompt has, or at least has.
        tokens: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The mode needs the probabilities of labels, and this guard has none.
    #[error("the mode `{mode}` needs probabilities of labels, which this guard does not give")]
    NoScores {
        /// The mode that was asked for.
        mode: JudgeMode,
    },
    /// Too many exchanges wait for the guard already. Nothing was done: it can be asked again later.
    #[error("{waiting} texts are waiting for the guard, at most {limit} may")]
    Busy {
        /// How many wait.
        waiting: usize,
        /// How many may wait.
        limit: usize,
    },
    /// The guard returned another number of results than it was given items.
    #[error("expected {expected} results, found {found}")]
    InvalidOutput {
        /// How many items were given.
        expected: usize,
        /// How many results came back.
        found: usize,
    },
    /// The model or the service behind the guard failed.
    #[error("the model behind the guard failed")]
    Generation(#[source] Box<dyn Error + Send + Sync>),
}

/// A generator that cannot fail makes a guard, too.
impl From<Infallible> for GuardError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Verdict {
    /// Keeps of a verdict only what the exchange can have: no judgement of a response that is
    /// not there, and none of a blank text. What the model said about those is dropped.
    ///
    /// Every guard that builds verdicts from model output ends with this.
    #[must_use]
    pub fn scoped_to(mut self, exchange: &Exchange) -> Self {
        if is_blank(exchange.request()) {
            self.request = Answer::Undetermined(Reason::NothingToJudge).into();
        }
        self.request.answer = applicable(self.request.answer);
        match exchange.response() {
            None => {
                self.completion = Answer::NotApplicable.into();
                self.response = Answer::NotApplicable.into();
            }
            Some(response) if is_blank(response) => {
                self.completion = Answer::Undetermined(Reason::NothingToJudge).into();
                self.response = Answer::Undetermined(Reason::NothingToJudge).into();
            }
            Some(_) => {
                self.completion.answer = applicable(self.completion.answer);
                self.response.answer = applicable(self.response.answer);
            }
        }
        self
    }
}

/// An answer about a text that is there: it cannot be that the question does not apply.
fn applicable<T>(answer: Answer<T>) -> Answer<T> {
    match answer {
        Answer::NotApplicable => Answer::Undetermined(Reason::MissingAnswer),
        answer => answer,
    }
}

impl Exchange {
    /// Whether neither request nor response has anything to judge.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        is_blank(self.request()) && self.response().is_none_or(is_blank)
    }
}

/// Whether a text shows nothing: blanks and hidden characters only.
fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || is_hidden(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::{Completion, Harm};

    fn full() -> Verdict {
        Verdict::new(
            Answer::Given(Harm::Unharmful),
            Answer::Given(Completion::Compliance),
            Answer::Given(Harm::Unharmful),
        )
    }

    #[test]
    fn modes_are_read_by_name() {
        let narrow = JudgeMode::Adaptive { low: 0.4, high: 0.6 };
        for mode in [JudgeMode::Reason, JudgeMode::Verdict, JudgeMode::ADAPTIVE, narrow] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        for word in ["", "fast", "adaptive:", "adaptive:0.9:0.1", "adaptive:0:NaN", "adaptive:-1:1"]
        {
            assert!(word.parse::<JudgeMode>().is_err(), "{word}");
        }
    }

    #[test]
    fn without_a_response_there_is_nothing_to_say_about_it() {
        let scoped = full().scoped_to(&Exchange::prompt("hi"));
        assert_eq!(scoped.request.answer, Answer::Given(Harm::Unharmful));
        assert_eq!(scoped.completion.answer, Answer::NotApplicable);
        assert_eq!(scoped.response.answer, Answer::NotApplicable);
    }

    #[test]
    fn a_text_that_is_there_cannot_be_passed_over() {
        let nothing =
            Verdict::new(Answer::NotApplicable, Answer::NotApplicable, Answer::NotApplicable);
        let scoped = nothing.scoped_to(&Exchange::pair("a", "b"));
        let missing = Some(Reason::MissingAnswer);
        assert_eq!(scoped.request.answer.undetermined(), missing);
        assert_eq!(scoped.response.answer.undetermined(), missing);
    }

    #[test]
    fn blank_text_is_never_safe_by_accident() {
        let nothing = Some(Reason::NothingToJudge);
        for blank in ["", " \n\t", "\0", "\u{feff}", "\u{200b}\u{200b}", "\u{3164}"] {
            let scoped = full().scoped_to(&Exchange::pair(blank, "hi"));
            assert_eq!(scoped.request.answer.undetermined(), nothing);
            assert_eq!(scoped.response.answer, Answer::Given(Harm::Unharmful));
            let scoped = full().scoped_to(&Exchange::pair("hi", blank));
            assert_eq!(scoped.completion.answer.undetermined(), nothing);
            assert_eq!(scoped.response.answer.undetermined(), nothing);
            assert!(Exchange::pair(blank, blank).is_blank());
        }
    }
}
