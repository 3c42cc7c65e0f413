//! What it takes to turn a prompt into text, whoever does it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::prompt::Prompt;
use crate::redacted::Redacted;
use crate::score::{ScoreRequest, Scored};

/// Something that continues prompts: a local model, a remote server, or a scripted double.
///
/// Batches are the primitive. The result has one entry a prompt, in order, and an entry that
/// fails leaves the others alone. Each successful entry holds
/// [`GenerateOptions::samples`] completions.
///
/// Generation takes `&self`: caches and random state are made per call.
pub trait TextGenerator {
    /// Why a prompt could not be continued.
    type Error;

    /// Continues each prompt.
    fn generate(
        &self,
        prompts: &[Prompt],
        options: &GenerateOptions,
    ) -> Vec<Result<Vec<Completed>, Self::Error>>;

    /// Says how probable each of some continuations is, for each request. Default: `None`, as for
    /// a service that gives texts only.
    fn score(
        &self,
        _requests: &[ScoreRequest],
        _limits: &Limits,
    ) -> Option<Vec<Result<Scored, Self::Error>>> {
        None
    }
}

impl<G: TextGenerator + ?Sized> TextGenerator for Arc<G> {
    type Error = G::Error;

    fn generate(
        &self,
        prompts: &[Prompt],
        options: &GenerateOptions,
    ) -> Vec<Result<Vec<Completed>, Self::Error>> {
        (**self).generate(prompts, options)
    }

    fn score(
        &self,
        requests: &[ScoreRequest],
        limits: &Limits,
    ) -> Option<Vec<Result<Scored, Self::Error>>> {
        (**self).score(requests, limits)
    }
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Sampling {
    /// The most probable token; the lowest id among equals.
    #[default]
    Greedy,
    /// A draw from the smallest set of tokens whose probability reaches `top_p`.
    TopP {
        /// Divides the logits; finite and above 0.
        temperature: f32,
        /// The probability mass to keep, above 0 and at most 1.
        top_p: f32,
    },
}

/// When a repeating text is given up.
///
/// Generation stops once, among the last `window` tokens, at least the share `ratio` begin an
/// `ngram` that the text already held before. Reasoning guards can be made to loop for ever
/// (arXiv 2606.14517); the published models do it unasked in about 1 of 1,000 outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepetitionStop {
    /// How many of the newest tokens are looked at; nothing stops before there are as many.
    pub window: usize,
    /// How many tokens in a row count as the same words again.
    pub ngram: usize,
    /// The share of repeated n-grams that ends the text, above 0 and at most 1.
    pub ratio: f32,
}

impl Default for RepetitionStop {
    /// Of the 4,390 published outputs that we could read, this gives up all 7 of more than 1,000
    /// tokens and none of the others (in LLaMA 3's tokens; a test beside
    /// guard-infer's detector shows it).
    fn default() -> Self {
        Self { window: 384, ngram: 4, ratio: 0.75 }
    }
}

/// Looks at the text generated so far and says whether it is whole.
///
/// This is how a format ends generation without the engine knowing the format.
///
/// An engine may work for several callers on one of their threads, and all of them wait for what is done here: it
/// must not block, nor call the generator that calls it. A panic fails the text.
pub trait StopCondition: Send + Sync {
    /// Whether nothing more is wanted after this text, which continues the call's prompt of this number.
    /// Called after each piece of new text.
    fn is_complete(&self, prompt: usize, text: &str) -> bool;

    /// What will most probably follow this text, or nothing. A generator may try it, which takes less
    /// time when it comes true; what it writes is the same. Default: nothing.
    fn likely<'a>(&'a self, _prompt: usize, _text: &'a str) -> &'a str {
        ""
    }
}

/// Ends calls before they are done: whoever holds a clone of it can.
///
/// A call looks at it after each piece of work, as at a deadline: texts that go on then end as
/// [`Finish::Cancelled`].
///
/// ```
/// use guard_core::Cancel;
///
/// let cancel = Cancel::default();
/// let held_by_the_call = cancel.clone();
/// cancel.cancel();
/// assert!(held_by_the_call.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the calls that look at this. It cannot be undone.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether they are to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Clones are equal, and nothing else is.
impl PartialEq for Cancel {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// When a call ends that is not done. Default: never.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// The most wall time for the whole call. Default none.
    pub deadline: Option<Duration>,
    /// What ends the call early. Default none.
    pub cancel: Option<Cancel>,
}

impl Limits {
    /// These limits.
    #[must_use]
    pub fn new(deadline: Option<Duration>, cancel: Option<Cancel>) -> Self {
        Self { deadline, cancel }
    }

    /// Why a call that has taken this long is to end, if it is.
    #[must_use]
    pub fn exceeded(&self, elapsed: Duration) -> Option<Finish> {
        if self.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Some(Finish::Cancelled);
        }
        self.deadline.filter(|deadline| elapsed >= *deadline).map(|_| Finish::Deadline)
    }
}

