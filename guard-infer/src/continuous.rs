//! Continuous batching on packed weights: texts begin where others have ended, prompts are read beside texts
//! that are written, and what prompts begin with is read once.

use std::collections::VecDeque;

use guard_core::{Completed, Finish, PackedCache, PackedLlama, PackedPiece};

use crate::batch::{Batch, Completions, MAX_TOKENS, Row};
use crate::error::GenerateError;

/// A prompt to be continued.
pub(crate) struct Asked {
    pub(crate) ids: Vec<u32>,
    /// What has been read of it already, at most all tokens but one.
    pub(crate) cache: PackedCache,
}

/// The texts of a call.
pub(crate) struct Continuous<'a> {
    batch: &'a Batch<'a>,
    model: &'a PackedLlama,
    lengths: Vec<usize>,
    waiting: VecDeque<(usize, Asked)>,
    reading: Vec<Reading>,
    /// Prompts that are read and whose samples have not all begun.
    forking: Vec<Forking>,
    writing: Vec<Writing<'a>>,
    results: Vec<Vec<Result<Completed, GenerateError>>>,
}

struct Reading {
    prompt: usize,
    ids: Vec<u32>,
    cache: PackedCache,
}

struct Forking {
    prompt: usize,
    ids: Vec<u32>,
    cache: PackedCache,
    logits: Vec<f32>,
    begun: usize,
}

struct Writing<'a> {
    prompt: usize,
    sample: usize,
    row: Row<'a>,
    cache: PackedCache,
}

impl<'a> Continuous<'a> {
    pub(crate) fn new(batch: &'a Batch<'a>, model: &'a PackedLlama, asked: Vec<Asked>) -> Self {
        let not_run = Ok(Completed::new("", Finish::NotRun));
        let results = asked.iter().map(|_| vec![not_run.clone(); batch.options.samples]);
        Self {
            batch,
            model,
            lengths: asked.iter().map(|asked| asked.ids.len()).collect(),
            results: results.collect(),
            waiting: asked.into_iter().enumerate().collect(),
            reading: Vec::new(),
            forking: Vec::new(),
            writing: Vec::new(),
        }
    }

    /// Continues each prompt as often as the options say.
    pub(crate) fn run(mut self) -> Vec<Completions> {
        loop {
            self.fork();
            self.admit();
            if self.reading.is_empty() && self.writing.is_empty() {
                break;
            }
            self.step();
        }
        self.results.into_iter().map(|samples| samples.into_iter().collect()).collect()
    }

    fn rows(&self) -> usize {
        self.reading.len() + self.writing.len()
    }

    /// Begins samples of prompts that are read, as long as there is room.
    fn fork(&mut self) {
        while self.rows() < self.batch.max_rows {
            let Some(forking) = self.forking.first_mut() else { return };
            let (prompt, sample) = (forking.prompt, forking.begun);
            forking.begun += 1;
            let row = self.batch.row(prompt, &forking.ids, sample);
            let writing = Writing { prompt, sample, row, cache: forking.cache.clone() };
            let logits = match forking.begun == self.batch.options.samples {
                true => self.forking.remove(0).logits,
                false => forking.logits.clone(),
            };
            self.advance(writing, &logits);
        }
    }

    /// Chooses the next token of a text, which goes on or ends with it.
    fn advance(&mut self, mut writing: Writing<'a>, logits: &[f32]) {
        let (prompt, sample) = (writing.prompt, writing.sample);
        self.results[prompt][sample] = match self.batch.advance(&mut writing.row, logits) {
            Ok(None) => return self.writing.push(writing),
            Ok(Some(finish)) => self.batch.complete(writing.row, finish),
            Err(error) => Err(error),
        };
    }

    /// Begins to read prompts, as long as there is room for them and nobody waits to be forked.
    fn admit(&mut self) {
        let held = |s: &Self| -> usize {
            let caches = s.writing.iter().map(|w| w.cache.len());
            caches.sum::<usize>() + s.reading.iter().map(|r| s.lengths[r.prompt]).sum::<usize>()
        };
        while self.forking.is_empty() && self.rows() < self.batch.max_rows {
            let Some(&(prompt, _)) = self.waiting.front() else { return };
            let is_full = held(self) + self.lengths[prompt] > MAX_TOKENS;
            if is_full && self.rows() > 0 {
                return;
            }
            let Some((prompt, Asked { ids, cache })) = self.waiting.pop_front() else { return };
            match self.batch.is_late() {
                true => self.give_up(prompt),
                false => self.reading.push(Reading { prompt, ids, cache }),
            }
        }
    }

    /// The completions of a prompt whose turn came too late.
    fn give_up(&mut self, prompt: usize) {
        let completed = self.batch.too_late(self.lengths[prompt]);
        self.results[prompt] = completed.into_iter().map(Ok).collect();
    }

    /// Reads the newest token of each text, and a piece of the prompts.
    fn step(&mut self) {
        let mut budget = self.batch.prefill_tokens;
        let mut wanted = Vec::new();
        let mut places = 0;
        let mut pieces = Vec::new();
        for Writing { row, cache, .. } in &mut self.writing {
            pieces.push(PackedPiece::new(row.newest(), cache));
            wanted.push(places);
            places += 1;
        }
        let mut whole = 0;
        for Reading { ids, cache, .. } in &mut self.reading {
            let start = cache.len();
            let count = (ids.len() - start).min(budget);
            if count == 0 {
                break;
            }
            budget -= count;
            places += count;
            if start + count == ids.len() {
                wanted.push(places - 1);
                whole += 1;
            }
            pieces.push(PackedPiece::new(&ids[start..start + count], cache));
        }
        let logits = self.model.forward(&mut pieces, &wanted);
        drop(pieces);
        match logits {
            Ok(logits) => self.go_on(&logits, whole),
            Err(error) => self.fail(&error.into()),
        }
    }

    /// Chooses the next token of each text; prompts that are read, the first ones, are forked next.
    fn go_on(&mut self, logits: &[f32], whole: usize) {
        let mut logits = logits.chunks_exact(self.model.config().vocab_size);
        for (writing, logits) in std::mem::take(&mut self.writing).into_iter().zip(&mut logits) {
            self.advance(writing, logits);
        }
        for (Reading { prompt, ids, cache }, logits) in self.reading.drain(..whole).zip(logits) {
            self.forking.push(Forking { prompt, ids, cache, logits: logits.to_vec(), begun: 0 });
        }
        if self.batch.is_late() {
            for reading in std::mem::take(&mut self.reading) {
                self.give_up(reading.prompt);
            }
        }
    }

    /// All that took part in a step that failed.
    fn fail(&mut self, error: &GenerateError) {
        for writing in self.writing.drain(..) {
            self.results[writing.prompt][writing.sample] = Err(error.clone());
        }
        for reading in self.reading.drain(..) {
            self.results[reading.prompt].fill(Err(error.clone()));
        }
    }
}
