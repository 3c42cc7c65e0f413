//! Continuing prompts with a local model.

#[cfg(feature = "flex")]
mod on_cpu;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use guard_core::burn::tensor::Device;
use guard_core::{
    Completed, GenerateOptions, Limits, Llama, LlamaConfig, LoadOptions, ModelFiles, Prompt,
    ScoreRequest, Scored, TextGenerator, Tokenizer, TokenizerError,
};
#[cfg(feature = "flex")]
use guard_core::{PackedLlama, WeightType};

use crate::batch::{Batch, GroupPrompt, MAX_TOKENS};
use crate::call::{Call, Completions};
use crate::engine::Engine;
use crate::error::{BuildError, GenerateError};
#[cfg(feature = "flex")]
use on_cpu::OnCpu;

/// Continues prompts with a LLaMA model and its tokenizer.
///
/// ```no_run
/// use guard_core::{GenerateOptions, LoadOptions, Prompt, TextGenerator};
/// use guard_infer::{DeviceName, LlamaGenerator};
///
/// let device = DeviceName::Auto.open()?;
/// let generator = LlamaGenerator::open("SmolLM2-135M", LoadOptions::default(), &device)?;
/// let results = generator.generate(&[Prompt::text("Once upon a time")], &GenerateOptions::default());
/// for completed in results.into_iter().flatten().flatten() {
///     println!("{} ({})", completed.text, completed.finish);
/// }
/// # Ok::<(), guard_infer::BuildError>(())
/// ```
pub struct LlamaGenerator {
    model: Engine,
    tokenizer: Arc<Tokenizer>,
    /// The tokens that end a text.
    eos: Arc<BTreeSet<u32>>,
    max_rows: usize,
    prefill_tokens: usize,
    max_prompt_tokens: usize,
    #[cfg(feature = "flex")]
    on_cpu: OnCpu,
}

impl fmt::Debug for LlamaGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlamaGenerator")
            .field("config", self.model.config())
            .field("tokenizer", &self.tokenizer)
            .field("eos", &self.eos)
            .field("max_rows", &self.max_rows)
            .field("prefill_tokens", &self.prefill_tokens)
            .finish_non_exhaustive()
    }
}

/// Control tokens that end a text whatever the configuration says: LLaMA 3's configurations name
/// the first of them only, and models tuned in chat turns write the second, or ChatML's.
const END_TOKENS: [&str; 5] = ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "</s>"];

impl LlamaGenerator {
    /// How many texts are generated side by side unless told otherwise.
    pub const DEFAULT_ROWS: usize = 16;

    /// How many tokens of prompts the model reads in one go unless told otherwise.
    pub const DEFAULT_PREFILL_TOKENS: usize = 1024;

    /// A generator from a model and its tokenizer.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::VocabularyMismatch`] when the tokenizer has tokens that the model lacks.
    pub fn new(model: Llama, tokenizer: Tokenizer) -> Result<Self, TokenizerError> {
        Self::with_engine(Engine::Burn(Box::new(model)), tokenizer)
    }

    /// A generator from a model with packed weights and its tokenizer.
    ///
    /// # Errors
    ///
    /// As [`LlamaGenerator::new`].
    #[cfg(feature = "flex")]
    pub fn from_packed(model: PackedLlama, tokenizer: Tokenizer) -> Result<Self, TokenizerError> {
        Self::with_engine(Engine::Packed(Box::new(model)), tokenizer)
    }

    fn with_engine(model: Engine, tokenizer: Tokenizer) -> Result<Self, TokenizerError> {
        let (expected, found) = (model.config().vocab_size, tokenizer.vocab_size());
        if found > expected {
            return Err(TokenizerError::VocabularyMismatch { expected, found });
        }
        let named = END_TOKENS.iter().filter_map(|token| tokenizer.control_id(token));
        let eos = model.config().eos.iter().copied().chain(named).collect();
        Ok(Self {
            model,
            tokenizer: Arc::new(tokenizer),
            eos: Arc::new(eos),
            max_rows: Self::DEFAULT_ROWS,
            prefill_tokens: Self::DEFAULT_PREFILL_TOKENS,
            max_prompt_tokens: usize::MAX,
            #[cfg(feature = "flex")]
            on_cpu: OnCpu::default(),
        })
    }

