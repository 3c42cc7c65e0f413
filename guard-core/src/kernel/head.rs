//! Softmax over the vocabulary, forward and back, one row of logits a task.

use pulp::Arch;
use rayon::prelude::*;

use super::norm::lanes;
use super::swiglu::exp;

/// Of each row of logits the logarithm of the sum of powers, and the logit of its target.
pub(super) fn log_sum_and_target(logits: &[f32], targets: &[u32]) -> Vec<(f32, f32)> {
    let vocabulary = logits.len() / targets.len().max(1);
    let arch = Arch::new();
    let read = |(row, &target): (&[f32], &u32)| {
        let log_sum = arch.dispatch(
            #[inline(always)]
            || log_sum(row),
        );
        (log_sum, row[target as usize])
    };
    logits.par_chunks(vocabulary.max(1)).zip(targets).map(read).collect()
}

#[inline(always)]
fn log_sum(row: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; 16];
    let (blocks, rest) = row.as_chunks::<16>();
    for block in blocks {
        for (largest, &value) in largest.iter_mut().zip(block) {
            *largest = if value > *largest { value } else { *largest };
        }
    }
    let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    // A row that holds NaN or an infinity has no sum: NaN says so.
    largest + lanes(row.len(), |at| exp(row[at] - largest)).ln()
}

/// Replaces logits by the derivative of the loss: `c (softmax - one-hot)`.
pub(super) fn d_logits(
    logits: &mut [f32],
    log_sums: &[f32],
    targets: &[u32],
    coefficients: &[f32],
) {
    let vocabulary = logits.len() / targets.len().max(1);
    let arch = Arch::new();
    let rows = log_sums.par_iter().zip(targets).zip(coefficients);
    logits.par_chunks_mut(vocabulary.max(1)).zip(rows).for_each(
        |(row, ((&log_sum, &target), &coefficient))| {
            arch.dispatch(
                #[inline(always)]
                || row.iter_mut().for_each(|value| *value = coefficient * exp(*value - log_sum)),
            );
            row[target as usize] -= coefficient;
        },
    );
}
