//! A matrix times few vectors: bound by reading the matrix, which is therefore read once.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// The most vectors whose sums fit into registers beside the matrix.
pub(super) const MAX_ROWS: usize = 4;

/// Outputs a task computes: few, since narrow matrices are shared out evenly only in small pieces.
const OUTPUTS_PER_TASK: usize = 16;

/// Rows of the matrix that are read side by side: one stream of memory alone is slow, and their
/// sums hide the latency of an addition.
const QUAD: usize = 4;

/// `output[r][o] = sum_i input[r][i] * weight[o][i]`, all row by row.
pub(super) fn matvec(input: &[f32], weight: &[f32], rows: usize, output: &mut [f32]) {
    if rows == 1 {
        return by_output(input, weight, rows, output);
    }
    let outputs = output.len() / rows;
    let mut sums = vec![0.0; output.len()];
    by_output(input, weight, rows, &mut sums);
    for (output_index, sums) in sums.chunks_exact(rows).enumerate() {
        for (row, sum) in sums.iter().enumerate() {
            output[row * outputs + output_index] = *sum;
        }
    }
}

/// The same with the sums of one output side by side, as tasks share out the outputs.
fn by_output(input: &[f32], weight: &[f32], rows: usize, sums: &mut [f32]) {
    let width = input.len() / rows;
    let arch = Arch::new();
    sums.par_chunks_mut(OUTPUTS_PER_TASK * rows)
        .zip(weight.par_chunks(OUTPUTS_PER_TASK * width))
        .for_each(|(sums, weight)| match rows {
            1 => arch.dispatch(Dots::<1> { input, weight, sums }),
            2 => arch.dispatch(Dots::<2> { input, weight, sums }),
            3 => arch.dispatch(Dots::<3> { input, weight, sums }),
            _ => arch.dispatch(Dots::<MAX_ROWS> { input, weight, sums }),
        });
}

struct Dots<'a, const ROWS: usize> {
    input: &'a [f32],
    weight: &'a [f32],
    sums: &'a mut [f32],
}

impl<const ROWS: usize> WithSimd for Dots<'_, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.input.len() / ROWS;
        let (quads, rest) = self.weight.split_at(self.weight.len() / (QUAD * width) * QUAD * width);
        let (quad_sums, rest_sums) = self.sums.split_at_mut(quads.len() / width * ROWS);
        for (weight, sums) in
            quads.chunks_exact(QUAD * width).zip(quad_sums.chunks_exact_mut(QUAD * ROWS))
        {
            dots::<S, QUAD, ROWS>(simd, self.input, weight, sums);
        }
        for (weight, sums) in rest.chunks_exact(width).zip(rest_sums.chunks_exact_mut(ROWS)) {
            dots::<S, 1, ROWS>(simd, self.input, weight, sums);
        }
    }
}

/// `OUTPUTS` rows of the matrix times each vector.
#[inline(always)]
fn dots<S: Simd, const OUTPUTS: usize, const ROWS: usize>(
    simd: S,
    input: &[f32],
    weight: &[f32],
    sums: &mut [f32],
) {
    let width = input.len() / ROWS;
    let row = |values, row: usize| -> (&[S::f32s], &[f32]) {
        let values: &[f32] = values;
        S::as_simd_f32s(&values[row * width..(row + 1) * width])
    };
    let weights: [_; OUTPUTS] = std::array::from_fn(|output| row(weight, output));
    let inputs: [_; ROWS] = std::array::from_fn(|index| row(input, index));
    let mut totals = [[simd.splat_f32s(0.0); ROWS]; OUTPUTS];
    for place in 0..weights[0].0.len() {
        let values: [_; ROWS] = std::array::from_fn(|index| inputs[index].0[place]);
        for (totals, weights) in totals.iter_mut().zip(&weights) {
            let weight = weights.0[place];
            for (total, value) in totals.iter_mut().zip(&values) {
                *total = simd.mul_add_f32s(weight, *value, *total);
            }
        }
    }
    for (output, totals) in totals.iter().enumerate() {
        for (index, total) in totals.iter().enumerate() {
            let tails = weights[output].1.iter().zip(inputs[index].1);
            let tail: f32 = tails.map(|(weight, value)| weight * value).sum();
            sums[output * ROWS + index] = simd.reduce_sum_f32s(*total) + tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against sums in 64 bits, on shapes that fill no vector register evenly.
        #[test]
        fn it_is_a_product(rows in 1..=MAX_ROWS, width in 1..100_usize, outputs in 1..150_usize, seed in any::<u32>()) {
            let value = |index: usize| ((index as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) % 2001) as f32 / 1000.0 - 1.0;
            let input: Vec<f32> = (0..rows * width).map(value).collect();
            let weight: Vec<f32> = (0..outputs * width).map(|index| value(index + 7919)).collect();
            let mut output = vec![f32::NAN; rows * outputs];
            matvec(&input, &weight, rows, &mut output);
            for row in 0..rows {
                for out in 0..outputs {
                    let products = (0..width).map(|i| f64::from(input[row * width + i]) * f64::from(weight[out * width + i]));
                    let expected: f64 = products.sum();
                    prop_assert!((expected - f64::from(output[row * outputs + out])).abs() < 1e-4);
                }
            }
        }
    }
}