    /// Loads a model folder or a `.gguf` file: on the CPU, and unless the options ask for 16-bit floats,
    /// with packed weights; otherwise on burn.
    ///
    /// # Errors
    ///
    /// [`BuildError`] names the file and what is wrong with it.
    pub fn open(
        path: impl AsRef<Path>,
        options: LoadOptions,
        device: &Device,
    ) -> Result<Self, BuildError> {
        Self::from_files(&ModelFiles::open(path)?, options, device)
    }

    /// The same from files that are open. Who wants the report of the load as well calls
    /// [`ModelFiles::load`] and [`LlamaGenerator::new`], or `ModelFiles::load_packed` and
    /// `LlamaGenerator::from_packed`.
    ///
    /// # Errors
    ///
    /// [`BuildError`] names the file and what is wrong with it.
    pub fn from_files(
        files: &ModelFiles,
        options: LoadOptions,
        device: &Device,
    ) -> Result<Self, BuildError> {
        let tokenizer = files.tokenizer()?;
        #[cfg(feature = "flex")]
        if *device == Device::flex() && options.weight_type == WeightType::F32 {
            let (model, _) = files.load_packed(options)?;
            return Ok(Self::from_packed(model, tokenizer)?);
        }
        let (model, _) = files.load(options, device)?;
        Ok(Self::new(model, tokenizer)?)
    }

    /// The same generator with at most `rows` texts side by side, at least one. More rows cost
    /// memory and make single texts slower, and all texts together faster.
    #[must_use]
    pub fn with_max_rows(mut self, rows: usize) -> Self {
        self.max_rows = rows.max(1);
        self
    }

    /// The same generator, reading at most `tokens` tokens of prompts in one go, at least one
    /// token of each prompt. Fewer take less memory beside the model, and a deadline is noticed
    /// sooner; more are read a little faster on a GPU.
    #[must_use]
    pub fn with_prefill_tokens(mut self, tokens: usize) -> Self {
        self.prefill_tokens = tokens.max(1);
        self
    }

    /// The shape of the model.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        self.model.config()
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokens that end a text: those of the configuration and those that the tokenizer names.
    #[must_use]
    pub fn end_tokens(&self) -> &BTreeSet<u32> {
        &self.eos
    }

    /// The same generator with these end tokens in the place of its own. Without any, texts go on to their
    /// other limits.
    #[must_use]
    pub fn with_end_tokens(mut self, tokens: impl IntoIterator<Item = u32>) -> Self {
        self.eos = Arc::new(tokens.into_iter().collect());
        self
    }

    /// The same generator, refusing prompts of more than `tokens` tokens. Default: what the model's
    /// context holds, which may be far more than the memory and the time at hand.
    #[must_use]
    pub fn with_max_prompt_tokens(mut self, tokens: usize) -> Self {
        self.max_prompt_tokens = tokens.max(1);
        self
    }

    /// The longest prompt, in tokens: one place of the context is kept for an answer.
    #[must_use]
    pub fn max_prompt_tokens(&self) -> usize {
        self.max_prompt_tokens.min(self.model.config().max_positions - 1)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.model
    }

    pub(crate) fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, GenerateError> {
        let limit = self.max_prompt_tokens();
        let least = self.tokenizer.least_tokens(prompt);
        if least > limit {
            return Err(GenerateError::TooLong { tokens: least, limit });
        }
        let ids = self.tokenizer.encode(prompt)?;
        match ids.len() {
            0 => Err(GenerateError::EmptyPrompt),
            tokens if tokens > limit => Err(GenerateError::TooLong { tokens, limit }),
            _ => Ok(ids),
        }
    }

