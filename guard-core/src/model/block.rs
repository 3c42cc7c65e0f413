//! One transformer block: attention and feed-forward, each behind a norm and beside a residual.

use burn::module::Module;
use burn::nn::RmsNorm;
use burn::tensor::Tensor;

use super::attention::Attention;
use super::cache::LayerCache;
use super::feed_forward::FeedForward;
use super::parameters::Parameters;
use super::step::Step;
use crate::config::LlamaConfig;

#[derive(Module, Debug)]
pub(super) struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Block {
    pub(super) fn new<P: Parameters>(
        config: &LlamaConfig,
        name: &str,
        parameters: &mut P,
    ) -> Result<Self, P::Error> {
        let norm = |parameters: &mut P, part: &str| {
            parameters.rms_norm(&format!("{name}.{part}"), config.hidden_size, config.rms_norm_eps)
        };
        Ok(Self {
            attention_norm: norm(parameters, "input_layernorm")?,
            attention: Attention::new(config, &format!("{name}.self_attn"), parameters)?,
            feed_forward_norm: norm(parameters, "post_attention_layernorm")?,
            feed_forward: FeedForward::new(config, &format!("{name}.mlp"), parameters)?,
        })
    }

    /// `[rows * width, hidden]` to the same, and the cache with the step's tokens.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        step: &Step,
        cache: Option<LayerCache>,
    ) -> (Tensor<2>, Option<LayerCache>) {
        let normed = self.attention_norm.forward(x.clone());
        let (attended, cache) = self.attention.forward(normed, step, cache);
        let x = x + attended;
        let normed = self.feed_forward_norm.forward(x.clone());
        (x + self.feed_forward.forward(normed), cache)
    }
}
