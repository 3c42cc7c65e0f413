//! What the texts of one call share, and one text in the making.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use guard_core::{Completed, Finish, GenerateOptions, TextStream, Tokenizer, Usage};

use crate::error::GenerateError;
use crate::repetition::RepetitionDetector;
use crate::sampler::{Draws, NotFinite, Sampler};

/// What a caller wants of all texts of a call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// The tokens that end a text.
    pub(crate) eos: Arc<BTreeSet<u32>>,
    pub(crate) options: GenerateOptions,
    /// The tokens of the model's context.
    pub(crate) context: usize,
    pub(crate) started: Instant,
}

/// The completions of one prompt, or why there are none.
pub(crate) type Completions = Result<Vec<Completed>, GenerateError>;

/// One text in the making.
pub(crate) struct Row {
    /// The number of its prompt in the call.
    prompt: usize,
    prompt_tokens: usize,
    ids: Vec<u32>,
    text: String,
    stream: TextStream<Arc<Tokenizer>>,
    sampler: Sampler,
    repetition: Option<RepetitionDetector>,
}

impl Row {
    /// The token that was chosen last.
    pub(crate) fn newest(&self) -> &[u32] {
        &self.ids[self.ids.len().saturating_sub(1)..]
    }

    /// The tokens that were chosen.
    #[cfg(feature = "flex")]
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Chooses a next token, which is then [pushed](Call::push).
    pub(crate) fn choose(&mut self, logits: &[f32], memory: &mut Draws) -> Result<u32, NotFinite> {
        self.sampler.choose(logits, memory)
    }
}

impl Call {
    /// The text that is sample `sample` of a prompt.
    pub(crate) fn row(&self, prompt: usize, ids: &[u32], sample: usize) -> Row {
        Row {
            prompt,
            prompt_tokens: ids.len(),
            ids: Vec::new(),
            text: String::new(),
            stream: TextStream::new(Arc::clone(&self.tokenizer)),
            sampler: Sampler::new(self.options.sampling, self.options.seed, ids, sample),
            repetition: self.options.repetition.map(RepetitionDetector::new),
        }
    }

    /// Why the call is to end before it is done, if it is.
    pub(crate) fn over(&self) -> Option<Finish> {
        self.options.limits.exceeded(self.started.elapsed())
    }

    /// Whether there is anything that could end the call before it is done.
    #[cfg(feature = "flex")]
    pub(crate) fn can_be_over(&self) -> bool {
        self.options.limits != guard_core::Limits::default()
    }

    /// What stands in the place of a text that was not begun.
    pub(crate) fn not_begun(&self, prompt_tokens: usize, finish: Finish) -> Completed {
        let usage = Usage::new(prompt_tokens, 0, self.started.elapsed());
        Completed::new("", finish).with_usage(usage)
    }

    /// The same for all samples of a prompt, when the call is over.
    pub(crate) fn none_begun(&self, prompt_tokens: usize) -> Vec<Completed> {
        let finish = self.over().unwrap_or(Finish::NotRun);
        vec![self.not_begun(prompt_tokens, finish); self.options.samples]
    }

    /// Goes on with a row by the token that was chosen, and says whether its text ends with it.
    pub(crate) fn push(
        &self,
        row: &mut Row,
        chosen: Result<u32, NotFinite>,
    ) -> Result<Option<Finish>, GenerateError> {
        let Ok(token) = chosen else { return Ok(Some(Finish::NonFinite)) };
        row.ids.push(token);
        if self.eos.contains(&token) {
            return Ok(Some(Finish::EndOfText));
        }
        let piece = row.stream.push(token)?;
        row.text.push_str(&piece);
        let stopped = !piece.is_empty() && self.is_complete(row)?;
        let repeats = row.repetition.as_mut().is_some_and(|detector| detector.push(token));
        Ok(match () {
            () if stopped => Some(Finish::Stopped),
            () if repeats => Some(Finish::Repetition),
            () if self.room(row) == 0 => Some(match row.ids.len() >= self.options.max_tokens {
                true => Finish::TokenBudget,
                false => Finish::ContextFull,
            }),
            () => self.over(),
        })
    }

    /// Whether the stop condition holds. It is the caller's own code, and this may be another caller's thread:
    /// its panic fails the text, and nothing else.
    fn is_complete(&self, row: &Row) -> Result<bool, GenerateError> {
        let Some(stop) = &self.options.stop else { return Ok(false) };
        let is_complete = || stop.is_complete(row.prompt, &row.text);
        catch_unwind(AssertUnwindSafe(is_complete)).map_err(|_| GenerateError::StopCondition)
    }

    /// How many more tokens the row's text may have.
    pub(crate) fn room(&self, row: &Row) -> usize {
        let written = row.ids.len();
        let in_context = self.context.saturating_sub(row.prompt_tokens + written);
        self.options.max_tokens.saturating_sub(written).min(in_context)
    }

    /// What the text of a row most probably goes on with, by the word of its stop condition.
    #[cfg(feature = "flex")]
    pub(crate) fn likely(&self, row: &Row) -> Vec<u32> {
        let stop = self.options.stop.as_deref();
        let likely = || stop.map_or("", |stop| stop.likely(row.prompt, &row.text));
        // A guess that cannot be made is none.
        let likely = catch_unwind(AssertUnwindSafe(likely)).unwrap_or_default();
        if likely.is_empty() {
            return Vec::new();
        }
        let mut ids = self.tokenizer.encode(&guard_core::Prompt::text(likely)).unwrap_or_default();
        ids.drain(..self.tokenizer.prefix().len().min(ids.len()));
        ids
    }

    pub(crate) fn complete(&self, row: Row, finish: Finish) -> Result<Completed, GenerateError> {
        let usage = Usage::new(row.prompt_tokens, row.ids.len(), self.started.elapsed());
        let text = row.text + &row.stream.finish()?;
        Ok(Completed::new(text, finish).with_usage(usage))
    }
}
