//! The weights of a model on burn, taken over by packed ones.

use burn::tensor::{DType, Tensor, TensorReadError};

use super::block::Block;
use super::linear::Linear;
use super::llama::Llama;
use super::rope::Rope;
use crate::config::LlamaConfig;
use crate::kernel::packed::{PackedBlock, PackedMatrix, PackedWeights};

/// Makes a packed matrix of weights, row by row, and its shape.
type Pack<'a> = &'a mut dyn FnMut(Vec<f32>, [usize; 2]) -> PackedMatrix;

/// The rotation of each pair of dimensions, in radians a position.
pub(crate) fn frequencies(config: &LlamaConfig) -> Vec<f32> {
    Rope::new(&config.rope, config.head_dim).frequencies
}

impl Llama {
    pub(crate) fn packed_weights(&self, pack: Pack<'_>) -> Result<PackedWeights, TensorReadError> {
        let head = self.head.as_ref().map(|head| linear(head, pack));
        let blocks: Vec<_> =
            self.blocks.iter().map(|block| packed(block, pack)).collect::<Result<_, _>>()?;
        Ok(PackedWeights {
            embedding: matrix(self.embedding.weight.val(), pack)?,
            blocks,
            norm: floats(self.norm.gamma.val())?,
            head: head.transpose()?,
        })
    }
}

fn packed(block: &Block, pack: Pack<'_>) -> Result<PackedBlock, TensorReadError> {
    let (attention, feed_forward) = (&block.attention, &block.feed_forward);
    Ok(PackedBlock {
        attention_norm: floats(block.attention_norm.gamma.val())?,
        projections: [
            linear(&attention.query, pack)?,
            linear(&attention.key, pack)?,
            linear(&attention.value, pack)?,
        ],
        output: linear(&attention.output, pack)?,
        feed_forward_norm: floats(block.feed_forward_norm.gamma.val())?,
        gated: [linear(&feed_forward.gate, pack)?, linear(&feed_forward.up, pack)?],
        down: linear(&feed_forward.down, pack)?,
    })
}

fn linear(linear: &Linear, pack: Pack<'_>) -> Result<PackedMatrix, TensorReadError> {
    matrix(linear.weight.val(), pack)
}

fn matrix(weight: Tensor<2>, pack: Pack<'_>) -> Result<PackedMatrix, TensorReadError> {
    let shape = weight.dims();
    Ok(pack(floats(weight)?, shape))
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, TensorReadError> {
    tensor.cast(DType::F32).try_into_vec_as::<f32>()
}
