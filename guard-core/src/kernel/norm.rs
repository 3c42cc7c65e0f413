//! The way back through RMS norm, row by row.

use pulp::Arch;
use rayon::prelude::*;

/// Rows that a task goes through. The tasks do not depend on the number of threads, so neither
/// does the order in which their sums are added.
const ROWS_PER_TASK: usize = 32;

/// The derivatives of `y = x r g`, `r = 1 / sqrt(mean(x^2) + epsilon)`, by `x`, written to
/// `d_x`, and by `g`, returned. `x`, `derivative` and `d_x` have rows of `gamma.len()` values.
pub(super) fn rms_norm_backward(
    x: &[f32],
    gamma: &[f32],
    derivative: &[f32],
    epsilon: f32,
    d_x: &mut [f32],
) -> Vec<f32> {
    let width = gamma.len();
    let task = ROWS_PER_TASK * width;
    let arch = Arch::new();
    let sums: Vec<Vec<f32>> = d_x
        .par_chunks_mut(task)
        .zip(x.par_chunks(task).zip(derivative.par_chunks(task)))
        .map(|(d_x, (x, derivative))| {
            let mut d_gamma = vec![0.0; width];
            arch.dispatch(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(width).zip(derivative.chunks_exact(width));
                    for (d_x, (x, derivative)) in d_x.chunks_exact_mut(width).zip(rows) {
                        row_backward(x, gamma, derivative, epsilon, d_x, &mut d_gamma);
                    }
                },
            );
            d_gamma
        })
        .collect();
    let mut total = vec![0.0; width];
    for sum in sums {
        total.iter_mut().zip(sum).for_each(|(total, part)| *total += part);
    }
    total
}

#[inline(always)]
fn row_backward(
    x: &[f32],
    gamma: &[f32],
    derivative: &[f32],
    epsilon: f32,
    d_x: &mut [f32],
    d_gamma: &mut [f32],
) {
    let width = x.len() as f32;
    let inverse = (lanes(x.len(), |at| x[at] * x[at]) / width + epsilon).sqrt().recip();
    let along = lanes(x.len(), |at| derivative[at] * gamma[at] * x[at]);
    let pull = inverse * inverse * along / width;
    for (at, d_x) in d_x.iter_mut().enumerate() {
        d_gamma[at] += derivative[at] * x[at] * inverse;
        *d_x = inverse * (derivative[at] * gamma[at] - x[at] * pull);
    }
}

/// A sum in sixteen lanes, which compiles to vector instructions.
#[inline(always)]
pub(super) fn lanes(count: usize, value: impl Fn(usize) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let whole = count - count % LANES;
    for first in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += value(first + lane);
        }
    }
    for at in whole..count {
        sums[at - whole] += value(at);
    }
    sums.iter().sum()
}
