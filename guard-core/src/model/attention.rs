//! Causal self-attention with grouped queries.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Tensor};

use super::cache::LayerCache;
use super::linear::Linear;
use super::parameters::Parameters;
use super::step::{Mask, Step};
use crate::config::LlamaConfig;

#[derive(Module, Debug)]
pub(super) struct Attention {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Attention {
    pub(super) fn new<P: Parameters>(
        config: &LlamaConfig,
        name: &str,
        parameters: &mut P,
    ) -> Result<Self, P::Error> {
        let hidden = config.hidden_size;
        let wide = config.heads * config.head_dim;
        let narrow = config.kv_heads * config.head_dim;
        Ok(Self {
            query: parameters.linear(&format!("{name}.q_proj"), [wide, hidden])?,
            key: parameters.linear(&format!("{name}.k_proj"), [narrow, hidden])?,
            value: parameters.linear(&format!("{name}.v_proj"), [narrow, hidden])?,
            output: parameters.linear(&format!("{name}.o_proj"), [hidden, wide])?,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        })
    }

    /// Attends from the step's tokens, `[rows * width, hidden]`, to themselves and to what the
    /// cache holds. Returns the output, of the same shape, and the cache with the new tokens.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        step: &Step,
        cache: Option<LayerCache>,
    ) -> (Tensor<2>, Option<LayerCache>) {
        let (rows, width) = (step.rows, step.width);
        let split = |x: Tensor<2>, heads| x.reshape([rows, width, heads, self.head_dim]);
        let query = step.rotation.apply(split(self.query.forward(x.clone()), self.heads));
        let key = step.rotation.apply(split(self.key.forward(x.clone()), self.kv_heads));
        let value = split(self.value.forward(x), self.kv_heads);

        let query = query.swap_dims(1, 2);
        let (key, value) = (key.swap_dims(1, 2), value.swap_dims(1, 2));
        let cache = cache.map(|cache| cache.append(step, key.clone(), value.clone()));
        let (key, value) = match &cache {
            Some(cache) => cache.view(step.keys()),
            None => (key, value),
        };
        let attended = attend(query, key, value, &step.mask);
        let joined = attended.swap_dims(1, 2).reshape([rows * width, self.heads * self.head_dim]);
        (self.output.forward(joined), cache)
    }
}

/// Scaled dot-product attention.
///
/// # Shapes
///
/// - query: `[rows, heads, width, head_dim]`
/// - key, value: `[rows, kv_heads, keys, head_dim]`
/// - output: as the query
fn attend(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, mask: &Mask) -> Tensor<4> {
    let [rows, heads, width, _] = query.dims();
    let keys = key.dims()[2];
    if width == 1 {
        return attend_one(query, key, value, mask);
    }
    let (causal, mask) = match mask {
        Mask::None => (false, None),
        Mask::Causal => (true, None),
        Mask::Explicit(hidden) => {
            (false, Some(hidden.as_ref().clone().expand([rows, heads, width, keys])))
        }
    };
    let options = AttentionModuleOptions { is_causal: causal, ..Default::default() };
    // Not every backend's attention takes fewer key heads than query heads.
    attention(query, repeat_heads(key, heads), repeat_heads(value, heads), mask, None, options)
}

/// Attention of one query a row. The query heads of a group become the rows of one product, so
/// keys and values are read once, where they lie, and never copied.
fn attend_one(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, mask: &Mask) -> Tensor<4> {
    let [rows, heads, _, head_dim] = query.dims();
    let [_, kv_heads, keys, _] = key.dims();
    let group = heads / kv_heads;
    let query = query.reshape([rows, kv_heads, group, head_dim]) / (head_dim as f64).sqrt();
    let mut scores = query.matmul(key.swap_dims(2, 3));
    if let Mask::Explicit(hidden) = mask {
        let hidden: Tensor<4, Bool> = hidden.as_ref().clone().expand([rows, kv_heads, group, keys]);
        scores = scores.mask_fill(hidden, f32::NEG_INFINITY);
    }
    softmax(scores, 3).matmul(value).reshape([rows, heads, 1, head_dim])
}

/// Repeats each key or value head for the query heads of its group.
fn repeat_heads(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [rows, kv_heads, keys, head_dim] = x.dims();
    if kv_heads == heads {
        return x;
    }
    x.unsqueeze_dim::<5>(2)
        .expand([rows, kv_heads, heads / kv_heads, keys, head_dim])
        .reshape([rows, heads, keys, head_dim])
}
