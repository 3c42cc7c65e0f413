//! How much memory training takes, on paper.

use std::fmt;

use guard_core::{LlamaConfig, LoraOptions, Precision, Projection, Recompute};

use crate::options::TrainOptions;

/// What training a model takes, in bytes, at the worst moment of a step. Fragmentation, a
/// backend's own buffers and what the system takes are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryEstimate {
    /// The model in 32-bit floats.
    pub weights: u64,
    /// The gradients of what is trained.
    pub gradients: u64,
    /// The two moments of AdamW.
    pub optimizer: u64,
    /// What all blocks keep of a batch for the way back.
    pub activations: u64,
    /// What one block, or the head, takes beside that while it computes; the larger of the two.
    pub working: u64,
}

impl MemoryEstimate {
    /// The estimate for a model of this shape, trained in its adapters or in all weights, in
    /// batches of `options.tokens_per_batch`.
    ///
    /// `longest` is the number of tokens of the largest example, all its answers together
    /// ([`TrainingExample::tokens`](crate::TrainingExample::tokens)): of a preference pair both
    /// rows, since they go through the model in one batch, however small batches are to be.
    #[must_use]
    pub fn new(
        config: &LlamaConfig,
        lora: Option<&LoraOptions>,
        options: &TrainOptions,
        longest: usize,
    ) -> Self {
        let parameters = config.parameter_count() as u128;
        let frozen = options.frozen_blocks.min(config.layers);
        let layers = |count: usize| lora.map_or(0, |lora| adapter_parameters(config, lora, count));
        let adapters = layers(config.layers);
        let trained = match lora {
            Some(_) => layers(config.layers - frozen),
            None => parameters - frozen_parameters(config, frozen),
        };
        let sizes = Sizes::new(config, options, longest);
        let head = lora.is_none() && (frozen == 0 || !config.tied_head);
        Self {
            weights: bytes(4 * (parameters + adapters)),
            gradients: bytes(4 * trained),
            optimizer: bytes(8 * trained),
            activations: bytes(sizes.activations(config, options)),
            working: bytes(sizes.block(options).max(sizes.head(config, options, head))),
        }
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        let parts = [self.weights, self.gradients, self.optimizer, self.activations, self.working];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// Shows the parts in GiB.
impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        write!(
            f,
            "{:.1} GiB: weights {:.1}, gradients {:.1}, optimiser {:.1}, activations {:.1}, working {:.1}",
            gib(self.total()),
            gib(self.weights),
            gib(self.gradients),
            gib(self.optimizer),
            gib(self.activations),
            gib(self.working)
        )
    }
}

