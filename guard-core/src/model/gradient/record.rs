//! The model's forward path for training, and its way back.

use burn::tensor::{IndexingUpdateOp, Tensor};

use super::block::{BlockRecord, Pass};
use super::gradients::Gradients;
use super::norm::rms_norm_backward;
use super::packed::PackedBatch;
use super::product::{Back, Precision};
use crate::kernel;
use crate::model::block::Block;
use crate::model::llama::Llama;
use crate::model::step::ModelError;

/// What a block computes again on the way back, instead of keeping it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recompute {
    /// Queries, keys, values and both sides of the gate. A block keeps three tensors of
    /// `[tokens, hidden_size]` and no wider ones, which are most of the memory.
    #[default]
    Projections,
    /// Nothing, for small models and short batches.
    Nothing,
}

/// How a batch goes through the model in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordOptions {
    /// The float type of matrix products.
    pub precision: Precision,
    /// What is computed twice.
    pub recompute: Recompute,
    /// How many blocks are gone through before the last norm. `None`, and more than there are, mean
    /// all.
    pub blocks: Option<usize>,
}

impl RecordOptions {
    /// The same options with products in this precision.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The same options, going through the first `blocks` blocks only.
    #[must_use]
    pub fn with_blocks(mut self, blocks: usize) -> Self {
        self.blocks = Some(blocks);
        self
    }

    /// The same options, computing this again.
    #[must_use]
    pub fn with_recompute(mut self, recompute: Recompute) -> Self {
        self.recompute = recompute;
        self
    }
}

/// What a batch left behind in the model: its hidden states and what the way back needs.
#[derive(Debug)]
pub struct Recording {
    batch: PackedBatch,
    options: RecordOptions,
    blocks: Vec<BlockRecord>,
    /// What the last norm reads.
    last: Tensor<2>,
    hidden: Tensor<2>,
}

impl Recording {
    /// The hidden states after the last norm, as [`Llama::forward`] gives them, `[tokens,
    /// hidden_size]`.
    #[must_use]
    pub fn hidden(&self) -> Tensor<2> {
        self.hidden.clone()
    }
}

impl Llama {
    /// Reads a batch and remembers what [`Llama::backward`] needs.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when a token is not in the vocabulary or a row is longer than the model's
    /// context.
    pub fn record(
        &self,
        batch: PackedBatch,
        options: RecordOptions,
    ) -> Result<Recording, ModelError> {
        self.check_packed(&batch)?;
        let pass = self.pass(&batch, options.precision);
        let (last, blocks) = kernel::on_pool(&self.norm.gamma.val(), || {
            let mut x = self.embedding.weight.val().select(0, batch.ids(&self.device()));
            let mut blocks = Vec::with_capacity(self.blocks.len());
            for (layer, block) in self.first_blocks(options).iter().enumerate() {
                let (y, record) = block.record(x, &pass, options.recompute);
                // No way leads back into a frozen block.
                if layer >= self.frozen_blocks {
                    blocks.push(record);
                }
                x = y;
            }
            (x, blocks)
        });
        drop(pass);
        let hidden = self.norm.forward(last.clone());
        Ok(Recording { batch, options, blocks, last, hidden })
    }

    /// The hidden states of a batch, as [`Llama::record`] computes them, with nothing kept.
    ///
    /// # Shapes
    ///
    /// - output: `[tokens, hidden_size]`
    ///
    /// # Errors
    ///
    /// As [`Llama::record`].
    pub fn read(
        &self,
        batch: &PackedBatch,
        options: RecordOptions,
    ) -> Result<Tensor<2>, ModelError> {
        self.check_packed(batch)?;
        let pass = self.pass(batch, options.precision);
        Ok(kernel::on_pool(&self.norm.gamma.val(), || {
            let x = self.embedding.weight.val().select(0, batch.ids(&self.device()));
            let once = |x, block: &Block| block.record(x, &pass, Recompute::Projections).0;
            self.norm.forward(self.first_blocks(options).iter().fold(x, once))
        }))
    }

    /// Adds the gradients of a loss to `gradients`, given its derivative by the hidden states,
    /// `[tokens, hidden_size]`.
    ///
    /// A model with adapters is trained in them alone, any other in all its parameters; neither
    /// in frozen blocks.
    pub fn backward(&self, recording: Recording, d_hidden: Tensor<2>, gradients: &mut Gradients) {
        let Recording { batch, options, mut blocks, last, hidden } = recording;
        drop(hidden);
        let pass = self.pass(&batch, options.precision);
        let base = !self.has_adapters();
        kernel::on_pool(&self.norm.gamma.val(), || {
            let mut back = Back { gradients, precision: options.precision, base };
            let mut derivative = rms_norm_backward(&self.norm, &last, d_hidden, &mut back);
            drop(last);
            for block in self.first_blocks(options).iter().rev() {
                let Some(record) = blocks.pop() else { break };
                derivative = block.backward(record, derivative, &pass, &mut back);
            }
            if base && self.frozen_blocks == 0 {
                self.embedding_backward(&batch, derivative, back.gradients);
            }
        });
    }

    fn first_blocks(&self, options: RecordOptions) -> &[Block] {
        let all = self.blocks.as_slice();
        options.blocks.and_then(|blocks| all.get(..blocks)).unwrap_or(all)
    }

    /// Each token's derivative goes to its row of the embedding.
    fn embedding_backward(
        &self,
        batch: &PackedBatch,
        derivative: Tensor<2>,
        gradients: &mut Gradients,
    ) {
        let weight = &self.embedding.weight;
        let shape = weight.val().dims();
        // A tied head has filled most of it already.
        let sum = match gradients.take(weight.id) {
            Some(sum) => sum.reshape(shape),
            None => Tensor::zeros(shape, &self.device()),
        };
        let ids = batch.ids(&self.device());
        let sum = sum.select_assign(0, ids, derivative, IndexingUpdateOp::Add);
        gradients.set(weight.id, sum.reshape([-1]));
    }

    fn pass<'a>(&self, batch: &'a PackedBatch, precision: Precision) -> Pass<'a> {
        let positions = batch.positions();
        let rotation = self.rope.at(&positions, [1, positions.len()], &self.device());
        Pass { batch, rotation, precision }
    }

    fn check_packed(&self, batch: &PackedBatch) -> Result<(), ModelError> {
        let (vocab_size, limit) = (self.config.vocab_size, self.config.max_positions);
        if let Some(&id) = batch.token_ids().iter().find(|&&id| id as usize >= vocab_size) {
            return Err(ModelError::TokenOutOfRange { id, vocab_size });
        }
        match batch.runs().iter().map(|run| run.width).max() {
            Some(tokens) if tokens > limit => Err(ModelError::ContextFull { tokens, limit }),
            _ => Ok(()),
        }
    }
}
