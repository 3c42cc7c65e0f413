//! Generating the texts of one group of prompts side by side.

use std::collections::BTreeSet;
use std::time::Instant;

use guard_core::{Completed, Finish, GenerateOptions, TextStream, Tokenizer, Usage};

use crate::engine::{Engine, Rows};
use crate::error::GenerateError;
use crate::repetition::RepetitionDetector;
use crate::sampler::Sampler;

/// The most tokens of prompts that are held side by side, padding and samples included: it bounds
/// the cache. A single longer prompt is read alone.
pub(crate) const MAX_TOKENS: usize = 8192;

/// What all texts of a group share.
pub(crate) struct Batch<'a> {
    pub(crate) model: &'a Engine,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) eos: &'a BTreeSet<u32>,
    pub(crate) options: &'a GenerateOptions,
    /// The most texts side by side.
    pub(crate) max_rows: usize,
    /// The most tokens of prompts that one call of the model reads, padding included.
    pub(crate) prefill_tokens: usize,
    /// When the caller's call began.
    pub(crate) started: Instant,
}

/// The completions of one prompt, or why there are none.
pub(crate) type Completions = Result<Vec<Completed>, GenerateError>;

/// One text in the making.
pub(crate) struct Row<'a> {
    /// Its place among the results of its wave.
    slot: usize,
    prompt_tokens: usize,
    ids: Vec<u32>,
    text: String,
    stream: TextStream<'a>,
    sampler: Sampler,
    repetition: Option<RepetitionDetector>,
}

impl Row<'_> {
    /// The token that was chosen last.
    pub(crate) fn newest(&self) -> &[u32] {
        &self.ids[self.ids.len().saturating_sub(1)..]
    }
}

/// Prompts that have been read, and the logits behind the last token of each.
pub(crate) struct Prefilled<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) logits: Vec<Vec<f32>>,
}

impl<'a> Batch<'a> {
    /// Continues each prompt as often as the options say. All samples of a prompt share its
    /// prefill, and at most `max_rows` of them are written side by side.
    pub(crate) fn run(&self, prompts: &[&[u32]]) -> Vec<Completions> {
        let width = prompts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let rows = self.model.rows(prompts.len(), width + 1);
        let Prefilled { rows: read, logits } = match self.prefill(prompts, rows) {
            Ok(Some(prefilled)) => prefilled,
            Ok(None) => return prompts.iter().map(|ids| Ok(self.too_late(ids.len()))).collect(),
            Err(error) => return vec![Err(error); prompts.len()],
        };
        let samples = self.options.samples;
        if samples == 1 {
            let rows = prompts.iter().enumerate().map(|(slot, ids)| self.row(slot, ids, 0));
            let completed = self.decode(rows.collect(), read, logits);
            return completed.into_iter().map(|completed| Ok(vec![completed?])).collect();
        }
        let texts: Vec<(usize, usize)> = (0..prompts.len())
            .flat_map(|prompt| (0..samples).map(move |sample| (prompt, sample)))
            .collect();
        let rows = (MAX_TOKENS / width.max(1)).clamp(1, self.max_rows);
        let waves = texts.chunks(rows).flat_map(|wave| {
            let forks: Vec<usize> = wave.iter().map(|(prompt, _)| *prompt).collect();
            let logits = forks.iter().map(|&prompt| logits[prompt].clone()).collect();
            let rows = wave.iter().enumerate();
            let rows =
                rows.map(|(slot, &(prompt, sample))| self.row(slot, prompts[prompt], sample));
            self.decode(rows.collect(), read.select(&forks), logits)
        });
        let completed: Vec<_> = waves.collect();
        completed.chunks(samples).map(|samples| samples.iter().cloned().collect()).collect()
    }

    /// What a prompt gets whose turn comes after the deadline.
    pub(crate) fn too_late(&self, prompt_tokens: usize) -> Vec<Completed> {
        let usage = Usage::new(prompt_tokens, 0, self.started.elapsed());
        vec![Completed::new("", Finish::Deadline).with_usage(usage); self.options.samples]
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_late(&self) -> bool {
        self.options.deadline.is_some_and(|deadline| self.started.elapsed() >= deadline)
    }

    /// Reads what rows have not read of their prompts, in pieces that bound what activations take, and
    /// between which the deadline is looked at. `None` when it has passed.
    pub(crate) fn prefill(
        &self,
        prompts: &[&[u32]],
        mut rows: Rows<'a>,
    ) -> Result<Option<Prefilled<'a>>, GenerateError> {
        let read = prompts.iter().zip(rows.lengths());
        let prompts: Vec<&[u32]> = read.map(|(ids, start)| &ids[start..]).collect();
        let width = prompts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let shortest = prompts.iter().map(|ids| ids.len()).min().unwrap_or(0);
        // Every prompt takes part in every piece, so there are at most as many as the shortest has tokens.
        let pieces =
            (prompts.len() * width).div_ceil(self.prefill_tokens).clamp(1, shortest.max(1));
        let mut piece = 0;
        loop {
            let of = |ids: &'_ [u32], piece: usize| ids.len() * piece / pieces;
            let part: Vec<&[u32]> =
                prompts.iter().map(|ids| &ids[of(ids, piece)..of(ids, piece + 1)]).collect();
            piece += 1;
            if piece == pieces {
                let logits = rows.logits(&part)?;
                return Ok(Some(Prefilled { rows, logits }));
            }
            rows.read(&part)?;
            if self.is_late() {
                return Ok(None);
            }
        }
    }

