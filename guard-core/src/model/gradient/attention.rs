//! Causal attention with its way back, in slices of queries.
//!
//! A slice of queries sees the keys up to its own end, so half of the scores are never computed,
//! and no more of them than one slice's are in memory. Forward keeps the logarithm of each
//! softmax's denominator; back computes the probabilities again from it.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::packed::{PackedBatch, Run};
use super::product::Precision;
use crate::kernel::{self, Attending};
use crate::model::attention::Attention;

/// Queries of a slice: on GPUs few and large operations, on CPUs scores that stay in the cache.
const SLICE: usize = 256;

/// Queries, keys and values as the attention reads them, all `[tokens, heads * head_dim]`.
#[derive(Clone, Debug)]
pub(super) struct Heads {
    pub(super) query: Tensor<2>,
    pub(super) key: Tensor<2>,
    pub(super) value: Tensor<2>,
}

/// What attention gives: the output, `[tokens, heads * head_dim]`, and what the way back needs to
/// compute the probabilities again.
#[derive(Clone, Debug)]
pub(super) struct Attended {
    pub(super) output: Tensor<2>,
    log_sums: LogSums,
}

/// The logarithms of softmax denominators, as they came out.
#[derive(Clone, Debug)]
enum LogSums {
    /// The kernel's, row by row `[heads, width]`.
    Kernel(Vec<f32>),
    /// One for each slice, `[rows * kv_heads, group * queries, 1]`.
    Slices(Vec<Tensor<3>>),
}

/// The queries from `first` to `end` of the rows of a run, and the keys before `end`.
#[derive(Clone, Copy)]
struct Slice {
    run: Run,
    first: usize,
    end: usize,
}

impl Slice {
    fn all(batch: &PackedBatch) -> impl Iterator<Item = Self> {
        batch.runs().iter().flat_map(|&run| {
            let firsts = (0..run.width).step_by(SLICE);
            firsts.map(move |first| Self { run, first, end: (first + SLICE).min(run.width) })
        })
    }

    fn queries(self) -> usize {
        self.end - self.first
    }
}

/// The sizes of an attention layer.
#[derive(Clone, Copy)]
struct Sizes {
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    precision: Precision,
}

impl Sizes {
    fn of(layer: &Attention, precision: Precision) -> Self {
        let group = layer.heads / layer.kv_heads;
        Self { kv_heads: layer.kv_heads, group, head_dim: layer.head_dim, precision }
    }

    fn scale(self) -> f64 {
        (self.head_dim as f64).sqrt().recip()
    }

    /// The slice's rows of `[tokens, heads * head_dim]`, as `[rows * kv_heads, group * queries,
    /// head_dim]`: the query heads of a group become rows of one product.
    fn queries(self, x: &Tensor<2>, slice: Slice) -> Tensor<3> {
        let Slice { run, first, .. } = slice;
        let (kv, group, dim, queries) = (self.kv_heads, self.group, self.head_dim, slice.queries());
        x.clone()
            .narrow(0, run.start, run.tokens())
            .reshape([run.rows, run.width, kv, group, dim])
            .narrow(1, first, queries)
            .permute([0, 2, 3, 1, 4])
            .reshape([run.rows * kv, group * queries, dim])
    }

    /// The inverse of [`Sizes::queries`]: `[rows, queries, heads * head_dim]`.
    fn join_queries(self, x: Tensor<3>, slice: Slice) -> Tensor<3> {
        let (kv, group, dim, queries) = (self.kv_heads, self.group, self.head_dim, slice.queries());
        x.reshape([slice.run.rows, kv, group, queries, dim]).permute([0, 3, 1, 2, 4]).reshape([
            slice.run.rows,
            queries,
            kv * group * dim,
        ])
    }

    /// A run's keys or values, `[rows * kv_heads, width, head_dim]`.
    fn keys(self, x: &Tensor<2>, run: Run) -> Tensor<3> {
        let (kv, dim) = (self.kv_heads, self.head_dim);
        x.clone()
            .narrow(0, run.start, run.tokens())
            .reshape([run.rows, run.width, kv, dim])
            .swap_dims(1, 2)
            .reshape([run.rows * kv, run.width, dim])
    }

    /// The inverse of [`Sizes::keys`]: `[rows * width, kv_heads * head_dim]`.
    fn join_keys(self, x: Tensor<3>, run: Run) -> Tensor<2> {
        let (kv, dim) = (self.kv_heads, self.head_dim);
        x.reshape([run.rows, kv, run.width, dim]).swap_dims(1, 2).reshape([run.tokens(), kv * dim])
    }

    /// The scaled scores of a slice, hidden ones at minus infinity: `[rows * kv_heads,
    /// group * queries, end]`.
    fn scores(self, query: Tensor<3>, key: Tensor<3>, slice: Slice) -> Tensor<3> {
        let device = query.device();
        let scores = self.precision.batched(query, key.swap_dims(1, 2)) * self.scale();
        let mask = future(slice, self.group, &device).expand(scores.dims());
        scores.mask_fill(mask, f32::NEG_INFINITY)
    }
}

/// Which keys lie after a query: `[1, group * queries, end]`.
fn future(slice: Slice, group: usize, device: &Device) -> Tensor<3, Bool> {
    let position = |values: std::ops::Range<usize>| {
        let values: Vec<i32> = values.map(|value| value as i32).collect();
        let count = values.len();
        Tensor::<1, Int>::from_data(TensorData::new(values, [count]), device)
    };
    let (queries, keys) = (slice.queries(), slice.end);
    let query =
        position(slice.first..slice.end).reshape([1, queries, 1]).expand([1, queries, keys]);
    let key = position(0..keys).reshape([1, 1, keys]).expand([1, queries, keys]);
    key.greater(query).expand([group, queries, keys]).reshape([1, group * queries, keys])
}