/// What no memory holds is as much as a number can say.
fn bytes(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Numbers of values, for the tokens of a batch, in numbers that options of any size fit into.
struct Sizes {
    tokens: u128,
    longest: u128,
    hidden: u128,
    queries: u128,
    keys: u128,
    inner: u128,
    heads: u128,
}

impl Sizes {
    fn new(config: &LlamaConfig, options: &TrainOptions, longest: usize) -> Self {
        Self {
            tokens: options.tokens_per_batch.max(longest) as u128,
            longest: longest as u128,
            hidden: config.hidden_size as u128,
            queries: (config.heads * config.head_dim) as u128,
            keys: (config.kv_heads * config.head_dim) as u128,
            inner: config.intermediate_size as u128,
            heads: config.heads as u128,
        }
    }

    /// Each block keeps its input, the middle, what attention gave and a logarithm for each
    /// query; without recomputing also five products.
    fn activations(&self, config: &LlamaConfig, options: &TrainOptions) -> u128 {
        let kept = 2 * self.hidden + self.queries + self.heads;
        let products = match options.recompute {
            Recompute::Nothing => self.queries + 2 * self.keys + 2 * self.inner,
            Recompute::Projections => 0,
        };
        // And at the end the last hidden states, before and after their norm.
        let ends = 2 * self.hidden;
        let layers = config.layers.saturating_sub(options.frozen_blocks) as u128;
        4 * self.tokens * (layers * (kept + products) + ends)
    }

    /// On the way back through the feed-forward layer or through attention, whichever has more.
    fn block(&self, options: &TrainOptions) -> u128 {
        // Derivative, norm and two sums of the hidden size; gate, up, their product and the
        // derivative by it.
        let feed_forward = self.tokens * (4 * self.hidden + 4 * self.inner);
        // Queries, keys, values and their derivatives; a slice of scores, three times.
        let scores = 3 * self.heads * self.longest * self.longest.min(256);
        let attention = self.tokens * (4 * self.hidden + 3 * self.queries + 4 * self.keys) + scores;
        let weights = match options.precision {
            Precision::F32 => 0,
            // A rounded copy of one weight, and of its input.
            Precision::Bf16 | Precision::Bf16x3 => (self.hidden + self.tokens) * self.inner / 2,
        };
        let largest_gradient = self.hidden * self.inner;
        4 * (feed_forward.max(attention) + weights + largest_gradient)
    }

    /// Logits and their derivative, and a gradient of the head beside the sum of those before.
    fn head(&self, config: &LlamaConfig, options: &TrainOptions, trained: bool) -> u128 {
        let logits = options.head_chunk as u128 * config.vocab_size as u128;
        let gradient = if trained { self.hidden * config.vocab_size as u128 } else { 0 };
        4 * (2 * logits + gradient + 2 * self.tokens * self.hidden)
    }
}

/// The parameters of the embedding and the first blocks.
fn frozen_parameters(config: &LlamaConfig, blocks: usize) -> u128 {
    if blocks == 0 {
        return 0;
    }
    let mut rest = config.clone();
    rest.layers = config.layers - blocks;
    let embedding = (config.vocab_size * config.hidden_size) as u128;
    embedding + (config.parameter_count() - rest.parameter_count()) as u128
}

/// The parameters of the adapters of so many blocks.
fn adapter_parameters(config: &LlamaConfig, lora: &LoraOptions, layers: usize) -> u128 {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let sides = |projection: &Projection| match projection {
        Projection::Query => hidden + queries,
        Projection::Key | Projection::Value => hidden + keys,
        Projection::Output => queries + hidden,
        Projection::Gate | Projection::Up | Projection::Down => hidden + inner,
    };
    let of_block: usize = lora.targets.iter().map(sides).sum();
    layers as u128 * lora.rank as u128 * of_block as u128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_any_size_have_an_estimate() {
        let config = LlamaConfig::tiny(64);
        let options = TrainOptions {
            tokens_per_batch: usize::MAX,
            head_chunk: usize::MAX,
            ..TrainOptions::default()
        };
        let lora = LoraOptions::default().with_rank(usize::MAX);
        let estimate = MemoryEstimate::new(&config, Some(&lora), &options, usize::MAX);
        assert_eq!((estimate.gradients, estimate.total()), (u64::MAX, u64::MAX));
        assert!(estimate.to_string().contains("GiB"));
    }

    #[test]
    fn what_is_frozen_takes_its_weights_alone() {
        let mut config = LlamaConfig::tiny(64);
        config.tied_head = true;
        let of = |frozen_blocks, lora: Option<&LoraOptions>| {
            let options = TrainOptions { frozen_blocks, ..TrainOptions::default() };
            MemoryEstimate::new(&config, lora, &options, 16)
        };
        let (whole, none) = (of(0, None), of(config.layers, None));
        assert_eq!(whole.gradients, whole.weights);
        // Of a model whose blocks are all frozen only the last norm is left.
        assert_eq!(none.gradients, 4 * config.hidden_size as u64);
        assert_eq!(none.optimizer, 2 * none.gradients);
        assert_eq!(none.weights, whole.weights);
        assert!(none.activations < whole.activations);
        let lora = LoraOptions::default();
        let (whole, half) = (of(0, Some(&lora)), of(config.layers / 2, Some(&lora)));
        assert_eq!((half.weights, 2 * half.gradients), (whole.weights, whole.gradients));
    }

    #[test]
    fn an_example_that_is_larger_than_a_batch_goes_whole() {
        let config = LlamaConfig::tiny(64);
        let options = TrainOptions { tokens_per_batch: 8, ..TrainOptions::default() };
        let of = |longest| MemoryEstimate::new(&config, None, &options, longest).activations;
        assert_eq!((of(4), of(32)), (of(8), 4 * of(8)));
    }
}
