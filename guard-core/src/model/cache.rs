//! The key and value cache: an explicit value that the caller owns.

use std::fmt;

use burn::tensor::{DType, Device, Tensor, s};

use super::step::{ModelError, Step};
use crate::config::LlamaConfig;

/// Keys and values of the tokens that rows of a batch have read so far.
///
/// Rows have lengths of their own. Row `r` of layer `l` holds its tokens in the first
/// `lengths[r]` places of contiguous `[kv_heads, capacity, head_dim]` slices, written in place
/// as long as nobody else holds the tensors. The capacity grows as needed, in steps that keep
/// the number of copies logarithmic.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    lengths: Vec<usize>,
    capacity: usize,
}

/// What a cache was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheShape {
    /// Rows of the batch.
    pub rows: usize,
    /// Blocks of the model.
    pub layers: usize,
    /// Key and value heads of a block.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
}

impl fmt::Display for CacheShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, layers, kv_heads, head_dim } = self;
        write!(f, "{rows} rows, {layers} layers, {kv_heads} heads of {head_dim}")
    }
}

/// What one row has read, ready to be the beginning of other rows.
#[derive(Clone, Debug)]
pub struct KvPrefix {
    layers: Vec<LayerCache>,
    length: usize,
}

/// Keys and values of one layer, each `[rows, kv_heads, capacity, head_dim]`.
#[derive(Clone, Debug)]
pub(super) struct LayerCache {
    keys: Tensor<4>,
    values: Tensor<4>,
}

/// Capacities are multiples of this, so that shapes recur and kernels are reused.
const BUCKET: usize = 128;

impl KvCache {
    /// See [`Llama::cache`](super::Llama::cache).
    pub(super) fn new(
        config: &LlamaConfig,
        [rows, capacity]: [usize; 2],
        device: &Device,
        dtype: DType,
    ) -> Self {
        let capacity = capacity.next_multiple_of(BUCKET);
        let shape = [rows, config.kv_heads, capacity, config.head_dim];
        let zeros = || Tensor::zeros(shape, (device, dtype));
        let layer = |_| LayerCache { keys: zeros(), values: zeros() };
        Self { layers: (0..config.layers).map(layer).collect(), lengths: vec![0; rows], capacity }
    }

    /// The number of tokens in each row.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// How many tokens a row can hold before the cache grows.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The beginning of row `row`, up to `length` tokens of it.
    ///
    /// # Panics
    ///
    /// Panics if there is no such row, if it is shorter than `length`, or if `length` is 0.
    #[must_use]
    pub fn prefix(&self, row: usize, length: usize) -> KvPrefix {
        assert!(length > 0, "a prefix has at least one token");
        assert!(length <= self.lengths[row], "row {row} has {} tokens", self.lengths[row]);
        let cut = |tensor: &Tensor<4>| tensor.clone().narrow(0, row, 1).narrow(2, 0, length);
        KvPrefix { layers: self.layers.iter().map(|layer| layer.map(cut)).collect(), length }
    }

    /// A cache of `rows` rows that all begin with `prefix`, with room for `capacity` tokens each.
    ///
    /// # Panics
    ///
    /// Panics if `rows` is 0.
    #[must_use]
    pub fn from_prefix(prefix: &KvPrefix, rows: usize, capacity: usize) -> Self {
        assert!(rows > 0, "a cache has at least one row");
        let capacity = capacity.max(prefix.length).next_multiple_of(BUCKET);
        let spread = |tensor: &Tensor<4>| {
            let [_, heads, length, width] = tensor.dims();
            let options = (&tensor.device(), tensor.dtype());
            Tensor::zeros([rows, heads, capacity, width], options).slice_assign(
                s![.., .., 0..length, ..],
                tensor.clone().expand([rows, heads, length, width]),
            )
        };
        Self {
            layers: prefix.layers.iter().map(|layer| layer.map(spread)).collect(),
            lengths: vec![prefix.length; rows],
            capacity,
        }
    }

