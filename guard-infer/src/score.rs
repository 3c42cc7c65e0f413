//! How probable continuations of prompts are.

use std::time::Instant;

#[cfg(feature = "flex")]
use guard_core::PackedCache;
use guard_core::{
    Finish, GenerateOptions, Limits, Prompt, ScoreRequest, Scored, Usage, log_sum_exp,
};

use crate::batch::{Batch, MAX_TOKENS, Prefilled};
use crate::branch;
use crate::call::Call;
#[cfg(feature = "flex")]
use crate::engine::Engine;
use crate::engine::Rows;
use crate::error::GenerateError;
use crate::generator::LlamaGenerator;

/// The tokens that all continuations of a prompt share, prompt included, and what follows in each:
/// at least one token.
struct Question {
    shared: Vec<u32>,
    tails: Vec<Vec<u32>>,
    /// What has been read of the former.
    #[cfg(feature = "flex")]
    begun: Option<PackedCache>,
}

impl Question {
    /// All tokens count as read, also those that are alike and read once, and none is written.
    fn usage(&self, started: Instant) -> Usage {
        Usage::new(self.tokens(), 0, started.elapsed())
    }

    fn tokens(&self) -> usize {
        self.shared.len() + self.tails.iter().map(Vec::len).sum::<usize>()
    }
}

impl LlamaGenerator {
    /// See [`TextGenerator::score`](guard_core::TextGenerator::score).
    pub(crate) fn score_all(
        &self,
        requests: &[ScoreRequest],
        limits: &Limits,
    ) -> Vec<Result<Scored, GenerateError>> {
        let mut options = GenerateOptions::default();
        options.limits = limits.clone();
        let call = self.call(options);
        #[cfg(feature = "flex")]
        if let Err(error) = self.has_room() {
            return vec![Err(error); requests.len()];
        }
        let batch = self.batch(&call);
        let mut results = Vec::new();
        let mut questions = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            match self.question(&call, request) {
                Ok(question) => {
                    results.push(Ok(Scored::cut_off(Finish::NotRun, Usage::default())));
                    questions.push((index, question));
                }
                Err(error) => results.push(Err(error)),
            }
        }
        // Forks of a prompt count as its samples do: fewer prompts are read side by side.
        let forks = questions.iter().map(|(_, question)| question.tails.len()).max().unwrap_or(1);
        let lengths: Vec<usize> = questions.iter().map(|(_, q)| q.shared.len()).collect();
        for group in self.groups(&lengths, forks) {
            let tokens = group.iter().map(|&i| questions[i].1.tokens()).sum();
            let group: Vec<&(usize, Question)> = group.into_iter().map(|i| &questions[i]).collect();
            let asked: Vec<&Question> = group.iter().map(|(_, question)| question).collect();
            let scored = self.in_turn(&call, tokens, || batch.score(&asked));
            for ((place, _), scored) in group.iter().zip(scored) {
                results[*place] = scored;
            }
        }
        results
    }

    /// Encodes a request and parts what its continuations share from what they do not.
    fn question(&self, call: &Call, request: &ScoreRequest) -> Result<Question, GenerateError> {
        #[cfg(not(feature = "flex"))]
        let _ = call;
        let mut shared = self.encode(&request.prompt)?;
        let prefix = self.tokenizer().prefix().len();
        let mut tails = Vec::new();
        for text in &request.continuations {
            let ids = self.tokenizer().encode(&Prompt::text(text))?;
            tails.push(ids[prefix.min(ids.len())..].to_vec());
        }
        let shortest = tails.iter().map(Vec::len).min().unwrap_or(0);
        if shortest == 0 {
            return Err(GenerateError::EmptyContinuation);
        }
        let longest = tails.iter().map(Vec::len).max().unwrap_or(0);
        let (tokens, limit) = (shared.len() + longest, self.config().max_positions);
        if tokens > limit {
            return Err(GenerateError::TooLong { tokens, limit });
        }
        let alike = (0..shortest - 1).take_while(|&at| tails.iter().all(|t| t[at] == tails[0][at]));
        let alike = alike.count();
        shared.extend_from_slice(&tails[0][..alike]);
        for tail in &mut tails {
            tail.drain(..alike);
        }
        Ok(Question {
            #[cfg(feature = "flex")]
            begun: self.begin(call, &request.prompt, &shared)?,
            shared,
            tails,
        })
    }
}

impl<'a> Batch<'a> {
    /// Reads what each question's continuations share once, and the rest of them side by side.
    fn score(&self, questions: &[&Question]) -> Vec<Result<Scored, GenerateError>> {
        let started = self.call.started;
        match self.try_score(questions) {
            Ok(Some(scores)) => {
                let scored = questions.iter().zip(scores);
                scored.map(|(q, scores)| Ok(Scored::new(scores, q.usage(started)))).collect()
            }
            Ok(None) => {
                let finish = self.call.over().unwrap_or(Finish::NotRun);
                let over = |q: &&Question| Scored::cut_off(finish, q.usage(started));
                questions.iter().map(|question| Ok(over(question))).collect()
            }
            Err(error) => vec![Err(error); questions.len()],
        }
    }

    /// The scores, or `None` when the call is over.
    fn try_score(&self, questions: &[&Question]) -> Result<Option<Vec<Vec<f64>>>, GenerateError> {
        if self.call.over().is_some() {
            return Ok(None);
        }
        let shared: Vec<&[u32]> = questions.iter().map(|q| q.shared.as_slice()).collect();
        let rows = self.begun(questions);
        let Some(Prefilled { rows: read, logits }) = self.prefill(&shared, rows)? else {
            return Ok(None);
        };
        let firsts = logits.iter().map(|logits| log_sum_exp(logits)).collect::<Vec<_>>();
        let mut scores: Vec<Vec<f64>> = questions
            .iter()
            .zip(logits.iter().zip(firsts))
            .map(|(question, (logits, all))| {
                let first = |tail: &Vec<u32>| f64::from(logits[tail[0] as usize]) - all;
                question.tails.iter().map(first).collect()
            })
            .collect();
        let tails: Vec<&[Vec<u32>]> = questions.iter().map(|q| q.tails.as_slice()).collect();
        // Each branch has a cache of its own, as long as its question.
        let width =
            |q: &&Question| q.shared.len() + q.tails.iter().map(Vec::len).max().unwrap_or(0);
        let width = questions.iter().map(width).max().unwrap_or(1);
        let most = (MAX_TOKENS / width.max(1)).clamp(1, self.max_rows);
        let is_over = || self.call.over().is_some();
        let is_done = branch::score(read, &tails, (most, is_over), &mut scores)?;
        Ok(is_done.then_some(scores))
    }

    /// Rows with what is read of the questions.
    fn begun(&self, questions: &[&Question]) -> Rows<'a> {
        #[cfg(feature = "flex")]
        if let Engine::Packed(model) = self.model {
            let begun = questions.iter().map(|question| question.begun.clone());
            return Rows::Packed(
                model,
                begun.map(|b| b.unwrap_or_else(|| model.cache())).collect(),
            );
        }
        let width = questions.iter().map(|question| question.shared.len()).max().unwrap_or(0);
        self.model.rows(questions.len(), width + 1)
    }
}
