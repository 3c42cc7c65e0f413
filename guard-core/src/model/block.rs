//! One transformer block: attention and feed-forward, each behind a norm and beside a residual.

use burn::module::Module;
use burn::nn::RmsNorm;
use burn::tensor::Tensor;

use super::adapter::Projection;
use super::attention::Attention;
use super::cache::LayerCache;
use super::feed_forward::FeedForward;
use super::linear::Linear;
use super::parameters::Parameters;
use super::step::Step;
use crate::config::LlamaConfig;

#[derive(Module, Debug)]
pub(super) struct Block {
    pub(super) attention_norm: RmsNorm,
    pub(super) attention: Attention,
    pub(super) feed_forward_norm: RmsNorm,
    pub(super) feed_forward: FeedForward,
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

    /// All linear layers.
    pub(super) fn linears(&self) -> [(Projection, &Linear); 7] {
        let (attention, feed_forward) = (&self.attention, &self.feed_forward);
        [
            (Projection::Query, &attention.query),
            (Projection::Key, &attention.key),
            (Projection::Value, &attention.value),
            (Projection::Output, &attention.output),
            (Projection::Gate, &feed_forward.gate),
            (Projection::Up, &feed_forward.up),
            (Projection::Down, &feed_forward.down),
        ]
    }

    pub(super) fn linears_mut(&mut self) -> [(Projection, &mut Linear); 7] {
        let (attention, feed_forward) = (&mut self.attention, &mut self.feed_forward);
        [
            (Projection::Query, &mut attention.query),
            (Projection::Key, &mut attention.key),
            (Projection::Value, &mut attention.value),
            (Projection::Output, &mut attention.output),
            (Projection::Gate, &mut feed_forward.gate),
            (Projection::Up, &mut feed_forward.up),
            (Projection::Down, &mut feed_forward.down),
        ]
    }
}
