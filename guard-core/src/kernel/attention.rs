//! Causal attention of one row of tokens, forward and back, one query head a task.
//!
//! Scores exist for a slice of queries at a time and stay in the cache. What lies in the future
//! of a whole slice is not computed.

use pulp::Arch;
use rayon::prelude::*;

use super::Before;
use super::norm::lanes;
use super::product::{Matrix, multiply};
use super::swiglu::exp;

/// Queries whose scores are computed together.
const SLICE: usize = 64;

/// Sizes of a row: `width` tokens of `heads` query heads and `kv_heads` key heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Sizes {
    fn scale(self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }

    fn slices(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let width = self.width;
        (0..width).step_by(SLICE).map(move |first| first..width.min(first + SLICE))
    }

    /// Places `range` of head `head` of `[width, heads * head_dim]`.
    fn head(
        self,
        x: &[f32],
        heads: usize,
        head: usize,
        range: std::ops::Range<usize>,
    ) -> Matrix<'_> {
        let stride = heads * self.head_dim;
        let start = range.start * stride + head * self.head_dim;
        let matrix = Matrix::new(&x[start..], [range.len(), self.head_dim], [stride, 1]);
        // Rows and heads are within `x`, whose size the callers have checked.
        matrix.unwrap_or_else(|| Matrix::row_major(&[], 0, 0))
    }

    fn query(self, x: &[f32], head: usize, range: std::ops::Range<usize>) -> Matrix<'_> {
        self.head(x, self.heads, head, range)
    }

    /// The keys or values that query head `head` sees up to `end`.
    fn keys(self, x: &[f32], head: usize, end: usize) -> Matrix<'_> {
        self.head(x, self.kv_heads, head / (self.heads / self.kv_heads), 0..end)
    }

    /// Each query head's `[width, head_dim]` to their places in `[width, heads * head_dim]`;
    /// heads of a group are added up where there are fewer than query heads.
    fn join(self, of_heads: &[Vec<f32>], heads: usize, output: &mut [f32]) {
        let (group, dim) = (of_heads.len() / heads, self.head_dim);
        output.par_chunks_mut(heads * dim).enumerate().for_each(|(token, output)| {
            for (head, output) in output.chunks_exact_mut(dim).enumerate() {
                for (part, of_head) in of_heads[head * group..(head + 1) * group].iter().enumerate()
                {
                    let values = &of_head[token * dim..(token + 1) * dim];
                    match part {
                        0 => output.copy_from_slice(values),
                        _ => output.iter_mut().zip(values).for_each(|(o, v)| *o += v),
                    }
                }
            }
        });
    }
}

/// Queries, keys and values of one row, `[width, heads * head_dim]` each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) query: &'a [f32],
    pub(super) key: &'a [f32],
    pub(super) value: &'a [f32],
}

/// The output, `[width, heads * head_dim]`, written to `output`; returned are the logarithms of
/// the softmax denominators, `[heads, width]`.
pub(super) fn forward(sizes: Sizes, row: Row<'_>, output: &mut [f32]) -> Vec<f32> {
    let Sizes { width, head_dim, .. } = sizes;
    let heads: Vec<(Vec<f32>, Vec<f32>)> = (0..sizes.heads)
        .into_par_iter()
        .map(|head| {
            let mut out = vec![0.0; width * head_dim];
            let mut log_sums = vec![0.0; width];
            let mut scores = vec![0.0; SLICE * width];
            for slice in sizes.slices() {
                let (first, end) = (slice.start, slice.end);
                let scores = &mut scores[..slice.len() * end];
                let query = sizes.query(row.query, head, slice.clone());
                let key = sizes.keys(row.key, head, end).transposed();
                multiply(sizes.scale(), query, key, scores, Before::Overwritten);
                softmax(scores, end, first, &mut log_sums[slice.clone()]);
                let chances = Matrix::row_major(scores, slice.len(), end);
                let out = &mut out[first * head_dim..end * head_dim];
                multiply(1.0, chances, sizes.keys(row.value, head, end), out, Before::Overwritten);
            }
            (out, log_sums)
        })
        .collect();
    let (outputs, log_sums): (Vec<_>, Vec<_>) = heads.into_iter().unzip();
    sizes.join(&outputs, sizes.heads, output);
    log_sums.concat()
}

/// Softmax of rows of `columns` scores, of which row `i` sees the first `first + i + 1`.
fn softmax(scores: &mut [f32], columns: usize, first: usize, log_sums: &mut [f32]) {
    let arch = Arch::new();
    let rows = scores.chunks_exact_mut(columns).zip(log_sums).enumerate();
    rows.for_each(|(at, (row, log_sum))| {
        let (seen, future) = row.split_at_mut(first + at + 1);
        future.fill(0.0);
        arch.dispatch(
            #[inline(always)]
            || {
                let largest =
                    seen.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
                seen.iter_mut().for_each(|score| *score = exp(*score - largest));
                let sum = lanes(seen.len(), |at| seen[at]);
                let share = sum.recip();
                seen.iter_mut().for_each(|power| *power *= share);
                *log_sum = largest + sum.ln();
            },
        );
    });
}

