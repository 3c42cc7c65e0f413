//! Tensors as they lie in files, whatever the container, under their names on the hub.

#[cfg(feature = "flex")]
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::encoding::{Encoding, WeightFloat};
use super::error::WeightsError;
use super::file::DataFile;

/// A tensor in one of the files of a [`TensorStore`]. Its range lies within the file and has
/// exactly the bytes of its shape and encoding; readers of containers see to that.
#[derive(Clone, Debug)]
pub(super) struct StoredTensor {
    pub(super) shape: Vec<usize>,
    pub(super) encoding: Encoding,
    pub(super) file: usize,
    pub(super) range: Range<u64>,
    /// Heads whose rows have interleaved rotary pairs, as GGUF keeps queries and keys. They
    /// are read in the hub's order, the two halves one after the other.
    pub(super) interleaved_heads: Option<usize>,
}

/// The tensors of all files of a model.
#[derive(Debug, Default)]
pub(super) struct TensorStore {
    pub(super) files: Vec<DataFile>,
    pub(super) tensors: BTreeMap<String, StoredTensor>,
}

/// About how many bytes are decoded at a time.
const PIECE: usize = 4 << 20;

impl TensorStore {
    /// The file that holds a tensor.
    pub(super) fn path(&self, tensor: &StoredTensor) -> &Path {
        self.files[tensor.file].path()
    }

    /// All weights of a tensor, in the hub's order, row by row. Besides the result it takes
    /// memory for one piece of the file only.
    pub(super) fn read<T: WeightFloat>(
        &self,
        tensor: &StoredTensor,
    ) -> Result<Vec<T>, WeightsError> {
        let count = tensor.shape.iter().product();
        let mut out = Vec::with_capacity(count);
        let columns = tensor.shape.last().copied().unwrap_or(1);
        let Some(row_bytes) = tensor.encoding.row_bytes(columns).filter(|&bytes| bytes > 0) else {
            return Ok(out);
        };
        match tensor.interleaved_heads {
            None => self.read_in_order(tensor, row_bytes, &mut out)?,
            Some(heads) => self.read_interleaved(tensor, row_bytes, heads, &mut out)?,
        }
        Ok(out)
    }

    /// The encoded rows of a matrix, in the hub's order.
    #[cfg(feature = "flex")]
    pub(super) fn rows(&self, tensor: &StoredTensor) -> Result<StoredRows<'_>, WeightsError> {
        let columns = tensor.shape.last().copied().unwrap_or(1);
        Ok(StoredRows {
            bytes: self.files[tensor.file].read(tensor.range.clone())?,
            row_bytes: tensor.encoding.row_bytes(columns).unwrap_or(0),
            head_dim: tensor.interleaved_heads.map(|heads| tensor.shape[0] / heads.max(1)),
        })
    }

    /// A tensor that was read and will not be again.
    #[cfg(feature = "flex")]
    pub(super) fn release(&self, tensor: &StoredTensor) {
        self.files[tensor.file].release(tensor.range.clone());
    }

    fn read_in_order<T: WeightFloat>(
        &self,
        tensor: &StoredTensor,
        row_bytes: usize,
        out: &mut Vec<T>,
    ) -> Result<(), WeightsError> {
        let file = &self.files[tensor.file];
        let piece = (PIECE / row_bytes).max(1) * row_bytes;
        let mut start = tensor.range.start;
        while start < tensor.range.end {
            let end = (start + piece as u64).min(tensor.range.end);
            tensor.encoding.decode(&file.read(start..end)?, out);
            file.release(start..end);
            start = end;
        }
        Ok(())
    }

    /// See [`interleaved`].
    fn read_interleaved<T: WeightFloat>(
        &self,
        tensor: &StoredTensor,
        row_bytes: usize,
        heads: usize,
        out: &mut Vec<T>,
    ) -> Result<(), WeightsError> {
        let file = &self.files[tensor.file];
        let rows = tensor.shape[0];
        let head_dim = rows / heads;
        let bytes = file.read(tensor.range.clone())?;
        for row in 0..rows {
            let source = interleaved(row, head_dim);
            tensor.encoding.decode(&bytes[source * row_bytes..(source + 1) * row_bytes], out);
        }
        file.release(tensor.range.clone());
        Ok(())
    }
}

/// Where the row of a head lies whose rotary pairs are interleaved: row `2 i + h` of a head is row `i` of
/// its half `h`.
fn interleaved(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * pair + half
}

/// The rows of a matrix as they lie in the file.
#[cfg(feature = "flex")]
#[derive(Debug)]
pub(super) struct StoredRows<'a> {
    bytes: Cow<'a, [u8]>,
    row_bytes: usize,
    /// Of heads with interleaved rotary pairs.
    head_dim: Option<usize>,
}

#[cfg(feature = "flex")]
impl StoredRows<'_> {
    /// The bytes of a row.
    pub(super) fn row(&self, row: usize) -> &[u8] {
        let row = self.head_dim.map_or(row, |head_dim| interleaved(row, head_dim));
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }
}