    /// A cache whose row `i` is a copy of this cache's row `rows[i]`: drops rows, reorders them,
    /// or forks one into several.
    ///
    /// # Panics
    ///
    /// Panics if there is no such row, or if `rows` is empty.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        assert!(!rows.is_empty(), "a cache has at least one row");
        let lengths = rows.iter().map(|&row| self.lengths[row]).collect();
        let pick = |tensor: &Tensor<4>| {
            let picked = rows.iter().map(|&row| tensor.clone().narrow(0, row, 1)).collect();
            Tensor::cat(picked, 0)
        };
        let layers = self.layers.iter().map(|layer| layer.map(pick)).collect();
        Self { layers, lengths, capacity: self.capacity }
    }

    /// Forgets what row `row` read after its first `length` tokens.
    ///
    /// # Panics
    ///
    /// Panics if there is no such row, or if it is shorter than `length`.
    pub fn truncate(&mut self, row: usize, length: usize) {
        assert!(length <= self.lengths[row], "row {row} has {} tokens", self.lengths[row]);
        self.lengths[row] = length;
    }

    /// Whether this cache serves such a model and that many rows.
    pub(super) fn check(&self, config: &LlamaConfig, rows: usize) -> Result<(), ModelError> {
        let [_, kv_heads, _, head_dim] = self.layers.first().map_or([0; 4], |l| l.keys.dims());
        let found =
            CacheShape { rows: self.lengths.len(), layers: self.layers.len(), kv_heads, head_dim };
        let expected = CacheShape {
            rows,
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        };
        if expected == found { Ok(()) } else { Err(ModelError::CacheMismatch { expected, found }) }
    }

    /// The layers, to be written by a forward call and given back to [`KvCache::finish`].
    pub(super) fn begin(&mut self, step: &Step) -> Vec<LayerCache> {
        let needed = step.keys();
        if needed > self.capacity {
            self.capacity = needed.max(self.capacity + self.capacity / 2).next_multiple_of(BUCKET);
            let capacity = self.capacity;
            self.layers = self.layers.iter().map(|layer| layer.grown(capacity)).collect();
        }
        std::mem::take(&mut self.layers)
    }

    /// Takes the layers back after a forward call.
    pub(super) fn finish(&mut self, step: &Step, layers: Vec<LayerCache>) {
        self.layers = layers;
        self.lengths.iter_mut().zip(&step.lengths).for_each(|(length, new)| *length += new);
    }
}

impl KvPrefix {
    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the prefix holds no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl LayerCache {
    fn map(&self, f: impl Fn(&Tensor<4>) -> Tensor<4>) -> Self {
        Self { keys: f(&self.keys), values: f(&self.values) }
    }

    fn grown(&self, capacity: usize) -> Self {
        self.map(|tensor| {
            let [rows, heads, old, width] = tensor.dims();
            let options = (&tensor.device(), tensor.dtype());
            let room = Tensor::zeros([rows, heads, capacity - old, width], options);
            Tensor::cat(vec![tensor.clone(), room], 2)
        })
    }

    /// Writes the step's new keys and values, `[rows, kv_heads, width, head_dim]`, behind what
    /// each row holds.
    pub(super) fn append(self, step: &Step, keys: Tensor<4>, values: Tensor<4>) -> Self {
        Self { keys: write(self.keys, step, keys), values: write(self.values, step, values) }
    }

    /// Keys and values of the longest row's tokens, `[rows, kv_heads, keys, head_dim]`.
    pub(super) fn view(&self, keys: usize) -> (Tensor<4>, Tensor<4>) {
        let cut = |tensor: &Tensor<4>| tensor.clone().narrow(2, 0, keys);
        (cut(&self.keys), cut(&self.values))
    }
}

fn write(target: Tensor<4>, step: &Step, new: Tensor<4>) -> Tensor<4> {
    let first = (step.starts[0], step.lengths[0]);
    let uniform = step.starts.iter().zip(&step.lengths).all(|(&s, &l)| (s, l) == first);
    if uniform {
        let (start, length) = first;
        return target.slice_assign(s![.., .., start..start + length, ..], new);
    }
    let places = step.starts.iter().zip(&step.lengths).enumerate();
    places.fold(target, |target, (row, (&start, &length))| {
        target.slice_assign(
            s![row..row + 1, .., start..start + length, ..],
            new.clone().slice(s![row..row + 1, .., 0..length, ..]),
        )
    })
}