/// Options of [`TextGenerator::generate`]. The default is greedy, one sample, 2,048 tokens.
#[derive(Clone)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// The most tokens that a completion may have, at least 1. Default 2,048 (paper 4.2).
    pub max_tokens: usize,
    /// How tokens are chosen. Default greedy.
    pub sampling: Sampling,
    /// Completions per prompt, at least 1. Default 1.
    pub samples: usize,
    /// The seed of all random choices. A completion depends on the seed, its prompt and its
    /// number among the samples; on the other prompts of the batch only by how sums are rounded.
    pub seed: u64,
    /// When a looping text is given up. Default on; `None` never gives up.
    pub repetition: Option<RepetitionStop>,
    /// When the whole call ends, done or not. Default never.
    pub limits: Limits,
    /// Ends a completion early. Default none.
    pub stop: Option<Arc<dyn StopCondition>>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 2048,
            sampling: Sampling::Greedy,
            samples: 1,
            seed: 0,
            repetition: Some(RepetitionStop::default()),
            limits: Limits::default(),
            stop: None,
        }
    }
}

impl fmt::Debug for GenerateOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerateOptions")
            .field("max_tokens", &self.max_tokens)
            .field("sampling", &self.sampling)
            .field("samples", &self.samples)
            .field("seed", &self.seed)
            .field("repetition", &self.repetition)
            .field("limits", &self.limits)
            .field("stop", &self.stop.is_some())
            .finish()
    }
}

impl GenerateOptions {
    /// The same options with at most so many tokens a completion.
    #[must_use]
    pub fn with_max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// The same options with another way to choose tokens.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// The same options with so many completions a prompt.
    #[must_use]
    pub fn with_samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// The same options with another seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same options with another rule for looping texts; `None` never gives one up.
    #[must_use]
    pub fn with_repetition(mut self, repetition: Option<RepetitionStop>) -> Self {
        self.repetition = repetition;
        self
    }

    /// The same options with a limit of wall time for the whole call.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = Some(deadline);
        self
    }

    /// The same options with something that ends the call early.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.limits.cancel = Some(cancel);
        self
    }

    /// The same options with a condition that ends a completion early.
    #[must_use]
    pub fn with_stop(mut self, stop: Arc<dyn StopCondition>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// The most samples a prompt that [`GenerateOptions::validate`] accepts.
    pub const MAX_SAMPLES: usize = 64;

    /// Checks the ranges that the fields' documentation gives.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let error = |option, expected, found: String| Err(OptionsError { option, expected, found });
        if self.max_tokens == 0 {
            return error("max_tokens", "at least 1", "0".to_owned());
        }
        if !(1..=Self::MAX_SAMPLES).contains(&self.samples) {
            return error("samples", "from 1 to 64", self.samples.to_string());
        }
        if let Sampling::TopP { temperature, top_p } = self.sampling {
            if !(temperature.is_finite() && temperature > 0.0) {
                return error("temperature", "finite and above 0", temperature.to_string());
            }
            if !(top_p > 0.0 && top_p <= 1.0) {
                return error("top_p", "above 0 and at most 1", top_p.to_string());
            }
        }
        if let Some(stop) = self.repetition {
            if stop.ngram == 0 || stop.window < stop.ngram {
                let found = format!("window {} and ngram {}", stop.window, stop.ngram);
                return error("repetition", "window >= ngram >= 1", found);
            }
            if !(stop.ratio > 0.0 && stop.ratio <= 1.0) {
                let found = stop.ratio.to_string();
                return error("repetition.ratio", "above 0 and at most 1", found);
            }
        }
        Ok(())
    }
}

/// An option that is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{option}` must be {expected}, found {found}")]
pub struct OptionsError {
    /// The name of the option.
    pub option: &'static str,
    /// What is accepted.
    pub expected: &'static str,
    /// What was given.
    pub found: String,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finish {
    /// The model wrote an end token.
    EndOfText,
    /// The stop condition held.
    Stopped,
    /// [`GenerateOptions::max_tokens`] were written.
    TokenBudget,
    /// The context of the model is full.
    ContextFull,
    /// The text went round in circles.
    Repetition,
    /// The [deadline](Limits::deadline) passed.
    Deadline,
    /// The call was [cancelled](Limits::cancel).
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(GenerateOptions::default().validate(), Ok(()));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let refused = |change: &dyn Fn(&mut GenerateOptions)| {
            let mut options = GenerateOptions::default();
            change(&mut options);
            options.validate().unwrap_err().option
        };
        assert_eq!(refused(&|o| o.max_tokens = 0), "max_tokens");
        assert_eq!(refused(&|o| o.samples = 0), "samples");
        assert_eq!(refused(&|o| o.samples = usize::MAX), "samples");
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let sampling = Sampling::TopP { temperature, top_p: 0.95 };
            assert_eq!(refused(&|o| o.sampling = sampling), "temperature");
        }
        for top_p in [0.0, 1.1, f32::NAN] {
            let sampling = Sampling::TopP { temperature: 1.0, top_p };
            assert_eq!(refused(&|o| o.sampling = sampling), "top_p");
        }
        let narrow = RepetitionStop { window: 2, ngram: 4, ratio: 0.5 };
        assert_eq!(refused(&|o| o.repetition = Some(narrow)), "repetition");
    }
}
