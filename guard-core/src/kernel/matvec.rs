//! A matrix times few vectors: bound by reading the matrix, which is therefore read once.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// The most vectors whose sums fit into registers beside the matrix.
pub(super) const MAX_ROWS: usize = 4;

/// Outputs a task computes: enough work to be worth handing to another thread.
const OUTPUTS_PER_TASK: usize = 64;

/// `output[r][o] = sum_i input[r][i] * weight[o][i]`, all row by row.
pub(super) fn matvec(input: &[f32], weight: &[f32], rows: usize, output: &mut [f32]) {
    let width = input.len() / rows;
    let outputs = output.len() / rows;
    let arch = Arch::new();
    // Sums of one output stand side by side first, since tasks share out the outputs.
    let mut by_output = vec![0.0; output.len()];
    by_output
        .par_chunks_mut(OUTPUTS_PER_TASK * rows)
        .zip(weight.par_chunks(OUTPUTS_PER_TASK * width))
        .for_each(|(sums, weight)| match rows {
            1 => arch.dispatch(Dots::<1> { input, weight, sums }),
            2 => arch.dispatch(Dots::<2> { input, weight, sums }),
            3 => arch.dispatch(Dots::<3> { input, weight, sums }),
            _ => arch.dispatch(Dots::<MAX_ROWS> { input, weight, sums }),
        });
    for (output_index, sums) in by_output.chunks_exact(rows).enumerate() {
        for (row, sum) in sums.iter().enumerate() {
            output[row * outputs + output_index] = *sum;
        }
    }
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
        for (weight, sums) in self.weight.chunks_exact(width).zip(self.sums.chunks_exact_mut(ROWS))
        {
            dots::<S, ROWS>(simd, self.input, weight, sums);
        }
    }
}

/// One row of the matrix times each vector. Two sums a vector hide the latency of an addition.
#[inline(always)]
fn dots<S: Simd, const ROWS: usize>(simd: S, input: &[f32], weight: &[f32], sums: &mut [f32]) {
    let width = weight.len();
    let (weights, weight_tail) = S::as_simd_f32s(weight);
    let zero = simd.splat_f32s(0.0);
    let mut totals = [[zero; 2]; ROWS];
    for (row, totals) in totals.iter_mut().enumerate() {
        let (inputs, _) = S::as_simd_f32s(&input[row * width..(row + 1) * width]);
        let (weight_pairs, weight_last) = pulp::as_arrays::<2, _>(weights);
        let (input_pairs, input_last) = pulp::as_arrays::<2, _>(inputs);
        for ([w0, w1], [x0, x1]) in weight_pairs.iter().zip(input_pairs) {
            totals[0] = simd.mul_add_f32s(*w0, *x0, totals[0]);
            totals[1] = simd.mul_add_f32s(*w1, *x1, totals[1]);
        }
        for (w, x) in weight_last.iter().zip(input_last) {
            totals[0] = simd.mul_add_f32s(*w, *x, totals[0]);
        }
    }
    for (row, (sum, [first, second])) in sums.iter_mut().zip(totals).enumerate() {
        let input_tail = &input[(row + 1) * width - weight_tail.len()..(row + 1) * width];
        let tail: f32 = weight_tail.iter().zip(input_tail).map(|(w, x)| w * x).sum();
        *sum = simd.reduce_sum_f32s(simd.add_f32s(first, second)) + tail;
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