    /// On burn calls do not take turns.
    #[cfg(not(feature = "flex"))]
    pub(crate) fn in_turn<R>(&self, _: &Call, _: usize, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// A call that begins now.
    pub(crate) fn call(&self, options: GenerateOptions) -> Call {
        Call {
            tokenizer: Arc::clone(&self.tokenizer),
            eos: Arc::clone(&self.eos),
            options,
            context: self.config().max_positions,
            started: Instant::now(),
        }
    }

    /// The model, and what it is to do with prompts of a call.
    pub(crate) fn batch<'a>(&'a self, call: &'a Call) -> Batch<'a> {
        let &Self { ref model, max_rows, prefill_tokens, .. } = self;
        Batch { model, call, max_rows, prefill_tokens }
    }

    /// Prompts of these lengths in groups that are read together. Prompts of like length are put
    /// together, so that little is computed for padding.
    pub(crate) fn groups(&self, lengths: &[usize], samples: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&index| lengths[index]);
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for index in order {
            let width = lengths[index];
            let fits = |group: &Vec<usize>| {
                let rows = group.len() + 1;
                // Each prompt has a token for each piece in which the group is read.
                let pieces = (rows * width).div_ceil(self.prefill_tokens);
                rows * samples <= self.max_rows
                    && rows * samples * width <= MAX_TOKENS
                    && pieces <= lengths[group[0]]
            };
            match groups.last_mut().filter(|group| fits(group)) {
                Some(group) => group.push(index),
                None => groups.push(vec![index]),
            }
        }
        groups
    }
}

/// The prompts that can be read, with their numbers.
type Encoded = Vec<(usize, Vec<u32>)>;

impl LlamaGenerator {
    /// On burn: groups of prompts of like length, one after the other.
    fn generate_grouped(&self, call: &Call, encoded: &Encoded, results: &mut [Completions]) {
        let batch = self.batch(call);
        let lengths: Vec<usize> = encoded.iter().map(|(_, ids)| ids.len()).collect();
        for group in self.groups(&lengths, call.options.samples) {
            let asked = |&at: &usize| GroupPrompt { number: encoded[at].0, ids: &encoded[at].1 };
            let asked: Vec<GroupPrompt<'_>> = group.iter().map(asked).collect();
            let completions = match call.over() {
                Some(_) => asked.iter().map(|a| Ok(call.none_begun(a.ids.len()))).collect(),
                None => batch.run(&asked),
            };
            asked.iter().zip(completions).for_each(|(a, texts)| results[a.number] = texts);
        }
    }
}

impl TextGenerator for LlamaGenerator {
    type Error = GenerateError;

    fn generate(
        &self,
        prompts: &[Prompt],
        options: &GenerateOptions,
    ) -> Vec<Result<Vec<Completed>, GenerateError>> {
        let call = self.call(options.clone());
        if let Err(error) = options.validate() {
            return prompts.iter().map(|_| Err(error.clone().into())).collect();
        }
        #[cfg(feature = "flex")]
        if let (Engine::Packed(_), Err(error)) = (&self.model, self.on_cpu.queue.has_room()) {
            return vec![Err(error); prompts.len()];
        }
        let mut encoded = Vec::new();
        let mut results = Vec::new();
        for (number, prompt) in prompts.iter().enumerate() {
            match self.encode(prompt) {
                Ok(ids) => {
                    encoded.push((number, ids));
                    results.push(Ok(Vec::new()));
                }
                Err(error) => results.push(Err(error)),
            }
        }
        #[cfg(feature = "flex")]
        if let Engine::Packed(model) = &self.model {
            self.generate_packed(model, (call, prompts, encoded), &mut results);
            return results;
        }
        self.generate_grouped(&call, &encoded, &mut results);
        results
    }

    fn score(
        &self,
        requests: &[ScoreRequest],
        limits: &Limits,
    ) -> Option<Vec<Result<Scored, GenerateError>>> {
        Some(self.score_all(requests, limits))
    }
}
