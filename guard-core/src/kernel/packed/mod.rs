//! Inference on CPUs with packed weights, beside burn: every matrix is read once, in the order in which it
//! lies, and threads go through a whole pass without being called for each operation.
//!
//! What is unsafe here is of three kinds: instructions that not every processor has (`x86`, `arm`, `kernels`),
//! memory of which several threads write parts (`shared`, `inputs`, `cache`, `part`), and work that threads borrow
//! (`team`).

#[cfg(target_arch = "aarch64")]
mod arm;
mod attention;
mod cache;
mod elementwise;
mod inputs;
mod kernels;
mod lanes;
mod llama;
mod matrix;
mod pages;
mod part;
mod product;
mod shared;
mod step;
mod team;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use cache::PackedCache;
pub(crate) use llama::{PackedBlock, PackedWeights};
pub use llama::{PackedLlama, PackedPiece};
pub(crate) use matrix::{BLOCK, Grid, PackedMatrix, Row, Steps};

/// See [`crate::log_sum_exp`].
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let mut sum = 0.0;
    kernels::log_sum_exp(kernels::Level::best(), logits, &mut sum);
    sum
}

/// See [`crate::softmax`].
pub(crate) fn softmax(logits: &[f32], temperature: f32, probabilities: &mut [f32]) {
    kernels::softmax(kernels::Level::best(), logits, temperature, probabilities);
}
