//! One step of AdamW and the norm of a gradient, each in one pass over memory.

use pulp::Arch;
use rayon::prelude::*;

use super::norm::lanes;
use crate::model::AdamWStep;

/// Values of a task. Sums are made task by task, whatever the number of threads.
const VALUES_PER_TASK: usize = 1 << 16;

pub(super) fn adamw(
    step: AdamWStep,
    weights: &mut [f32],
    gradients: &[f32],
    means: &mut [f32],
    squares: &mut [f32],
) {
    let arch = Arch::new();
    let size = VALUES_PER_TASK;
    let moments = means.par_chunks_mut(size).zip(squares.par_chunks_mut(size));
    let values = weights.par_chunks_mut(size).zip(gradients.par_chunks(size));
    values.zip(moments).for_each(|((weights, gradients), (means, squares))| {
        arch.dispatch(
            #[inline(always)]
            || {
                let moments = means.iter_mut().zip(squares);
                for ((weight, gradient), (mean, square)) in
                    weights.iter_mut().zip(gradients).zip(moments)
                {
                    step.apply(weight, *gradient, mean, square);
                }
            },
        );
    });
}

/// The sum of squares, in 64-bit floats from task to task.
pub(super) fn square_sum(values: &[f32]) -> f64 {
    let arch = Arch::new();
    let sums: Vec<f64> = values
        .par_chunks(VALUES_PER_TASK)
        .map(|values| {
            arch.dispatch(
                #[inline(always)]
                || {
                    let parts = values.chunks(1 << 10);
                    parts.map(|v| f64::from(lanes(v.len(), |at| v[at] * v[at]))).sum()
                },
            )
        })
        .collect();
    sums.into_iter().sum()
}
