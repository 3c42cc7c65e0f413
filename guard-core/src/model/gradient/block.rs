//! A transformer block that remembers what its way back needs.

use burn::tensor::Tensor;

use super::attention::{self, Attended, Heads};
use super::norm::{gate_backward, gate_forward, rms_norm_backward};
use super::packed::PackedBatch;
use super::product::{Back, Precision};
use super::record::Recompute;
use crate::model::attention::Attention;
use crate::model::block::Block;
use crate::model::feed_forward::FeedForward;
use crate::model::rope::Rotation;

/// What all blocks share on the way there and back.
pub(super) struct Pass<'a> {
    pub(super) batch: &'a PackedBatch,
    pub(super) rotation: Rotation,
    pub(super) precision: Precision,
}

/// What a block leaves behind for its way back. All tensors are `[tokens, ...]`.
#[derive(Clone, Debug)]
pub(super) struct BlockRecord {
    input: Tensor<2>,
    attended: Attended,
    /// The residual stream between attention and feed-forward.
    middle: Tensor<2>,
    projections: Option<Projections>,
}

/// What five products gave, if it is not to be computed again.
#[derive(Clone, Debug)]
struct Projections {
    heads: Heads,
    gate: Tensor<2>,
    up: Tensor<2>,
}

impl Block {
    /// The block's output, and what its way back needs.
    pub(super) fn record(
        &self,
        x: Tensor<2>,
        pass: &Pass<'_>,
        recompute: Recompute,
    ) -> (Tensor<2>, BlockRecord) {
        let heads = self.attention.heads_of(self.attention_norm.forward(x.clone()), pass);
        let attended = attention::forward(&self.attention, &heads, pass.batch, pass.precision);
        let output = self.attention.output.forward_in(pass.precision, attended.output.clone());
        let middle = x.clone() + output;
        let normed = self.feed_forward_norm.forward(middle.clone());
        let (gate, up) = self.feed_forward.gates(normed, pass.precision);
        let gated = gate_forward(&gate, &up);
        let y = middle.clone() + self.feed_forward.down.forward_in(pass.precision, gated);
        let projections = match recompute {
            Recompute::Nothing => Some(Projections { heads, gate, up }),
            Recompute::Projections => None,
        };
        (y, BlockRecord { input: x, attended, middle, projections })
    }

    /// From the derivative by the output, `[tokens, hidden]`, to that by the input.
    pub(super) fn backward(
        &self,
        record: BlockRecord,
        derivative: Tensor<2>,
        pass: &Pass<'_>,
        back: &mut Back<'_>,
    ) -> Tensor<2> {
        let BlockRecord { input, attended, middle, projections } = record;
        let (heads, gates) = match projections {
            Some(Projections { heads, gate, up }) => (Some(heads), Some((gate, up))),
            None => (None, None),
        };
        let d_middle = self.back_to_middle(&middle, gates, derivative, back);
        drop(middle);
        self.back_to_input(&input, heads, &attended, d_middle, pass, back)
    }

    fn back_to_middle(
        &self,
        middle: &Tensor<2>,
        gates: Option<(Tensor<2>, Tensor<2>)>,
        derivative: Tensor<2>,
        back: &mut Back<'_>,
    ) -> Tensor<2> {
        let layer = &self.feed_forward;
        let normed = self.feed_forward_norm.forward(middle.clone());
        let (gate, up) = gates.unwrap_or_else(|| layer.gates(normed.clone(), back.precision));
        let d_gated = layer.down.backward(&gate_forward(&gate, &up), derivative.clone(), back);
        let (d_gate, d_up) = gate_backward(gate, up, d_gated);
        let d_normed =
            layer.gate.backward(&normed, d_gate, back) + layer.up.backward(&normed, d_up, back);
        derivative + rms_norm_backward(&self.feed_forward_norm, middle, d_normed, back)
    }

    fn back_to_input(
        &self,
        input: &Tensor<2>,
        heads: Option<Heads>,
        attended: &Attended,
        derivative: Tensor<2>,
        pass: &Pass<'_>,
        back: &mut Back<'_>,
    ) -> Tensor<2> {
        let layer = &self.attention;
        let normed = self.attention_norm.forward(input.clone());
        let heads = heads.unwrap_or_else(|| layer.heads_of(normed.clone(), pass));
        let d_attended = layer.output.backward(&attended.output, derivative.clone(), back);
        let d_heads =
            attention::backward(layer, &heads, attended, &d_attended, pass.batch, pass.precision);
        let unrotated = pass.rotation.inverse();
        let d_query = layer.rotate(d_heads.query, &unrotated);
        let d_key = layer.rotate(d_heads.key, &unrotated);
        let d_normed = layer.query.backward(&normed, d_query, back)
            + layer.key.backward(&normed, d_key, back)
            + layer.value.backward(&normed, d_heads.value, back);
        derivative + rms_norm_backward(&self.attention_norm, input, d_normed, back)
    }
}

impl Attention {
    /// Queries, keys and values of normed hidden states, rotated.
    fn heads_of(&self, normed: Tensor<2>, pass: &Pass<'_>) -> Heads {
        let query = self.query.forward_in(pass.precision, normed.clone());
        let key = self.key.forward_in(pass.precision, normed.clone());
        Heads {
            query: self.rotate(query, &pass.rotation),
            key: self.rotate(key, &pass.rotation),
            value: self.value.forward_in(pass.precision, normed),
        }
    }

    fn rotate(&self, x: Tensor<2>, rotation: &Rotation) -> Tensor<2> {
        let [tokens, wide] = x.dims();
        let x = x.reshape([1, tokens, wide / self.head_dim, self.head_dim]);
        rotation.apply(x).reshape([tokens, wide])
    }
}

impl FeedForward {
    fn gates(&self, normed: Tensor<2>, precision: Precision) -> (Tensor<2>, Tensor<2>) {
        (self.gate.forward_in(precision, normed.clone()), self.up.forward_in(precision, normed))
    }
}
