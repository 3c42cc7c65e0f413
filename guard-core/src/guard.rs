//! The guard itself: exchanges in, verdicts out.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::exchange::Exchange;
use crate::format::FormatError;
use crate::generate::OptionsError;
use crate::label::Task;
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
}

impl GuardInfo {
    /// A guard of this name that answers these tasks and knows no bound of length.
    pub fn new(id: impl Into<String>, tasks: &[Task]) -> Self {
        Self { id: id.into(), tasks: tasks.to_vec(), context_tokens: None }
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
    /// The most wall time for the whole call. Default none.
    pub deadline: Option<Duration>,
    /// Whether verdicts carry the reasoning. Default yes.
    pub keep_reasoning: bool,
}

impl Default for JudgeOptions {
    fn default() -> Self {
        Self { max_tokens: 2048, deadline: None, keep_reasoning: true }
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
        self.deadline = Some(deadline);
        self
    }

    /// The same options, with verdicts that leave the reasoning out.
    #[must_use]
    pub fn without_reasoning(mut self) -> Self {
        self.keep_reasoning = false;
        self
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
