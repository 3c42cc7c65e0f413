//! One call of the forward path: which tokens, at which positions, seeing what.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::cache::{CacheShape, KvCache};
use super::rope::{Rope, Rotation};
use crate::config::LlamaConfig;

/// Rows of tokens of unequal length, padded on the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    width: usize,
}

impl TokenBatch {
    /// A batch of these rows.
    ///
    /// # Errors
    ///
    /// [`ModelError::EmptyBatch`] when there is no row, or a row without a token.
    pub fn new<R: AsRef<[u32]>>(rows: &[R]) -> Result<Self, ModelError> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.as_ref().len()).collect();
        let width = lengths.iter().copied().max().unwrap_or(0);
        if lengths.contains(&0) || width == 0 {
            return Err(ModelError::EmptyBatch);
        }
        let mut ids = Vec::with_capacity(rows.len() * width);
        for row in rows {
            ids.extend_from_slice(row.as_ref());
            ids.resize(ids.len().next_multiple_of(width), 0);
        }
        Ok(Self { ids, lengths, width })
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// The length of the longest row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The number of tokens of each row, padding not counted.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The index of each row's last token among the `rows * width` places of the batch.
    #[must_use]
    pub fn last_places(&self) -> Vec<usize> {
        self.lengths.iter().enumerate().map(|(row, length)| row * self.width + length - 1).collect()
    }

    /// The token ids, `[rows, width]`.
    pub(super) fn ids(&self, device: &Device) -> Tensor<2, Int> {
        let ids: Vec<i32> = self.ids.iter().map(|&id| id as i32).collect();
        Tensor::from_data(TensorData::new(ids, [self.rows(), self.width]), device)
    }
}

/// A call that the model cannot compute.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// There is no row, or a row without a token.
    #[error("a batch needs at least one row, and each row at least one token")]
    EmptyBatch,
    /// A token is not in the vocabulary.
    #[error("token {id} is not in the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        id: u32,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// A model has no such block.
    #[error("there is no block {layer}: the model has {layers}, counted from 0")]
    LayerOutOfRange {
        /// The block.
        layer: usize,
        /// How many there are.
        layers: usize,
    },
    /// A block that is to be taken twice.
    #[error("block {layer} is named twice")]
    LayerTwice {
        /// The block.
        layer: usize,
    },
    /// A token without which texts have no beginning or no end.
    #[error("token {id} begins or ends texts and would be lost")]
    TokenLost {
        /// The token.
        id: u32,
    },
    /// A model without blocks or tokens.
    #[error("a model needs at least one block and one token")]
    NothingLeft,
    /// A row would be longer than the model's positions reach.
    #[error("{tokens} tokens do not fit into a context of {limit}")]
    ContextFull {
        /// The length that the row would have.
        tokens: usize,
        /// The positions of the model.
        limit: usize,
    },
    /// The cache was made for other rows or another model.
    #[error("the cache has {found}, the call needs {expected}")]
    CacheMismatch {
        /// What the call needs.
        expected: CacheShape,
        /// What the cache has.
        found: CacheShape,
    },
}

/// What all blocks of one forward call share.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) rows: usize,
    pub(super) width: usize,
    /// New tokens of each row.
    pub(super) lengths: Vec<usize>,
    /// Tokens that each row's cache holds already.
    pub(super) starts: Vec<usize>,
    pub(super) rotation: Rotation,
    pub(super) mask: Mask,
}

/// What a query may not see.
#[derive(Clone, Debug)]
pub(super) enum Mask {
    /// Nothing is hidden: one new token a row, all rows equally long.
    None,
    /// Each position sees itself and what stands before it.
    Causal,
    /// `true` hides: `[rows, 1, width, keys]`.
    Explicit(Box<Tensor<4, Bool>>),
}

impl Step {
    pub(super) fn new(
        config: &LlamaConfig,
        rope: &Rope,
        tokens: &TokenBatch,
        cache: Option<&KvCache>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        check(config, tokens, cache)?;
        let (rows, width) = (tokens.rows(), tokens.width());
        let starts = cache.map_or_else(|| vec![0; rows], |cache| cache.lengths().to_vec());
        let positions: Vec<usize> = starts.iter().flat_map(|&start| start..start + width).collect();
        // Rows at equal positions share one table.
        let rotation = if starts.iter().all(|start| *start == starts[0]) {
            rope.at(&positions[..width], [1, width], device)
        } else {
            rope.at(&positions, [rows, width], device)
        };
        let mask = Mask::new(&starts, tokens, device);
        Ok(Self { rows, width, lengths: tokens.lengths.clone(), starts, rotation, mask })
    }

    /// The length of the longest row after this step.
    pub(super) fn keys(&self) -> usize {
        let ends = self.starts.iter().zip(&self.lengths).map(|(start, length)| start + length);
        ends.max().unwrap_or(0)
    }
}

impl Mask {
    /// Padding stands to the right of a row's tokens, so the causal rule alone hides it from
    /// them; what the padding itself sees is of no account.
    fn new(starts: &[usize], tokens: &TokenBatch, device: &Device) -> Self {
        let width = tokens.width();
        if starts.iter().all(|&start| start == 0) {
            return if width == 1 { Self::None } else { Self::Causal };
        }
        let ends = || starts.iter().zip(tokens.lengths()).map(|(start, length)| start + length);
        let keys = ends().max().unwrap_or(0);
        if width == 1 && ends().all(|end| end == keys) {
            return Self::None;
        }
        let hidden: Vec<bool> = starts
            .iter()
            .flat_map(|&start| (0..width).map(move |query| start + query))
            .flat_map(|position| (0..keys).map(move |key| key > position))
            .collect();
        let shape = [starts.len(), 1, width, keys];
        Self::Explicit(Box::new(Tensor::from_data(TensorData::new(hidden, shape), device)))
    }
}

fn check(
    config: &LlamaConfig,
    tokens: &TokenBatch,
    cache: Option<&KvCache>,
) -> Result<(), ModelError> {
    let vocab_size = config.vocab_size;
    if let Some(&id) = tokens.ids.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(ModelError::TokenOutOfRange { id, vocab_size });
    }
    if let Some(cache) = cache {
        cache.check(config, tokens.rows())?;
    }
    let start = |row: usize| cache.map_or(0, |cache| cache.lengths()[row]);
    let limit = config.max_positions;
    let ends = tokens.lengths.iter().enumerate().map(|(row, length)| start(row) + length);
    match ends.max() {
        Some(tokens) if tokens > limit => Err(ModelError::ContextFull { tokens, limit }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_on_the_right() {
        let batch = TokenBatch::new(&[vec![1, 2, 3], vec![4]]).unwrap();
        assert_eq!(batch.ids, [1, 2, 3, 4, 0, 0]);
        assert_eq!(batch.lengths(), [3, 1]);
        assert_eq!(batch.last_places(), [2, 3]);
        assert_eq!(TokenBatch::new::<Vec<u32>>(&[]).unwrap_err(), ModelError::EmptyBatch);
        assert_eq!(TokenBatch::new(&[vec![1], vec![]]).unwrap_err(), ModelError::EmptyBatch);
    }
}
