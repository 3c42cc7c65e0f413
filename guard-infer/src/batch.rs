//! Generating the texts of one group of prompts side by side.

use guard_core::{Completed, Finish};

use crate::call::{Call, Completions, Row};
use crate::engine::{Engine, Rows};
use crate::error::GenerateError;
use crate::sampler::Draws;

/// The most tokens of prompts that are held side by side, padding and samples included: it bounds
/// the cache. A single longer prompt is read alone.
pub(crate) const MAX_TOKENS: usize = 8192;

/// A model, and what it is to do with prompts.
pub(crate) struct Batch<'a> {
    pub(crate) model: &'a Engine,
    pub(crate) call: &'a Call,
    /// The most texts side by side.
    pub(crate) max_rows: usize,
    /// The most tokens of prompts that one call of the model reads, padding included.
    pub(crate) prefill_tokens: usize,
}

/// Prompts that have been read, and the logits behind the last token of each.
pub(crate) struct Prefilled<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) logits: Vec<Vec<f32>>,
}

/// A prompt of a group.
#[derive(Clone, Copy)]
pub(crate) struct GroupPrompt<'a> {
    /// Its number in the call.
    pub(crate) number: usize,
    pub(crate) ids: &'a [u32],
}

impl<'a> Batch<'a> {
    /// Continues each prompt as often as the options say. All samples of a prompt share its
    /// prefill, and at most `max_rows` of them are written side by side.
    pub(crate) fn run(&self, prompts: &[GroupPrompt<'_>]) -> Vec<Completions> {
        let ids: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.ids).collect();
        let width = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let rows = self.model.rows(prompts.len(), width + 1);
        let Prefilled { rows: read, logits } = match self.prefill(&ids, rows) {
            Ok(Some(prefilled)) => prefilled,
            Ok(None) => return ids.iter().map(|ids| Ok(self.call.none_begun(ids.len()))).collect(),
            Err(error) => return vec![Err(error); prompts.len()],
        };
        let samples = self.call.options.samples;
        let row =
            |prompt: GroupPrompt<'_>, sample| self.call.row(prompt.number, prompt.ids, sample);
        if samples == 1 {
            let rows = prompts.iter().map(|&prompt| row(prompt, 0)).collect();
            let completed = self.decode(rows, read, logits);
            return completed.into_iter().map(|completed| Ok(vec![completed?])).collect();
        }
        let texts: Vec<(usize, usize)> = (0..prompts.len())
            .flat_map(|prompt| (0..samples).map(move |sample| (prompt, sample)))
            .collect();
        let most = (MAX_TOKENS / width.max(1)).clamp(1, self.max_rows);
        let waves = texts.chunks(most).flat_map(|wave| {
            let forks: Vec<usize> = wave.iter().map(|(prompt, _)| *prompt).collect();
            let logits = forks.iter().map(|&prompt| logits[prompt].clone()).collect();
            let rows = wave.iter().map(|&(prompt, sample)| row(prompts[prompt], sample));
            self.decode(rows.collect(), read.select(&forks), logits)
        });
        let completed: Vec<_> = waves.collect();
        completed.chunks(samples).map(|samples| samples.iter().cloned().collect()).collect()
    }

    /// Reads what rows have not read of their prompts, in pieces that bound what activations take, and
    /// between which the limits are looked at. `None` when the call is over.
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
            if self.call.over().is_some() {
                return Ok(None);
            }
        }
    }

    /// Writes the rows' texts, token by token, until each has ended. A row that fails leaves the
    /// others alone.
    fn decode(
        &self,
        rows: Vec<Row>,
        mut read: Rows<'a>,
        mut logits: Vec<Vec<f32>>,
    ) -> Vec<Result<Completed, GenerateError>> {
        let mut results: Vec<_> =
            rows.iter().map(|_| Ok(Completed::new("", Finish::NotRun))).collect();
        let mut rows: Vec<(usize, Row)> = rows.into_iter().enumerate().collect();
        let mut memory = Draws::default();
        loop {
            let mut places = Vec::new();
            let mut going = Vec::new();
            for (place, ((slot, mut row), logits)) in rows.into_iter().zip(&logits).enumerate() {
                let chosen = row.choose(logits, &mut memory);
                match self.call.push(&mut row, chosen) {
                    Ok(None) => {
                        places.push(place);
                        going.push((slot, row));
                    }
                    Ok(Some(finish)) => results[slot] = self.call.complete(row, finish),
                    Err(error) => results[slot] = Err(error),
                }
            }
            rows = going;
            if rows.is_empty() {
                return results;
            }
            if places.len() < logits.len() {
                read = read.select(&places);
            }
            let newest: Vec<&[u32]> = rows.iter().map(|(_, row)| row.newest()).collect();
            match read.logits(&newest) {
                Ok(next) => logits = next,
                Err(error) => {
                    rows.iter().for_each(|(slot, _)| results[*slot] = Err(error.clone()));
                    return results;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use guard_core::burn::tensor::Device;
    use guard_core::{GenerateOptions, LoadOptions, ModelFiles};

    use super::*;

    /// A deadline that passes while the first piece of the prompts is read.
    #[test]
    fn the_deadline_is_looked_at_between_pieces_of_a_prompt() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../guard-core/testdata/models/tied-gqa-llama3");
        let files = ModelFiles::open(path).unwrap();
        let (model, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
        let context = model.config().max_positions;
        let model = Engine::Burn(Box::new(model));
        let call = Call {
            tokenizer: Arc::new(files.tokenizer().unwrap()),
            eos: Arc::new(BTreeSet::new()),
            options: GenerateOptions::default().with_deadline(Duration::ZERO).with_samples(2),
            context,
            started: Instant::now(),
        };
        let batch = Batch { model: &model, call: &call, max_rows: 4, prefill_tokens: 8 };
        let ids: Vec<u32> = (0..20).collect();
        let asked =
            [GroupPrompt { number: 0, ids: &ids }, GroupPrompt { number: 1, ids: &ids[..10] }];
        for completions in batch.run(&asked) {
            let completions = completions.unwrap();
            assert_eq!(completions.len(), 2);
            assert!(completions.iter().all(|c| c.finish == Finish::Deadline && c.text.is_empty()));
        }
        // In one piece there is nothing between, and a token is written.
        let whole = Batch { prefill_tokens: 64, ..batch };
        let written = whole.run(&asked[..1]).remove(0).unwrap();
        assert_eq!(written[0].usage.completion_tokens, 1);
    }
}