/// What the way back starts from, beside the row: the output, its derivative, and the logarithms
/// that [`forward`] returned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attended<'a> {
    pub(super) output: &'a [f32],
    pub(super) derivative: &'a [f32],
    pub(super) log_sums: &'a [f32],
}

/// The derivatives by queries, keys and values, each as large as they are.
pub(super) struct Derivatives<'a> {
    pub(super) query: &'a mut [f32],
    pub(super) key: &'a mut [f32],
    pub(super) value: &'a mut [f32],
}

/// The way back; the formulas are beside the tensor operations that do the same elsewhere.
pub(super) fn backward(
    sizes: Sizes,
    row: Row<'_>,
    attended: Attended<'_>,
    derivatives: &mut Derivatives<'_>,
) {
    let heads: Vec<[Vec<f32>; 3]> = (0..sizes.heads)
        .into_par_iter()
        .map(|head| head_backward(sizes, row, attended, head))
        .collect();
    let mut by_kind: [Vec<Vec<f32>>; 3] = Default::default();
    for of_head in heads {
        by_kind.iter_mut().zip(of_head).for_each(|(all, one)| all.push(one));
    }
    let [query, key, value] = by_kind;
    sizes.join(&query, sizes.heads, derivatives.query);
    sizes.join(&key, sizes.kv_heads, derivatives.key);
    sizes.join(&value, sizes.kv_heads, derivatives.value);
}

fn head_backward(sizes: Sizes, row: Row<'_>, attended: Attended<'_>, head: usize) -> [Vec<f32>; 3] {
    let Sizes { width, head_dim, .. } = sizes;
    let [mut d_query, mut d_key, mut d_value] = [(); 3].map(|()| vec![0.0; width * head_dim]);
    let (mut chances, mut d_scores) = (vec![0.0; SLICE * width], vec![0.0; SLICE * width]);
    for slice in sizes.slices() {
        let (first, end, count) = (slice.start, slice.end, slice.len() * slice.end);
        let (chances, d_scores) = (&mut chances[..count], &mut d_scores[..count]);
        let query = sizes.query(row.query, head, slice.clone());
        let (key, value) = (sizes.keys(row.key, head, end), sizes.keys(row.value, head, end));
        let d_output = sizes.query(attended.derivative, head, slice.clone());
        multiply(sizes.scale(), query, key.transposed(), chances, Before::Overwritten);
        multiply(1.0, d_output, value.transposed(), d_scores, Before::Overwritten);
        let log_sums = &attended.log_sums[head * width..][slice.clone()];
        let along = |at: usize| {
            let start = (first + at) * sizes.heads * head_dim + head * head_dim;
            let of = |x: &[f32], column: usize| x[start + column];
            lanes(head_dim, |c| of(attended.output, c) * of(attended.derivative, c))
        };
        scores_backward(chances, d_scores, end, first, log_sums, along);
        let chances = Matrix::row_major(chances, slice.len(), end);
        let d_scores = Matrix::row_major(d_scores, slice.len(), end);
        let front = 0..end * head_dim;
        multiply(1.0, chances.transposed(), d_output, &mut d_value[front.clone()], Before::Kept);
        multiply(sizes.scale(), d_scores.transposed(), query, &mut d_key[front], Before::Kept);
        let d_query = &mut d_query[first * head_dim..end * head_dim];
        multiply(sizes.scale(), d_scores, key, d_query, Before::Overwritten);
    }
    [d_query, d_key, d_value]
}

/// Scores become probabilities, and the derivatives by these become those by the scores.
fn scores_backward(
    chances: &mut [f32],
    d_scores: &mut [f32],
    columns: usize,
    first: usize,
    log_sums: &[f32],
    along: impl Fn(usize) -> f32,
) {
    let arch = Arch::new();
    let rows = chances.chunks_exact_mut(columns).zip(d_scores.chunks_exact_mut(columns));
    for (at, ((chances, d_scores), log_sum)) in rows.zip(log_sums).enumerate() {
        let along = along(at);
        let (seen, future) = chances.split_at_mut(first + at + 1);
        let (d_seen, d_future) = d_scores.split_at_mut(first + at + 1);
        future.fill(0.0);
        d_future.fill(0.0);
        arch.dispatch(
            #[inline(always)]
            || {
                for (chance, d_score) in seen.iter_mut().zip(d_seen) {
                    *chance = exp(*chance - log_sum);
                    *d_score = *chance * (*d_score - along);
                }
            },
        );
    }
}
