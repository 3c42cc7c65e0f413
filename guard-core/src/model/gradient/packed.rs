//! Rows of tokens one after the other, without padding between them.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::model::step::ModelError;

/// Rows of tokens for training, laid one after the other. Each row sees itself only and counts
/// its positions from 0, so it makes no difference which rows lie in a batch together.
///
/// There is no padding: a place of the batch is a token. Neighbours of equal length share their
/// attention calls, so batches sorted by length are the fastest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBatch {
    ids: Vec<u32>,
    runs: Vec<Run>,
}

/// Neighbouring rows of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The place of the first token.
    pub(super) start: usize,
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Run {
    pub(super) fn tokens(self) -> usize {
        self.rows * self.width
    }
}

impl PackedBatch {
    /// A batch of these rows.
    ///
    /// # Errors
    ///
    /// [`ModelError::EmptyBatch`] when there is no row, or a row without a token.
    pub fn new<R: AsRef<[u32]>>(rows: &[R]) -> Result<Self, ModelError> {
        let mut batch = Self { ids: Vec::new(), runs: Vec::new() };
        for row in rows {
            let row = row.as_ref();
            if row.is_empty() {
                return Err(ModelError::EmptyBatch);
            }
            match batch.runs.last_mut() {
                Some(run) if run.width == row.len() => run.rows += 1,
                _ => {
                    batch.runs.push(Run { start: batch.ids.len(), rows: 1, width: row.len() });
                }
            }
            batch.ids.extend_from_slice(row);
        }
        if batch.ids.is_empty() {
            return Err(ModelError::EmptyBatch);
        }
        Ok(batch)
    }

    /// The number of tokens of all rows.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The place of the first token and the length of each row.
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, usize)> {
        let of_run = |run: &Run| {
            let Run { start, rows, width } = *run;
            (0..rows).map(move |row| (start + row * width, width))
        };
        self.runs.iter().flat_map(of_run)
    }

    pub(super) fn token_ids(&self) -> &[u32] {
        &self.ids
    }

    /// The position of each token in its row.
    pub(super) fn positions(&self) -> Vec<usize> {
        let run = |run: &Run| {
            (0..run.tokens()).map({
                let width = run.width;
                move |at| at % width
            })
        };
        self.runs.iter().flat_map(run).collect()
    }

    /// The token ids, `[tokens]`.
    pub(super) fn ids(&self, device: &Device) -> Tensor<1, Int> {
        let ids: Vec<i32> = self.ids.iter().map(|&id| id as i32).collect();
        Tensor::from_data(TensorData::new(ids, [self.tokens()]), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_one_after_the_other() {
        let batch = PackedBatch::new(&[vec![1, 2, 3], vec![4, 5, 6], vec![7]]).unwrap();
        assert_eq!(batch.token_ids(), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(batch.positions(), [0, 1, 2, 0, 1, 2, 0]);
        let runs = [Run { start: 0, rows: 2, width: 3 }, Run { start: 6, rows: 1, width: 1 }];
        assert_eq!(batch.runs(), runs);
        for empty in [vec![], vec![vec![]], vec![vec![1], vec![]]] {
            assert_eq!(PackedBatch::new(&empty), Err(ModelError::EmptyBatch));
        }
    }
}
