//! Generating the texts of one group of prompts side by side.

use std::collections::BTreeSet;
use std::time::Instant;

use guard_core::burn::tensor::Tensor;
use guard_core::{
    Completed, Finish, GenerateOptions, KvCache, Llama, TextStream, TokenBatch, Tokenizer, Usage,
};

use crate::error::GenerateError;
use crate::repetition::RepetitionDetector;
use crate::sampler::Sampler;

/// What all texts of a group share.
pub(crate) struct Batch<'a> {
    pub(crate) model: &'a Llama,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) eos: &'a BTreeSet<u32>,
    pub(crate) options: &'a GenerateOptions,
    /// When the caller's call began.
    pub(crate) started: Instant,
}

/// One text in the making.
struct Row<'a> {
    prompt_tokens: usize,
    ids: Vec<u32>,
    text: String,
    stream: TextStream<'a>,
    sampler: Sampler,
    repetition: Option<RepetitionDetector>,
}

impl<'a> Batch<'a> {
    /// Continues each prompt `samples` times. All samples of a prompt share its prefill.
    pub(crate) fn run(&self, prompts: &[&[u32]]) -> Result<Vec<Vec<Completed>>, GenerateError> {
        let samples = self.options.samples;
        let tokens = TokenBatch::new(prompts)?;
        let mut cache = self.model.cache(prompts.len(), tokens.width() + 1);
        let hidden = self.model.forward(&tokens, Some(&mut cache))?;
        let logits = self.model.logits(self.model.gather(hidden, &tokens.last_places()));
        let forks: Vec<usize> =
            (0..prompts.len()).flat_map(|prompt| std::iter::repeat_n(prompt, samples)).collect();
        let prefill = read(logits, prompts.len())?;
        let mut logits: Vec<Vec<f32>> =
            forks.iter().map(|&prompt| prefill[prompt].clone()).collect();
        if samples > 1 {
            cache = cache.select(&forks);
        }
        let mut rows: Vec<(usize, Row<'a>)> = forks
            .iter()
            .enumerate()
            .map(|(slot, &prompt)| (slot, self.row(prompts[prompt], slot % samples)))
            .collect();
        let mut finished: Vec<Option<Completed>> = (0..rows.len()).map(|_| None).collect();
        loop {
            let mut going = Vec::new();
            for (place, ((slot, mut row), logits)) in rows.into_iter().zip(&logits).enumerate() {
                match self.advance(&mut row, logits)? {
                    Some(finish) => finished[slot] = Some(self.complete(row, finish)?),
                    None => going.push((place, slot, row)),
                }
            }
            if going.is_empty() {
                break;
            }
            let places: Vec<usize> = going.iter().map(|(place, _, _)| *place).collect();
            if places.len() < logits.len() {
                cache = cache.select(&places);
            }
            rows = going.into_iter().map(|(_, slot, row)| (slot, row)).collect();
            logits = self.step(&rows, &mut cache)?;
        }
        Ok(by_prompt(finished, samples))
    }

    fn row(&self, ids: &[u32], sample: usize) -> Row<'a> {
        Row {
            prompt_tokens: ids.len(),
            ids: Vec::new(),
            text: String::new(),
            stream: self.tokenizer.stream(),
            sampler: Sampler::new(self.options.sampling, self.options.seed, ids, sample),
            repetition: self.options.repetition.map(RepetitionDetector::new),
        }
    }

    /// Chooses the row's next token and says whether its text ends with it.
    fn advance(&self, row: &mut Row<'_>, logits: &[f32]) -> Result<Option<Finish>, GenerateError> {
        let Ok(token) = row.sampler.choose(logits) else {
            return Ok(Some(Finish::NonFinite));
        };
        row.ids.push(token);
        if self.eos.contains(&token) {
            return Ok(Some(Finish::EndOfText));
        }
        let piece = row.stream.push(token)?;
        row.text.push_str(&piece);
        let stopped = !piece.is_empty()
            && self.options.stop.as_ref().is_some_and(|stop| stop.is_complete(&row.text));
        let repeats = row.repetition.as_mut().is_some_and(|detector| detector.push(token));
        let late = self.options.deadline.is_some_and(|deadline| self.started.elapsed() >= deadline);
        let length = row.prompt_tokens + row.ids.len();
        Ok(match () {
            () if stopped => Some(Finish::Stopped),
            () if repeats => Some(Finish::Repetition),
            () if row.ids.len() >= self.options.max_tokens => Some(Finish::TokenBudget),
            () if length >= self.model.config().max_positions => Some(Finish::ContextFull),
            () if late => Some(Finish::Deadline),
            () => None,
        })
    }

    /// Reads each row's newest token and returns the logits behind it.
    fn step(
        &self,
        rows: &[(usize, Row<'_>)],
        cache: &mut KvCache,
    ) -> Result<Vec<Vec<f32>>, GenerateError> {
        let newest: Vec<&[u32]> =
            rows.iter().map(|(_, row)| &row.ids[row.ids.len() - 1..]).collect();
        let hidden = self.model.forward(&TokenBatch::new(&newest)?, Some(cache))?;
        read(self.model.logits(hidden), rows.len())
    }

    fn complete(&self, row: Row<'_>, finish: Finish) -> Result<Completed, GenerateError> {
        let usage = Usage {
            prompt_tokens: row.prompt_tokens,
            completion_tokens: row.ids.len(),
            latency_ms: self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
        };
        let text = row.text + &row.stream.finish()?;
        Ok(Completed { text, finish, usage })
    }
}

/// Logits of `[rows, vocabulary]` as one vector a row.
fn read(logits: Tensor<2>, rows: usize) -> Result<Vec<Vec<f32>>, GenerateError> {
    let device_error = |error: String| GenerateError::Device(error);
    let data = logits.try_into_data().map_err(|error| device_error(format!("{error:?}")))?;
    let values = data.try_to_vec::<f32>().map_err(|error| device_error(format!("{error:?}")))?;
    Ok(values.chunks_exact(values.len() / rows.max(1)).map(<[f32]>::to_vec).collect())
}

/// Every slot is filled when all rows have ended; samples of a prompt stand side by side.
fn by_prompt(finished: Vec<Option<Completed>>, samples: usize) -> Vec<Vec<Completed>> {
    let finished: Vec<Completed> = finished.into_iter().flatten().collect();
    finished.chunks(samples).map(<[Completed]>::to_vec).collect()
}
