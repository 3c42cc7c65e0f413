//! The model: embedding, blocks, norm and head.

use burn::module::Module;
use burn::nn::{Embedding, RmsNorm};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::block::Block;
use super::cache::KvCache;
use super::linear::{Linear, project};
use super::parameters::{Parameters, RandomInit, RandomParameters};
use super::rope::Rope;
use super::step::{ModelError, Step, TokenBatch};
use crate::config::{ConfigError, LlamaConfig};
use crate::kernel;

/// A LLaMA language model.
///
/// Training, prefill and cached decoding are one forward path: [`Llama::forward`] computes
/// hidden states, [`Llama::logits`] the head for those places that need it.
///
/// ```
/// use guard_core::{Llama, LlamaConfig, RandomInit, TokenBatch, burn::tensor::Device};
///
/// let (config, device) = (LlamaConfig::tiny(64), Device::default());
/// let model = Llama::random(&config, RandomInit::default(), &device)?;
///
/// let prompt = TokenBatch::new(&[vec![1, 2, 3], vec![4, 5]])?;
/// let mut cache = model.cache(prompt.rows(), 16);
/// let hidden = model.forward(&prompt, Some(&mut cache))?;
/// let logits = model.logits(model.gather(hidden, &prompt.last_places()));
/// assert_eq!(logits.dims(), [2, 64]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
pub struct Llama {
    pub(super) embedding: Embedding,
    pub(super) blocks: Vec<Block>,
    pub(super) norm: RmsNorm,
    /// `None` when the embedding matrix is the head.
    pub(super) head: Option<Linear>,
    #[module(skip)]
    pub(super) config: LlamaConfig,
    #[module(skip)]
    pub(super) rope: Rope,
    /// The embedding and so many blocks are not trained; 0: everything is.
    #[module(skip)]
    pub(super) frozen_blocks: usize,
}

impl Llama {
    /// A model with random weights, in 32-bit floats.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the configuration is out of range.
    pub fn random(
        config: &LlamaConfig,
        init: RandomInit,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        match Self::new(config, &mut RandomParameters { init, device }) {
            Ok(model) => Ok(model),
            Err(never) => match never {},
        }
    }

    /// A model with these parameters, asked for by their names on the hub.
    pub(crate) fn new<P: Parameters>(
        config: &LlamaConfig,
        parameters: &mut P,
    ) -> Result<Self, P::Error> {
        let matrix = [config.vocab_size, config.hidden_size];
        let block = |layer| format!("model.layers.{layer}");
        Ok(Self {
            embedding: parameters.embedding("model.embed_tokens", matrix)?,
            blocks: (0..config.layers)
                .map(|layer| Block::new(config, &block(layer), parameters))
                .collect::<Result<_, _>>()?,
            norm: parameters.rms_norm("model.norm", config.hidden_size, config.rms_norm_eps)?,
            head: match config.tied_head {
                true => None,
                false => Some(parameters.linear("lm_head", matrix)?),
            },
            config: config.clone(),
            rope: Rope::new(&config.rope, config.head_dim),
            frozen_blocks: 0,
        })
    }

    /// The shape of the model.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The model with its embedding and its first `blocks` blocks frozen: training leaves them as
    /// they are, and their way back is not computed. A head that shares the embedding's matrix is
    /// frozen with it. 0 freezes nothing.
    ///
    /// # Errors
    ///
    /// [`ModelError::LayerOutOfRange`] when the model has fewer blocks.
    pub fn with_frozen_blocks(mut self, blocks: usize) -> Result<Self, ModelError> {
        let layers = self.config.layers;
        if let Some(layer) = blocks.checked_sub(1).filter(|&last| last >= layers) {
            return Err(ModelError::LayerOutOfRange { layer, layers });
        }
        self.frozen_blocks = blocks;
        Ok(self)
    }

    /// The device that holds the weights.
    #[must_use]
    pub fn device(&self) -> Device {
        self.norm.gamma.device()
    }

    /// An empty cache for `rows` rows with room for `capacity` tokens each, on the model's
    /// device and in its float type.
    #[must_use]
    pub fn cache(&self, rows: usize, capacity: usize) -> KvCache {
        let dtype = self.embedding.weight.val().dtype();
        KvCache::new(&self.config, [rows, capacity], &self.device(), dtype)
    }

    /// Reads tokens and returns the hidden state behind each, after the last norm.
    ///
    /// With a cache the tokens follow what its rows hold, and are added to it. What is
    /// computed for padding is of no account.
    ///
    /// # Shapes
    ///
    /// - output: `[rows * width, hidden_size]`; token `i` of row `r` is at place `r * width + i`
    ///
    /// # Errors
    ///
    /// [`ModelError`] when a token is not in the vocabulary, a row leaves the model's context,
    /// or the cache is another model's. The cache is unchanged then.
    pub fn forward(
        &self,
        tokens: &TokenBatch,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor<2>, ModelError> {
        let step = Step::new(&self.config, &self.rope, tokens, cache.as_deref(), &self.device())?;
        Ok(kernel::on_pool(&self.norm.gamma.val(), || self.run(tokens, &step, cache)))
    }

    fn run(&self, tokens: &TokenBatch, step: &Step, cache: Option<&mut KvCache>) -> Tensor<2> {
        let x = self.embedding.forward(tokens.ids(&self.device())).flatten::<2>(0, 1);
        let x = match cache {
            None => self.blocks.iter().fold(x, |x, block| block.forward(x, step, None).0),
            Some(cache) => {
                let mut x = x;
                let mut written = Vec::with_capacity(self.blocks.len());
                for (block, layer) in self.blocks.iter().zip(cache.begin(step)) {
                    let (out, layer) = block.forward(x, step, Some(layer));
                    x = out;
                    written.extend(layer);
                }
                cache.finish(step, written);
                x
            }
        };
        self.norm.forward(x)
    }

    /// Picks places out of hidden states.
    ///
    /// # Shapes
    ///
    /// - hidden: `[places, hidden_size]`
    /// - output: `[indices.len(), hidden_size]`
    #[must_use]
    pub fn gather(&self, hidden: Tensor<2>, places: &[usize]) -> Tensor<2> {
        let indices: Vec<i32> = places.iter().map(|&place| place as i32).collect();
        let shape = [indices.len()];
        let indices =
            Tensor::<1, Int>::from_data(TensorData::new(indices, shape), &hidden.device());
        hidden.select(0, indices)
    }

    /// The head: logits over the vocabulary, in 32-bit floats. It is the largest matrix of a
    /// small model; call it for the places that need it only.
    ///
    /// # Shapes
    ///
    /// - hidden: `[places, hidden_size]`
    /// - output: `[places, vocab_size]`
    #[must_use]
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let weight = match &self.head {
            Some(head) => head.weight.val(),
            None => self.embedding.weight.val(),
        };
        kernel::on_pool(&self.norm.gamma.val(), || project(hidden, weight).cast(DType::F32))
    }
}
