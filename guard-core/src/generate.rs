//! What it takes to turn a prompt into text, whoever does it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::completed::Completed;
use crate::limits::{Cancel, Limits};
use crate::prompt::Prompt;
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
