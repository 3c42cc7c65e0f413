//! From texts to tokens, with the template and the cut of the reference.

mod cut;
mod template;

pub use cut::Cut;
pub use template::ChatTemplate;

use std::fmt;
use std::ops::ControlFlow;

use guard_core::{Prompt, Tokenizer, TokenizerError};
use guard_data::{Observer, PreferencePair, Progress, ReasonedSample};
use rayon::prelude::*;
use serde::Serialize;

use crate::example::{AnswerSequence, TrainingExample};
use crate::rsft::TargetTokens;

/// Encodes samples and pairs for training.
///
/// The prompt is the instruction, a newline and the input, in the turn of the user; the answer
/// and the end token are the turn of the assistant, and what is learnt. Prompt and answer are
/// encoded apart, as LLaMA-Factory does.
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    cutoff: usize,
    cut: Cut,
    between: usize,
    end: u32,
}

/// Why texts cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The tokenizer does not know the token that ends an answer.
    #[error("`{0}` is no control token of this tokenizer: choose the template of the model")]
    NoEndToken(String),
    /// A text cannot be encoded.
    #[error("row {row} cannot be encoded")]
    Row {
        /// The row, from 0.
        row: usize,
        /// What is wrong.
        source: TokenizerError,
    },
    /// The template cannot be encoded.
    #[error("the template cannot be encoded")]
    Template(#[source] TokenizerError),
    /// The observer ended the run.
    #[error("stopped after {done} rows")]
    Stopped {
        /// The rows that were encoded.
        done: usize,
    },
}

/// What encoding did to the rows. It shows itself in one line, with the first rows that were
/// dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EncodingReport {
    /// The rows that were given.
    pub rows: usize,
    /// Rows whose prompt was cut. By the reference's rule it loses the header of the answer.
    pub cut_prompts: usize,
    /// Rows of which an answer was cut: it has no verdict and no end.
    pub cut_answers: usize,
    /// Rows that were dropped, since their answer left no room for a prompt, or nothing was
    /// left to learn. Numbers from 0.
    pub dropped: Vec<usize>,
    /// The tokens of the rows that stay.
    pub tokens: usize,
    /// Those of them that are learnt.
    pub target_tokens: usize,
    /// The tokens of the longest row, or of the longer answer of a pair with its prompt.
    pub longest: usize,
}

impl fmt::Display for EncodingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, cut_prompts, cut_answers, dropped, tokens, target_tokens, longest } = self;
        write!(f, "{rows} rows, {} dropped{}, ", dropped.len(), first_few(dropped))?;
        write!(
            f,
            "{cut_prompts} prompts and {cut_answers} answers cut; {tokens} tokens, \
             {target_tokens} of them learnt, {longest} in the longest row"
        )
    }
}

/// The first few numbers in brackets, if there are any.
fn first_few(rows: &[usize]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = rows.iter().take(SHOWN).map(usize::to_string).collect();
    match rows.len() {
        0 => String::new(),
        count if count > SHOWN => format!(" (rows {}, ...)", shown.join(", ")),
        _ => format!(" (rows {})", shown.join(", ")),
    }
}

/// What is known of a pair before a reference model has read it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PairWeight {
    /// How much the pair counts.
    pub weight: f64,
}

/// Rows that are encoded at once, between two looks at the observer.
const ROWS_AT_ONCE: usize = 1024;