/// Attention of all rows.
pub(super) fn forward(
    layer: &Attention,
    heads: &Heads,
    batch: &PackedBatch,
    precision: Precision,
) -> Attended {
    let three = [&heads.query, &heads.key, &heads.value];
    if let Some((output, log_sums)) = kernel::attention(&for_kernel(layer, batch), three) {
        return Attended { output, log_sums: LogSums::Kernel(log_sums) };
    }
    by_slices(layer, heads, batch, precision)
}

/// Attention in operations of any backend.
fn by_slices(
    layer: &Attention,
    heads: &Heads,
    batch: &PackedBatch,
    precision: Precision,
) -> Attended {
    let sizes = Sizes::of(layer, precision);
    let (mut outputs, mut log_sums) = (Vec::new(), Vec::new());
    for &run in batch.runs() {
        let (keys, values) = (sizes.keys(&heads.key, run), sizes.keys(&heads.value, run));
        let mut of_run = Vec::new();
        for slice in Slice::all(batch).filter(|slice| slice.run == run) {
            let (key, value) =
                (keys.clone().narrow(1, 0, slice.end), values.clone().narrow(1, 0, slice.end));
            let scores = sizes.scores(sizes.queries(&heads.query, slice), key, slice);
            let largest = scores.clone().max_dim(2);
            let powers = (scores - largest.clone()).exp();
            let sum = powers.clone().sum_dim(2);
            let output = precision.batched(powers, value) / sum.clone();
            of_run.push(sizes.join_queries(output, slice));
            log_sums.push(largest + sum.log());
        }
        outputs.push(Tensor::cat(of_run, 1).flatten::<2>(0, 1));
    }
    Attended { output: Tensor::cat(outputs, 0), log_sums: LogSums::Slices(log_sums) }
}

/// How a kernel is told of the batch.
fn for_kernel(layer: &Attention, batch: &PackedBatch) -> Attending {
    let &Attention { heads, kv_heads, head_dim, .. } = layer;
    Attending { rows: batch.rows().collect(), heads, kv_heads, head_dim }
}

/// The way back: the derivatives by queries, keys and values.
///
/// With `P` the probabilities, `O = P V` the output and `s` the scale:
///
/// ```text
/// dV = P^T dO     dP = dO V^T     dS = P (dP - rowsum(dO O))     dQ = s dS K     dK = s dS^T Q
/// ```
pub(super) fn backward(
    layer: &Attention,
    heads: &Heads,
    attended: &Attended,
    derivative: &Tensor<2>,
    batch: &PackedBatch,
    precision: Precision,
) -> Heads {
    if let LogSums::Kernel(log_sums) = &attended.log_sums {
        let three = [&heads.query, &heads.key, &heads.value];
        let (attending, output) = (for_kernel(layer, batch), &attended.output);
        if let Some([query, key, value]) =
            kernel::attention_backward(&attending, three, output, log_sums, derivative)
        {
            return Heads { query, key, value };
        }
    }
    // A kernel's logarithms lie in another order: where it does not go back, they are made again.
    let again;
    let of_slices = match &attended.log_sums {
        LogSums::Slices(log_sums) => log_sums,
        LogSums::Kernel(_) => {
            again = by_slices(layer, heads, batch, precision);
            match &again.log_sums {
                LogSums::Slices(log_sums) => log_sums,
                LogSums::Kernel(_) => &Vec::new(),
            }
        }
    };
    let sizes = Sizes::of(layer, precision);
    let mut log_sums = of_slices.iter();
    let mut parts: [Vec<Tensor<2>>; 3] = Default::default();
    for &run in batch.runs() {
        let (keys, values) = (sizes.keys(&heads.key, run), sizes.keys(&heads.value, run));
        let (mut d_keys, mut d_values) = (keys.zeros_like(), values.zeros_like());
        let mut d_queries = Vec::new();
        for slice in Slice::all(batch).filter(|slice| slice.run == run) {
            let Some(log_sum) = log_sums.next() else { break };
            let up_to = |x: &Tensor<3>| x.clone().narrow(1, 0, slice.end);
            let (key, value) = (up_to(&keys), up_to(&values));
            let query = sizes.queries(&heads.query, slice);
            let d_output = sizes.queries(derivative, slice);
            let along = (d_output.clone() * sizes.queries(&attended.output, slice)).sum_dim(2);
            let scores = sizes.scores(query.clone(), key.clone(), slice);
            let chances = (scores - log_sum.clone()).exp();
            let d_value = precision.batched(chances.clone().swap_dims(1, 2), d_output.clone());
            let d_chances = precision.batched(d_output, value.swap_dims(1, 2));
            let d_scores = chances * (d_chances - along) * sizes.scale();
            let d_key = precision.batched(d_scores.clone().swap_dims(1, 2), query);
            d_queries.push(sizes.join_queries(precision.batched(d_scores, key), slice));
            d_keys = add_front(d_keys, d_key);
            d_values = add_front(d_values, d_value);
        }
        parts[0].push(Tensor::cat(d_queries, 1).flatten::<2>(0, 1));
        parts[1].push(sizes.join_keys(d_keys, run));
        parts[2].push(sizes.join_keys(d_values, run));
    }
    let [query, key, value] = parts.map(|parts| Tensor::cat(parts, 0));
    Heads { query, key, value }
}

/// Adds `part` to the first keys of `sum`.
fn add_front(sum: Tensor<3>, part: Tensor<3>) -> Tensor<3> {
    let [batch, keys, dim] = part.dims();
    if sum.dims()[1] == keys {
        return sum + part;
    }
    let front = sum.clone().narrow(1, 0, keys) + part;
    sum.slice_assign([0..batch, 0..keys, 0..dim], front)
}
