//! What a generator has on packed weights: texts of many callers side by side, turns and guesses.

use guard_core::{LlamaConfig, PackedCache, PackedLlama, Prompt};

use super::{Encoded, LlamaGenerator};
use crate::batch::MAX_TOKENS;
use crate::call::{Call, Completions};
use crate::continuous::Asked;
use crate::draft::Phrases;
use crate::engine::Engine;
use crate::error::GenerateError;
use crate::prefix::Prefixes;
use crate::queue::{Queue, Work};
use crate::turn::{Turn, Turns};

/// What packed weights have in addition.
pub(super) struct OnCpu {
    prefixes: Prefixes,
    turns: Turns,
    pub(super) queue: Queue,
    drafts: bool,
    phrases: Phrases,
}

impl Default for OnCpu {
    fn default() -> Self {
        Self {
            prefixes: Prefixes::default(),
            turns: Turns::new(PackedLlama::threads()),
            queue: Queue::new(Queue::LIMIT),
            drafts: true,
            phrases: Phrases::default(),
        }
    }
}

/// The memory that keys and values of texts on packed weights take, in bytes, up to which another text begins
/// beside them. They grow with what is written.
const CACHE_BYTES: usize = 1 << 30;

impl LlamaGenerator {
    /// The same generator, refusing a call as [`GenerateError::Busy`] while `prompts` prompts of other calls, or
    /// as many calls that score, wait to begin. Default: 4,096. On burn none is refused.
    #[must_use]
    pub fn with_max_waiting(mut self, prompts: usize) -> Self {
        self.on_cpu.queue = Queue::new(prompts.max(1));
        self
    }

    /// The same generator without guesses at what texts go on with, which it makes on packed weights as long
    /// as few texts are written side by side. Texts are the same with and without.
    #[must_use]
    pub fn without_drafts(mut self) -> Self {
        self.on_cpu.drafts = false;
        self
    }

    /// The same generator with guesses from phrases of these texts, such as outputs that the model was
    /// trained on. How long a text takes tells how usual it is: give no texts that are secret.
    #[must_use]
    pub fn with_phrases(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        self.on_cpu.phrases = Phrases::new(texts.into_iter().collect());
        self
    }

    /// A cache that holds what the prompt begins with, on packed weights.
    pub(crate) fn begin(
        &self,
        call: &Call,
        prompt: &Prompt,
        ids: &[u32],
    ) -> Result<Option<PackedCache>, GenerateError> {
        let Engine::Packed(model) = &self.model else { return Ok(None) };
        let OnCpu { prefixes, turns, .. } = &self.on_cpu;
        prefixes.begin((model, turns), call, prompt, ids).map(Some)
    }

    /// Has a call read so many tokens in its turn. A call that is over before does not wait for one: it looks
    /// itself whether it is.
    pub(crate) fn in_turn<R>(&self, call: &Call, tokens: usize, work: impl FnOnce() -> R) -> R {
        let Engine::Packed(_) = self.model else { return work() };
        // Those who have a thread each hold as much side by side as one may who has all.
        let turn = match tokens > MAX_TOKENS / PackedLlama::threads() {
            true => self.on_cpu.turns.take_all(call),
            false => self.on_cpu.turns.take(call),
        };
        match turn.as_ref().is_some_and(Turn::is_of_one_thread) {
            true => PackedLlama::on_this_thread(work),
            false => work(),
        }
    }

    /// Whether there is room for another call that waits for its turn.
    pub(crate) fn has_room(&self) -> Result<(), GenerateError> {
        self.on_cpu.queue.has_room_beside(self.on_cpu.turns.waiting())
    }

    /// On packed weights: beside the prompts of other callers.
    pub(super) fn generate_packed(
        &self,
        model: &PackedLlama,
        (call, prompts, encoded): (Call, &[Prompt], Encoded),
        results: &mut [Completions],
    ) {
        let mut asked = Vec::new();
        for (number, ids) in encoded {
            match self.begin(&call, &prompts[number], &ids) {
                Ok(cache) => {
                    let cache = cache.unwrap_or_else(|| model.cache());
                    asked.push(Asked { number, ids, cache });
                }
                Err(error) => results[number] = Err(error),
            }
        }
        if asked.is_empty() {
            return;
        }
        let numbers: Vec<usize> = asked.iter().map(|asked| asked.number).collect();
        let &LlamaConfig { layers, kv_heads, head_dim, .. } = model.config();
        // Keys and values, in two bytes each.
        let token = 4 * layers * kv_heads * head_dim;
        let work = Work {
            model,
            turns: &self.on_cpu.turns,
            max_rows: self.max_rows,
            max_tokens: CACHE_BYTES / token.max(1),
            prefill_tokens: self.prefill_tokens,
            phrases: self.on_cpu.drafts.then(|| self.on_cpu.phrases.table(&self.tokenizer)),
        };
        match self.on_cpu.queue.run(&work, call, asked) {
            Ok(found) => {
                numbers.into_iter().zip(found).for_each(|(number, texts)| results[number] = texts);
            }
            Err(error) => numbers.iter().for_each(|&at| results[at] = Err(error.clone())),
        }
    }
}