impl<'a> Encoder<'a> {
    /// An encoder that cuts rows to `cutoff` tokens (2,048 in the paper).
    ///
    /// # Errors
    ///
    /// [`EncodeError::NoEndToken`] when the template is another model's.
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: ChatTemplate,
        cutoff: usize,
        cut: Cut,
    ) -> Result<Self, EncodeError> {
        let end = tokenizer.control_id(template.end());
        let end = end.ok_or_else(|| EncodeError::NoEndToken(template.end().to_owned()))?;
        let between = template.tokens_between(tokenizer).map_err(EncodeError::Template)?;
        Ok(Self { tokenizer, template, cutoff, cut, between, end })
    }

    /// Samples for R-SFT.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] names the row that cannot be encoded.
    pub fn samples(
        &self,
        samples: &[ReasonedSample],
        observer: &mut dyn Observer,
    ) -> Result<(Vec<TrainingExample<TargetTokens>>, EncodingReport), EncodeError> {
        self.all(samples, observer, |sample| {
            let rows = self.rows(&sample.instruction, &sample.input, &[&sample.output])?;
            Ok(rows.map(|rows| {
                let count = rows.answers.iter().map(AnswerSequence::target_tokens).sum();
                (rows, TargetTokens::new(count))
            }))
        })
    }

    /// Pairs for HS-DPO, to be read by the reference model.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] names the row that cannot be encoded.
    pub fn pairs(
        &self,
        pairs: &[PreferencePair],
        observer: &mut dyn Observer,
    ) -> Result<(Vec<TrainingExample<PairWeight>>, EncodingReport), EncodeError> {
        self.all(pairs, observer, |pair| {
            let rows =
                self.rows(&pair.instruction, &pair.input, &[&pair.chosen, &pair.rejected])?;
            Ok(rows.map(|rows| (rows, PairWeight { weight: pair.sample_weight })))
        })
    }

    fn all<T: Sync, E: Send>(
        &self,
        items: &[T],
        observer: &mut dyn Observer,
        encode: impl Fn(&T) -> Result<Option<(Rows, E)>, TokenizerError> + Sync,
    ) -> Result<(Vec<TrainingExample<E>>, EncodingReport), EncodeError> {
        let mut report = EncodingReport { rows: items.len(), ..EncodingReport::default() };
        let mut examples = Vec::with_capacity(items.len());
        for (part, items) in items.chunks(ROWS_AT_ONCE).enumerate() {
            let encoded: Vec<_> = items.par_iter().map(&encode).collect();
            for (at, encoded) in encoded.into_iter().enumerate() {
                let row = part * ROWS_AT_ONCE + at;
                match encoded.map_err(|source| EncodeError::Row { row, source })? {
                    Some((rows, example)) => {
                        report.add(&rows);
                        let example = TrainingExample::new(rows.answers, example);
                        examples.push(example.with_row(row));
                    }
                    None => report.dropped.push(row),
                }
            }
            let done = part * ROWS_AT_ONCE + items.len();
            let progress = Progress::new("encoding", done as u64, Some(report.rows as u64));
            if observer.on_progress(&progress) == ControlFlow::Break(()) {
                return Err(EncodeError::Stopped { done });
            }
        }
        Ok((examples, report))
    }

    /// A prompt with each of its answers, all cut alike; `None` drops them.
    fn rows(
        &self,
        instruction: &str,
        input: &str,
        answers: &[&str],
    ) -> Result<Option<Rows>, TokenizerError> {
        let prompt =
            self.tokenizer.encode(&self.template.prompt(&format!("{instruction}\n{input}")))?;
        let answers = answers.iter().map(|text| self.answer(text));
        let answers = answers.collect::<Result<Vec<_>, _>>()?;
        let longest = answers.iter().map(Vec::len).max().unwrap_or(0);
        let kept = self.cut.keep(prompt.len(), longest, self.cutoff, self.between);
        let Some(kept) = kept.filter(|kept| kept.answer > 0 && kept.prompt > 0) else {
            return Ok(None);
        };
        let cut_prompt = kept.prompt < prompt.len();
        let prompt = self.cut_prompt(prompt, kept.prompt);
        let cut_answer = answers.iter().any(|answer| answer.len() > kept.answer);
        let cut = answers.iter().map(|answer| answer.get(..kept.answer).unwrap_or(answer));
        let answers = cut.map(|answer| AnswerSequence::new(&prompt, answer)).collect();
        Ok(Some(Rows { answers, cut_prompt, cut_answer }))
    }

    fn cut_prompt(&self, mut prompt: Vec<u32>, keep: usize) -> Vec<u32> {
        let tail = match self.cut {
            Cut::Reference => 0,
            Cut::KeepVerdict => self.between.min(keep),
        };
        prompt.drain(keep - tail..prompt.len() - tail);
        prompt
    }

    /// The tokens of an answer with its end, and without what stands before every text.
    fn answer(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.tokenizer.encode(&Prompt::text(text))?;
        ids.drain(..self.tokenizer.prefix().len().min(ids.len()));
        ids.push(self.end);
        Ok(ids)
    }
}

struct Rows {
    answers: Vec<AnswerSequence>,
    cut_prompt: bool,
    cut_answer: bool,
}

impl EncodingReport {
    fn add(&mut self, rows: &Rows) {
        self.cut_prompts += usize::from(rows.cut_prompt);
        self.cut_answers += usize::from(rows.cut_answer);
        for answer in &rows.answers {
            self.tokens += answer.tokens.len();
            self.target_tokens += answer.target_tokens();
            self.longest = self.longest.max(answer.tokens.len());
        }
    }
}