    /// Writes the rows' texts, token by token, until each has ended. A row that fails leaves the
    /// others alone.
    fn decode(
        &self,
        mut rows: Vec<Row<'a>>,
        mut read: Rows<'a>,
        mut logits: Vec<Vec<f32>>,
    ) -> Vec<Result<Completed, GenerateError>> {
        let mut results: Vec<Option<_>> = rows.iter().map(|_| None).collect();
        loop {
            let mut places = Vec::new();
            let mut going = Vec::new();
            for (place, (mut row, logits)) in rows.into_iter().zip(&logits).enumerate() {
                let slot = row.slot;
                match self.advance(&mut row, logits) {
                    Ok(None) => {
                        places.push(place);
                        going.push(row);
                    }
                    Ok(Some(finish)) => results[slot] = Some(self.complete(row, finish)),
                    Err(error) => results[slot] = Some(Err(error)),
                }
            }
            rows = going;
            if rows.is_empty() {
                break;
            }
            if places.len() < logits.len() {
                read = read.select(&places);
            }
            match step(&rows, &mut read) {
                Ok(next) => logits = next,
                Err(error) => {
                    rows.iter().for_each(|row| results[row.slot] = Some(Err(error.clone())));
                    break;
                }
            }
        }
        results.into_iter().flatten().collect()
    }

    pub(crate) fn row(&self, slot: usize, ids: &[u32], sample: usize) -> Row<'a> {
        Row {
            slot,
            prompt_tokens: ids.len(),
            ids: Vec::new(),
            text: String::new(),
            stream: self.tokenizer.stream(),
            sampler: Sampler::new(self.options.sampling, self.options.seed, ids, sample),
            repetition: self.options.repetition.map(RepetitionDetector::new),
        }
    }

    /// Chooses the row's next token and says whether its text ends with it.
    pub(crate) fn advance(
        &self,
        row: &mut Row<'_>,
        logits: &[f32],
    ) -> Result<Option<Finish>, GenerateError> {
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
        let length = row.prompt_tokens + row.ids.len();
        Ok(match () {
            () if stopped => Some(Finish::Stopped),
            () if repeats => Some(Finish::Repetition),
            () if row.ids.len() >= self.options.max_tokens => Some(Finish::TokenBudget),
            () if length >= self.model.config().max_positions => Some(Finish::ContextFull),
            () if self.is_late() => Some(Finish::Deadline),
            () => None,
        })
    }

    pub(crate) fn complete(
        &self,
        row: Row<'_>,
        finish: Finish,
    ) -> Result<Completed, GenerateError> {
        let usage = Usage::new(row.prompt_tokens, row.ids.len(), self.started.elapsed());
        let text = row.text + &row.stream.finish()?;
        Ok(Completed::new(text, finish).with_usage(usage))
    }
}

/// Reads each row's newest token and returns the logits behind it.
fn step(rows: &[Row<'_>], read: &mut Rows<'_>) -> Result<Vec<Vec<f32>>, GenerateError> {
    let newest: Vec<&[u32]> = rows.iter().map(Row::newest).collect();
    read.logits(&newest)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use guard_core::burn::tensor::Device;
    use guard_core::{LoadOptions, ModelFiles};

    use super::*;

    /// A deadline that passes while the first piece of the prompts is read.
    #[test]
    fn the_deadline_is_looked_at_between_pieces_of_a_prompt() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../guard-core/testdata/models/tied-gqa-llama3");
        let files = ModelFiles::open(path).unwrap();
        let (model, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
        let model = Engine::Burn(Box::new(model));
        let tokenizer = files.tokenizer().unwrap();
        let options = GenerateOptions::default().with_deadline(Duration::ZERO).with_samples(2);
        let batch = Batch {
            model: &model,
            tokenizer: &tokenizer,
            eos: &BTreeSet::new(),
            options: &options,
            max_rows: 4,
            prefill_tokens: 8,
            started: Instant::now(),
        };
        let ids: Vec<u32> = (0..20).collect();
        for completions in batch.run(&[&ids, &ids[..10]]) {
            let completions = completions.unwrap();
            assert_eq!(completions.len(), 2);
            assert!(completions.iter().all(|c| c.finish == Finish::Deadline && c.text.is_empty()));
        }
        // In one piece there is nothing between, and a token is written.
        let whole = Batch { prefill_tokens: 64, ..batch };
        let written = whole.run(&[&ids]).remove(0).unwrap();
        assert_eq!(written[0].usage.completion_tokens, 1);
    }
}
