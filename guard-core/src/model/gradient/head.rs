//! The head in training: log-probabilities of the target tokens and the way back, with the
//! logits of one chunk of tokens in memory at most.

use burn::module::ParamId;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use super::gradients::Gradients;
use super::product::Precision;
use crate::kernel;
use crate::model::llama::Llama;
use crate::model::step::ModelError;

/// Target tokens that the head has read, on the way to their gradients.
///
/// Up to one chunk of tokens keeps its logits, and goes back without computing them again.
#[derive(Debug)]
pub struct HeadPass {
    hidden: Tensor<2>,
    targets: Vec<u32>,
    chunk: usize,
    precision: Precision,
    /// Natural logarithms of the softmax denominators, one for each token.
    log_sums: Vec<f32>,
    log_probs: Vec<f32>,
    /// The logits, if there is one chunk only.
    kept: Option<Tensor<2>>,
}

impl HeadPass {
    /// The natural logarithm of each target token's probability, in 32-bit floats.
    #[must_use]
    pub fn log_probs(&self) -> &[f32] {
        &self.log_probs
    }
}

impl Llama {
    /// Log-probabilities of target tokens, given the hidden states that they are predicted from.
    ///
    /// `chunk` is how many tokens have their logits in memory at a time; 0 counts as 1.
    ///
    /// # Shapes
    ///
    /// - hidden: `[targets.len(), hidden_size]`
    ///
    /// # Errors
    ///
    /// [`ModelError::TokenOutOfRange`] when a target is not in the vocabulary.
    ///
    /// # Panics
    ///
    /// Where burn panics, when there are not as many hidden states as targets.
    pub fn read_head(
        &self,
        hidden: Tensor<2>,
        targets: &[u32],
        chunk: usize,
        precision: Precision,
    ) -> Result<HeadPass, ModelError> {
        let vocab_size = self.config().vocab_size;
        if let Some(&id) = targets.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(ModelError::TokenOutOfRange { id, vocab_size });
        }
        let chunk = chunk.max(1);
        let mut pass = HeadPass {
            hidden,
            targets: targets.to_vec(),
            chunk,
            precision,
            log_sums: Vec::with_capacity(targets.len()),
            log_probs: Vec::with_capacity(targets.len()),
            kept: None,
        };
        let whole = targets.len() <= chunk;
        for first in (0..targets.len()).step_by(chunk) {
            let rows = chunk.min(targets.len() - first);
            let logits = self.chunk_logits(&pass, first, rows);
            let (logits, read) = read_chunk(logits, &targets[first..first + rows]);
            for (log_sum, target) in read {
                pass.log_sums.push(log_sum);
                pass.log_probs.push(target - log_sum);
            }
            pass.kept = whole.then_some(logits);
        }
        Ok(pass)
    }

    /// The way back: adds the head's gradient to `gradients`, if it is trained, and returns the
    /// derivative by the hidden states, `[targets, hidden_size]`.
    ///
    /// `coefficients` are the derivatives of the loss by each negated log-probability.
    ///
    /// # Panics
    ///
    /// Where burn panics, when there is not one coefficient for each target.
    #[must_use]
    pub fn head_backward(
        &self,
        mut pass: HeadPass,
        coefficients: &[f32],
        gradients: &mut Gradients,
    ) -> Tensor<2> {
        let (id, weight) = self.head_weight();
        // A tied head is the embedding, and frozen with it.
        let frozen = self.head.is_none() && self.frozen_blocks > 0;
        let trained = !frozen && !self.has_adapters();
        let mut parts = Vec::new();
        let mut kept = pass.kept.take();
        for first in (0..pass.targets.len()).step_by(pass.chunk) {
            let rows = pass.chunk.min(pass.targets.len() - first);
            let of_chunk = first..first + rows;
            let logits = kept.take().unwrap_or_else(|| self.chunk_logits(&pass, first, rows));
            let d_logits = d_logits(
                logits,
                &pass.log_sums[of_chunk.clone()],
                &pass.targets[of_chunk.clone()],
                &coefficients[of_chunk],
            );
            if trained {
                let hidden = pass.hidden.clone().narrow(0, first, rows);
                gradients.add_product(id, pass.precision, [d_logits.clone().transpose(), hidden]);
            }
            parts.push(pass.precision.product(d_logits, weight.clone()));
        }
        match parts.is_empty() {
            true => pass.hidden.zeros_like(),
            false => Tensor::cat(parts, 0),
        }
    }

    fn chunk_logits(&self, pass: &HeadPass, first: usize, rows: usize) -> Tensor<2> {
        let hidden = pass.hidden.clone().narrow(0, first, rows);
        match pass.precision {
            Precision::F32 => self.logits(hidden),
            precision => precision.product(hidden, self.head_weight().1.transpose()),
        }
    }

    /// The head's matrix, `[vocab_size, hidden_size]`, which may be the embedding's.
    fn head_weight(&self) -> (ParamId, Tensor<2>) {
        let weight = self.head.as_ref().map_or(&self.embedding.weight, |head| &head.weight);
        (weight.id, weight.val())
    }
}

/// Of each row of logits the logarithm of the sum of powers, and the target's logit.
fn read_chunk(logits: Tensor<2>, targets: &[u32]) -> (Tensor<2>, Vec<(f32, f32)>) {
    if let Some(read) = kernel::log_sum_and_target(&logits, targets) {
        return (logits, read);
    }
    let largest = logits.clone().max_dim(1);
    let sum = (logits.clone() - largest.clone()).exp().sum_dim(1);
    let log_sums = values(largest + sum.log());
    let columns = indices(targets, &logits).unsqueeze_dim::<2>(1);
    let target = values(logits.clone().gather(1, columns));
    (logits, log_sums.into_iter().zip(target).collect())
}

/// The derivative of the loss by the logits: `c (softmax - one-hot)`.
fn d_logits(
    logits: Tensor<2>,
    log_sums: &[f32],
    targets: &[u32],
    coefficients: &[f32],
) -> Tensor<2> {
    let logits = match kernel::d_logits(logits, log_sums, targets, coefficients) {
        Ok(d_logits) => return d_logits,
        Err(logits) => logits,
    };
    let column = |values: &[f32]| {
        let data = TensorData::new(values.to_vec(), [values.len(), 1]);
        Tensor::<2>::from_data(data, &logits.device())
    };
    let columns = indices(targets, &logits).unsqueeze_dim::<2>(1);
    let (log_sums, coefficients) = (column(log_sums), column(coefficients));
    let softmax = (logits - log_sums).exp() * coefficients.clone();
    softmax.scatter(1, columns, coefficients.neg(), IndexingUpdateOp::Add)
}

fn indices(targets: &[u32], near: &Tensor<2>) -> Tensor<1, Int> {
    let ids: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
    Tensor::from_data(TensorData::new(ids, [targets.len()]), &near.device())
}

/// The values of a column. A device that fails gives none that are finite: the loss says so.
fn values(column: Tensor<2>) -> Vec<f32> {
    let rows = column.dims()[0];
    let data = column.try_into_data().ok().and_then(|data| data.try_to_vec::<f32>().ok());
    data.unwrap_or_else(|| vec![f32::NAN; rows])
}
